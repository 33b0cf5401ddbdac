package shard

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
)

// Local records of a shard's store.
var (
	// stateRecord holds a kvdpb.ShardState; it is written when it changes.
	stateRecord = []byte("shard")
	// progressRecord holds what every batch of writes changes.
	progressRecord = []byte("shard-progress")
)

const (
	progressFormat = 1
	progressLen    = 1 + 2*8
)

// state is the replicated state of a shard beside its keys: a function of the
// log alone. Messages and spans that it points to are never changed.
type state struct {
	ownership ownership.State
	// desc is nil until the first Init of a group that was not seeded.
	desc *kvdpb.Descriptor
	span keyspace.Span
	// pending is the child of a split that is not done, pendingRevision the
	// last revision when the split applied.
	pending         *kvdpb.Descriptor
	pendingRevision int64
	initialized     bool
	// lastRevision is the largest revision that this log applied, or that was
	// inherited with the split. It is not the store's, which may have been
	// seeded by a parent that was further on.
	lastRevision int64
	txns         txnTable
	// leaseSeq is the place of the epoch's next decision about leases.
	leaseSeq uint64
	// frozen is set in the right shard of a merge, absorbing in the left one.
	// mergeFloor is the largest attempt to merge that is over here.
	frozen     *kvdpb.ShardFrozen
	absorbing  *kvdpb.ShardAbsorbing
	mergeFloor uint64
}

// spanOf returns the keys that a descriptor names.
func spanOf(d *kvdpb.Descriptor) keyspace.Span {
	return keyspace.Span{Start: d.GetStart(), End: d.GetEnd()}
}

// record encodes what stateRecord holds.
func (s *state) record() ([]byte, error) {
	o := s.ownership.Proto()
	// The sequence is part of the progress.
	o.NextSeq = 0
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&kvdpb.ShardState{
		Descriptor_:     s.desc,
		Ownership:       o,
		Initialized:     s.initialized,
		Pending:         s.pending,
		PendingRevision: s.pendingRevision,
		LeaseSeq:        s.leaseSeq,
		Frozen:          s.frozen,
		Absorbing:       s.absorbing,
		MergeFloor:      s.mergeFloor,
	})
	if err != nil {
		return nil, fmt.Errorf("encode shard state: %w", err)
	}
	return b, nil
}

// appendProgress encodes what progressRecord holds.
func (s *state) appendProgress(dst []byte) []byte {
	dst = append(dst, progressFormat)
	dst = binary.BigEndian.AppendUint64(dst, s.ownership.NextSeq)
	return binary.BigEndian.AppendUint64(dst, uint64(s.lastRevision))
}

// load reads the state from its records, either of which may be absent.
func (s *state) load(record, progress []byte) error {
	*s = state{txns: s.txns}
	var m kvdpb.ShardState
	if err := proto.Unmarshal(record, &m); err != nil {
		return fmt.Errorf("decode shard state: %w", err)
	}
	s.ownership = ownership.FromProto(m.GetOwnership())
	s.desc = m.GetDescriptor_()
	s.span = spanOf(s.desc)
	s.pending = m.GetPending()
	s.pendingRevision = m.GetPendingRevision()
	s.initialized = m.GetInitialized()
	s.leaseSeq = m.GetLeaseSeq()
	s.frozen, s.absorbing, s.mergeFloor = m.GetFrozen(), m.GetAbsorbing(), m.GetMergeFloor()
	if progress == nil {
		return nil
	}
	if len(progress) != progressLen || progress[0] != progressFormat {
		return fmt.Errorf("decode shard progress: %d bytes of unknown form", len(progress))
	}
	s.ownership.NextSeq = binary.BigEndian.Uint64(progress[1:])
	s.lastRevision = int64(binary.BigEndian.Uint64(progress[9:]))
	return nil
}

// seed returns the local records that the pending child's store begins with. It
// is a function of the Split entry alone.
func (s *state) seed() (map[string][]byte, error) {
	child := state{
		desc:         s.pending,
		span:         spanOf(s.pending),
		lastRevision: s.pendingRevision,
	}
	record, err := child.record()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		string(stateRecord):    record,
		string(progressRecord): child.appendProgress(nil),
	}, nil
}
