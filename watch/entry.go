package watch

import (
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard"
)

// entry is one event as the hub holds it, built once and shared by the ring of
// its segment and by every watch that it is delivered to. Nothing but prev
// changes after it was built.
type entry struct {
	rev, sub int64
	// key is the encoded key.
	key []byte
	// event and kv carry the user key; event.Kv points at kv.
	event mvccpb.Event
	kv    mvccpb.KeyValue
	// prev is the event with its previous value, once somebody has asked for it.
	prev atomic.Pointer[mvccpb.Event]
}

// entryOverhead is what an event costs in memory beside key and value, roughly.
const entryOverhead = 256

// newEntry builds an entry from what a replica applied or a store holds. ok is
// false for a key that no client can watch.
func newEntry(rev, sub int64, kv *mvccpb.KeyValue, tombstone bool) (e *entry, ok bool) {
	user, ok := keyspace.UserKey(kv.Key)
	if !ok {
		return nil, false
	}
	e = &entry{rev: rev, sub: sub, key: kv.Key}
	e.kv.Key, e.kv.ModRevision = user, rev
	e.event.Kv = &e.kv
	if tombstone {
		e.event.Type = mvccpb.Event_DELETE
		return e, true
	}
	e.kv.Value, e.kv.Lease = kv.Value, kv.Lease
	e.kv.CreateRevision, e.kv.Version = kv.CreateRevision, kv.Version
	if e.isCreate() {
		e.prev.Store(&e.event)
	}
	return e, true
}

func entryOf(ev *shard.Event) (*entry, bool) {
	return newEntry(ev.Revision, ev.Sub, ev.KV, ev.Tombstone)
}

func (e *entry) isDelete() bool { return e.event.Type == mvccpb.Event_DELETE }

// isCreate tells whether the key did not exist before, so that there is no
// previous value to look for.
func (e *entry) isCreate() bool { return !e.isDelete() && e.kv.CreateRevision == e.rev }

func (e *entry) size() int { return len(e.key) + len(e.kv.Value) }

// setPrev notes what the key held before; nil where that is compacted or the key
// did not exist.
func (e *entry) setPrev(prev *mvccpb.KeyValue) {
	if prev == nil {
		e.prev.Store(&e.event)
		return
	}
	user, ok := keyspace.UserKey(prev.Key)
	if !ok {
		user = e.kv.Key
	}
	e.prev.Store(&mvccpb.Event{
		Type: e.event.Type,
		Kv:   &e.kv,
		PrevKv: &mvccpb.KeyValue{
			Key: user, Value: prev.Value, Lease: prev.Lease,
			CreateRevision: prev.CreateRevision, ModRevision: prev.ModRevision, Version: prev.Version,
		},
	})
}

// before orders entries of different shards: by revision, then by their place in
// the transaction.
func (e *entry) before(o *entry) bool {
	if e.rev != o.rev {
		return e.rev < o.rev
	}
	return e.sub < o.sub
}
