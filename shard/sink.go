package shard

import (
	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Event is one key that one revision changed.
type Event struct {
	// Revision is the transaction's revision; Sub numbers the changes within it
	// in the order in which the transaction made them.
	Revision, Sub int64
	// KV is the new state of the key, under its encoded key (package keyspace).
	// Of a tombstone only Key and ModRevision are set. The previous state is read
	// from the store at Revision-1. Sinks may keep KV but never change it.
	KV *mvccpb.KeyValue
	// Tombstone says that the key was deleted.
	Tombstone bool
}

// Sink takes in what the replicas of a member apply (package watch implements
// it). All calls for one shard come from one goroutine at a time, in the order
// of the shard's log, after the batch is committed: what an event names can be
// read from the store. A sink must not block and must not call the replica's
// store to write.
type Sink interface {
	// Opened begins the calls for a shard, once its first entry gave it a
	// descriptor. lastRevision is the largest revision
	// that is applied, applied the raft index of the store.
	Opened(shard uint64, desc *kvdpb.Descriptor, applied uint64, lastRevision int64)
	// Applied hands over the events of the log up to index applied, in revision
	// order; there may be none. A revision is never spread over two calls.
	Applied(shard uint64, applied uint64, events []Event)
	// Restored says that the replica jumped ahead by a snapshot: events between
	// the last Applied and lastRevision were never handed over and must be read
	// from the store's revision index. The descriptor may have changed.
	Restored(shard uint64, desc *kvdpb.Descriptor, applied uint64, lastRevision int64)
	// Split says that from index applied on the shard holds parent's span only;
	// every event of the child's span up to revision has been handed over, and
	// later ones come from the child.
	Split(parent, child *kvdpb.Descriptor, applied uint64, revision int64)
	// Absorbed says that from index applied on the shard, whose descriptor is desc,
	// holds the keys of its former right neighbour too. Every event of both up to
	// revision is in its store; those of the neighbour were handed over for that, as
	// far as they were.
	Absorbed(desc *kvdpb.Descriptor, applied uint64, revision int64)
	// Closed ends the calls for a shard.
	Closed(shard uint64)
}
