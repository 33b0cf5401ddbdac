package shard

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// RestoredRecords returns the local records that the store of a shard begins with
// whose keys come from a snapshot file. They are a function of descriptor and
// revision, so that all replicas begin with the same state; revision is the
// cluster's at its beginning, and every write of the shard will have a larger one.
func RestoredRecords(d *kvdpb.Descriptor, revision int64) (map[string][]byte, error) {
	s := state{desc: d, span: spanOf(d), lastRevision: revision}
	record, err := s.record()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		string(stateRecord):    record,
		string(progressRecord): s.appendProgress(nil),
	}, nil
}

// RestoredLease returns the local record of a lease that a snapshot file holds,
// for the store of the shard that holds the lease's key. Its spans must be those
// of user keys in which any are attached to it.
func RestoredLease(l *kvdpb.LeaseRecord) (name, record []byte, err error) {
	record, err = proto.MarshalOptions{Deterministic: true}.Marshal(l)
	if err != nil {
		return nil, nil, fmt.Errorf("encode lease: %w", err)
	}
	return leaseRecord(l.GetId()), record, nil
}
