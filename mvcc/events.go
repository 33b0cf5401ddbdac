package mvcc

import (
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// VisitEvent is called with one change of a key: its new version, or, for a
// tombstone, a KeyValue that carries the encoded key and the revision of the
// deletion only. What it is given is the caller's to keep.
type VisitEvent func(rev, sub int64, kv *mvccpb.KeyValue, tombstone bool) (more bool)

// Events calls fn on the changes of the keys of span from revision from to
// revision to, both inclusive, in the order of revision and sub-revision. It
// delivers whole revisions, and ends after the one with which keys and values
// reach maxBytes (0 is no bound).
//
// next is the first revision that was not delivered: to+1 at the end, or the
// snapshot's last revision + 1 where that is smaller. If fn returns false, the
// scan ends, and next is the revision of the event that it was given.
//
// A from below the compaction revision is answered with ErrCompacted; at the
// compaction revision itself everything is still there.
func (sn *Snapshot) Events(ctx context.Context, span keyspace.Span, from, to int64, maxBytes int, fn VisitEvent) (next int64, err error) {
	if sn.err != nil {
		return from, sn.err
	}
	if from <= 0 {
		return from, fmt.Errorf("mvcc: events from revision %d", from)
	}
	if from < sn.meta.compact {
		return from, &CompactedError{CompactRevision: sn.meta.compact}
	}
	to = min(to, sn.meta.last)
	if to < from {
		return from, nil
	}
	span = span.Intersect(keyspace.All())
	if span.Empty() {
		return to + 1, nil
	}
	d := delivery{fn: fn, maxBytes: maxBytes, next: from}
	if span.IsKey() {
		err = sn.keyEvents(ctx, span.Start, from, to, &d)
	} else {
		err = sn.indexEvents(ctx, span, from, to, &d)
	}
	if err == nil && !d.ended {
		d.next = to + 1
	}
	return d.next, err
}

// delivery hands events out, in whole revisions.
type delivery struct {
	fn       VisitEvent
	maxBytes int
	bytes    int
	// rev is the revision being delivered, next the first one not yet
	// delivered as a whole.
	rev, next int64
	ended     bool
	slab      kvSlab
}

// begins tells that an event of rev comes; false says that the delivery ended
// before it.
func (d *delivery) begins(rev int64) bool {
	if rev != d.rev {
		d.rev, d.next = rev, rev
		d.ended = d.maxBytes > 0 && d.bytes >= d.maxBytes
	}
	return !d.ended
}

// event delivers one event of the revision that has begun.
func (d *delivery) event(sub int64, key []byte, v version) bool {
	kv := d.slab.add(key, v.value)
	kv.ModRevision = d.rev
	if !v.tombstone {
		kv.CreateRevision, kv.Version, kv.Lease = v.create, v.version, v.lease
	}
	d.bytes += len(key) + len(v.value)
	d.ended = !d.fn(d.rev, sub, kv, v.tombstone)
	return !d.ended
}

// keyEvents walks the versions of one key, from the oldest wanted on.
func (sn *Snapshot) keyEvents(ctx context.Context, key []byte, from, to int64, d *delivery) error {
	lower := appendVersionKey(nil, key, to)
	// Revisions descend, so what is older than from sorts after it.
	upper := appendVersionKey(nil, key, from-1)
	it, err := sn.rows(scanOptions(lower, upper))
	if err != nil {
		return err
	}
	rows := 0
	for valid := it.Last(); valid && err == nil; valid = it.Prev() {
		if rows++; rows%checkEvery == 0 {
			if err = sn.proceed(ctx); err != nil {
				break
			}
		}
		var more bool
		if more, err = sn.keyEvent(it, d); !more {
			break
		}
	}
	if err == nil {
		err = diskError("read versions", it.Error())
	}
	// What matters of an iterator's end was told by Error.
	_ = it.Close()
	return err
}

func (sn *Snapshot) keyEvent(it *pebble.Iterator, d *delivery) (more bool, err error) {
	key, rev, ok := decodeVersionKey(it.Key())
	if !ok {
		return false, corruptf("row key %x", it.Key())
	}
	if !d.begins(rev) {
		return false, nil
	}
	row, err := it.ValueAndErr()
	if err != nil {
		return false, diskError("read value", err)
	}
	v, ok := decodeVersion(row, rev)
	if !ok {
		return false, corruptVersion(key, rev)
	}
	return d.event(v.sub, key, v), nil
}
