package watch

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// feedEvent encodes an entry whose previous value is known.
func feedEvent(e *entry) *kvdpb.FeedEvent {
	ev := &kvdpb.FeedEvent{
		Revision: e.rev, Sub: e.sub, Key: e.key, Tombstone: e.isDelete(),
		Value: e.kv.Value, Create: e.kv.CreateRevision, Version: e.kv.Version, Lease: e.kv.Lease,
	}
	if with := e.prev.Load(); with != nil && with.PrevKv != nil {
		p := with.PrevKv
		ev.Prev = &kvdpb.FeedValue{Value: p.Value, Create: p.CreateRevision, Mod: p.ModRevision, Version: p.Version, Lease: p.Lease}
	}
	return ev
}

// entriesFromFeed decodes what another member sent of a span. Keys outside of it,
// impossible revisions and disorder are errors.
func entriesFromFeed(events []*kvdpb.FeedEvent, span keyspace.Span) ([]*entry, error) {
	entries := make([]*entry, 0, len(events))
	for _, ev := range events {
		if !span.Contains(ev.GetKey()) {
			return nil, fmt.Errorf("watch: a feed of %v sent key %s", span, keyspace.Format(ev.GetKey()))
		}
		if ev.Revision <= 0 || ev.Create < 0 || ev.Create > ev.Revision {
			return nil, fmt.Errorf("watch: a feed sent key %s at revision %d, created at %d", keyspace.Format(ev.Key), ev.Revision, ev.Create)
		}
		kv := &mvccpb.KeyValue{Key: ev.Key, Value: ev.Value, CreateRevision: ev.Create, Version: ev.Version, Lease: ev.Lease}
		e, ok := newEntry(ev.Revision, ev.Sub, kv, ev.Tombstone)
		if !ok {
			return nil, fmt.Errorf("watch: a feed sent key %s, which is no user key", keyspace.Format(ev.Key))
		}
		if n := len(entries); n > 0 && e.before(entries[n-1]) {
			return nil, fmt.Errorf("watch: a feed sent revision %d after %d", e.rev, entries[n-1].rev)
		}
		var prev *mvccpb.KeyValue
		if p := ev.Prev; p != nil {
			prev = &mvccpb.KeyValue{Key: ev.Key, Value: p.Value, CreateRevision: p.Create, ModRevision: p.Mod, Version: p.Version, Lease: p.Lease}
		}
		e.setPrev(prev)
		entries = append(entries, e)
	}
	return entries, nil
}

// appendOrdered appends a chunk of history that must follow on what is there and
// lie in [from, to].
func appendOrdered(entries, chunk []*entry, from, to int64) ([]*entry, error) {
	for _, e := range chunk {
		if e.rev < from || e.rev > to {
			return nil, fmt.Errorf("watch: history from %d to %d contains revision %d", from, to, e.rev)
		}
		if n := len(entries); n > 0 && e.before(entries[n-1]) {
			return nil, fmt.Errorf("watch: history has revision %d after %d", e.rev, entries[n-1].rev)
		}
		entries = append(entries, e)
	}
	return entries, nil
}
