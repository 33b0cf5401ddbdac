package mvcc

import (
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// Batch gathers what one step of apply does to a store, to be committed as a
// whole. A faulty call is remembered and told by Commit. A batch must be ended
// by Commit or Close, by the goroutine that made it, and a store has one batch
// at a time.
type Batch struct {
	store *Store
	g     *generation
	b     *pebble.Batch
	meta  meta
	err   error
	// changes are the keys that came to life or died, in order.
	changes []liveChange
	drops   []sweep
	buf     []byte
	// puts, deletes and bytes count what is written.
	puts, deletes, bytes uint64
	// importing: an Import takes care of the order, and cuts batches inside revisions.
	importing bool
	// absorbs is what Absorb takes in, if anything.
	absorbs *absorbed
}

// NewBatch begins a batch.
func (s *Store) NewBatch() *Batch {
	b := &Batch{store: s}
	if b.g, b.err = s.acquire(); b.err != nil {
		return b
	}
	if b.err = s.failure(); b.err != nil {
		return b
	}
	b.meta = *b.g.published.Load()
	b.b = b.g.db.NewBatch()
	return b
}

// Put writes what revision rev, which must be above the store's last one, did
// to a key, with its place in the revision index. Effects come in the order of
// their revisions, and a revision has at most one effect per key. sub numbers
// the effects of a revision. The effect's bytes must stay as they are until
// Commit.
func (b *Batch) Put(rev, sub int64, e *Effect) {
	if b.err != nil {
		return
	}
	if b.err = b.check(rev, sub, e); b.err != nil {
		return
	}
	b.meta.last = rev

	b.buf = appendVersionHeader(b.buf[:0], rev, sub, e)
	value := e.Value
	if e.Tombstone {
		value = nil
		b.deletes++
	} else {
		b.puts++
		b.bytes += uint64(len(e.Key) + len(value))
	}
	op := b.b.SetDeferred(len(e.Key)+1+suffixLen, len(b.buf)+len(value))
	appendVersionKey(op.Key[:0], e.Key, rev)
	copy(op.Value[copy(op.Value, b.buf):], value)
	if b.err = op.Finish(); b.err != nil {
		return
	}

	b.buf = appendIndexKey(b.buf[:0], rev, sub)
	op = b.b.SetDeferred(len(b.buf), 1+len(e.Key))
	copy(op.Key, b.buf)
	op.Value[0] = 0
	if e.Tombstone {
		op.Value[0] = indexTombstone
	}
	copy(op.Value[1:], e.Key)
	if b.err = op.Finish(); b.err != nil {
		return
	}

	if b.err = b.index(e); b.err != nil {
		return
	}

	switch {
	case e.Tombstone:
		b.changes = append(b.changes, liveChange{rev: rev, key: e.Key, delta: -1})
	case e.Version == 1:
		b.changes = append(b.changes, liveChange{rev: rev, key: e.Key, delta: 1})
	}
}

func (b *Batch) check(rev, sub int64, e *Effect) error {
	switch last := b.g.published.Load().last; {
	case b.absorbs != nil:
		return errors.New("mvcc: Put after Absorb in one batch")
	case !b.importing && (rev <= last || rev < b.meta.last):
		return fmt.Errorf("mvcc: revision %d after %d", rev, max(last, b.meta.last))
	case sub < 0:
		return fmt.Errorf("mvcc: negative sub-revision %d", sub)
	case !keyspace.Valid(e.Key):
		return fmt.Errorf("mvcc: key %s outside the key space", keyspace.Format(e.Key))
	case e.Tombstone:
		return nil
	case e.Create < 0 || e.Create > rev:
		return fmt.Errorf("mvcc: key %s of revision %d created at %d", keyspace.Format(e.Key), rev, e.Create)
	case e.Version < 1:
		return fmt.Errorf("mvcc: key %s with version %d", keyspace.Format(e.Key), e.Version)
	}
	return nil
}

// SetLocal writes a local record. Local records are no part of the key space
// and have one version.
func (b *Batch) SetLocal(name, value []byte) {
	if b.err == nil {
		b.buf = appendLocalKey(b.buf[:0], name)
		b.err = b.b.Set(b.buf, value, nil)
	}
}

// DeleteLocal removes a local record.
func (b *Batch) DeleteLocal(name []byte) {
	if b.err == nil {
		b.buf = appendLocalKey(b.buf[:0], name)
		b.err = b.b.Delete(b.buf, nil)
	}
}

// SetAppliedIndex notes that the batch contains everything up to a raft index.
func (b *Batch) SetAppliedIndex(index uint64) {
	if b.err == nil && index < b.meta.applied {
		b.err = fmt.Errorf("mvcc: applied index %d after %d", index, b.meta.applied)
	}
	b.meta.applied = index
}

// SetCompactRevision makes rev the lowest revision that can be read. History
// below it is thrown away later, in the background. A revision that is not
// above the present one changes nothing.
func (b *Batch) SetCompactRevision(rev int64) {
	b.meta.compact = max(b.meta.compact, rev)
}

// DropSpan removes every key of a span with its whole history. The rows are
// gone with the batch; their entries in the revision index, which no read of
// another span sees, are removed in the background. It must come before any Put
// of the same batch.
func (b *Batch) DropSpan(span keyspace.Span) {
	if b.err != nil || span.Empty() {
		return
	}
	span = span.Intersect(keyspace.All())
	if span.Empty() {
		return
	}
	if len(b.changes) > 0 || b.absorbs != nil || b.meta.last != b.g.published.Load().last {
		b.err = errors.New("mvcc: DropSpan after Put in one batch")
		return
	}
	span = span.Clone()
	b.err = b.b.DeleteRange(appendPrefix(nil, span.Start), appendPrefix(nil, span.End), nil)
	if b.err == nil {
		b.err = b.dropLeased(span)
	}
	b.meta.drops++
	b.drops = append(b.drops, sweep{span: span, upto: b.meta.last, drop: b.meta.drops})
}

// Commit makes the batch visible to readers, all at once, and ends it. Nothing
// of it is durable before the next Flush, but after a crash the store is as it
// was after some batch: never a part of one, never one without its
// predecessors. An error is final: the member must stop.
func (b *Batch) Commit() error {
	defer b.Close()
	if b.err == nil {
		b.err = b.store.failure()
	}
	if b.err != nil {
		return b.err
	}
	g := b.g
	if m := g.published.Load(); b.b.Empty() && b.meta == *m {
		return nil
	}
	b.buf = appendMeta(b.buf[:0], &b.meta)
	if err := b.b.Set(metaKey, b.buf, nil); err != nil {
		return diskError("write store record", err)
	}
	var sweeps []sweep
	if b.absorbs != nil {
		g.collecting.Lock()
		defer g.collecting.Unlock()
		g.sweepChange.Lock()
		defer g.sweepChange.Unlock()
		var err error
		if sweeps, err = b.absorbs.stage(b); err != nil {
			return err
		}
	}
	if len(b.drops) > 0 {
		g.sweepChange.Lock()
		defer g.sweepChange.Unlock()
		sweeps = append(g.sweeps.list(), b.drops...)
		if err := b.b.Set(sweepKey, appendSweeps(nil, sweeps), nil); err != nil {
			return diskError("write sweeps", err)
		}
	}
	if b.store.current.Load() != g {
		return errors.New("mvcc: batch of a replaced generation")
	}

	size := b.b.Len()
	defer b.store.engine.stats.committed(b, time.Now())
	g.turn.Add(1)
	// Counters and sweeps run ahead of the data rather than behind it: a reader
	// leaves out what is newer than its snapshot.
	for _, w := range b.drops {
		g.counters.drop(w.span, w.upto, w.drop)
	}
	if len(b.drops) > 0 {
		g.sweeps.set(sweeps)
	}
	if b.absorbs != nil {
		b.absorbs.publish(b, sweeps)
	}
	g.counters.apply(b.changes)
	if err := g.db.Apply(b.b, pebble.NoSync); err != nil {
		err = diskError("commit", err)
		b.store.fail(err)
		return err
	}
	published := b.meta
	g.published.Store(&published)
	g.turn.Add(1)
	g.wrote(size)
	return nil
}

// Close ends a batch without committing it. After Commit it does nothing.
func (b *Batch) Close() {
	if b.b != nil {
		// Closing a batch cannot fail in a way that matters: its memory is
		// given back or left to the collector.
		_ = b.b.Close()
		b.b = nil
	}
	if b.g != nil {
		b.g.release()
		b.g = nil
	}
	if b.err == nil {
		b.err = ErrClosed
	}
}
