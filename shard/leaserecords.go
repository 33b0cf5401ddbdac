package shard

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// The record of a lease is a local record of the store of the shard that holds
// its key, so writing one takes no revision. Owners decide (lessor), apply
// writes down.

// leaseRecords begins the names of lease records.
var leaseRecords = []byte("lease/")

// leaseRecord names the local record of a lease.
func leaseRecord(id int64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, len(leaseRecords)+8), leaseRecords...), uint64(id))
}

// stageLeases adds an owner's decisions to the store's batch.
func stageLeases(staged *mvcc.Batch, c *kvdpb.ShardLeases) error {
	for _, l := range c.GetSet() {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(l)
		if err != nil {
			return fmt.Errorf("encode lease: %w", err)
		}
		staged.SetLocal(leaseRecord(l.GetId()), b)
	}
	for _, id := range c.GetDrop() {
		staged.DeleteLocal(leaseRecord(id))
	}
	return nil
}

// localRecords are a store, or a snapshot of one.
type localRecords interface {
	ScanLocal(prefix []byte, fn func(name, value []byte) error) error
}

// scanLeases calls fn with the records of leases whose keys lie in a span.
func scanLeases(store localRecords, span keyspace.Span, fn func(name, record []byte) error) error {
	if !span.Overlaps(keyspace.Leases()) {
		return nil
	}
	return store.ScanLocal(leaseRecords, func(name, record []byte) error {
		if len(name) != len(leaseRecords)+8 {
			return fmt.Errorf("lease record with the name %x", name)
		}
		if !span.Contains(keyspace.Lease(int64(binary.BigEndian.Uint64(name[len(leaseRecords):])))) {
			return nil
		}
		return fn(name, record)
	})
}

// seedLeases adds the leases of a child's span to its first local records.
func seedLeases(local map[string][]byte, parent *mvcc.Store, span keyspace.Span) error {
	return scanLeases(parent, span, func(name, record []byte) error {
		local[string(name)] = append([]byte(nil), record...)
		return nil
	})
}

// dropLeases removes the leases of a span that a child has taken over.
func dropLeases(staged *mvcc.Batch, store *mvcc.Store, span keyspace.Span) error {
	return scanLeases(store, span, func(name, _ []byte) error {
		staged.DeleteLocal(name)
		return nil
	})
}
