package mvcc

import (
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// Absorbing history into a store that goes on
//
// A shard that takes over a neighbour's keys gets their history as Versions
// delivers it: all that there is from the neighbour's compaction revision on, and
// of each key the one version before that which was valid then. It becomes part
// of the store in one batch.
//
//   - Revisions of what is absorbed lie before, between and behind the store's own.
//     So the order that Put insists on does not hold, and the revision index gets
//     entries in its middle.
//   - Collection may be past some of them. It begins again where the neighbour's
//     history begins: to do a part again does no harm. A step that is under way
//     works on a snapshot of before, so that the batch waits for its end.
//   - The span may have been the store's own once, and was dropped. What the drop
//     left in the revision index is no longer to be swept away: whoever got the keys
//     then got their history, and it has come down to the neighbour. So an entry at or
//     above the neighbour's compaction revision is the neighbour's too, and one below is
//     removed with all the others below the compaction revision.
//   - How many live keys the span has is found out by whoever counts them first.

// absorbed is what a batch absorbs.
type absorbed struct {
	span    keyspace.Span
	compact int64
}

// Absorb begins to take in the history of a span that the store has no key of, as
// it was kept elsewhere. If the store ever held the span, that history goes on where
// it was dropped. compact is the revision that it begins at, and last the
// largest that was applied there. The caller adds all of it with AbsorbVersion,
// and calls neither Put nor DropSpan in the same batch.
func (b *Batch) Absorb(span keyspace.Span, compact, last int64) {
	switch {
	case b.err != nil:
		return
	case span.Empty() || !keyspace.All().ContainsSpan(span):
		b.err = fmt.Errorf("mvcc: absorb %v", span)
		return
	case b.absorbs != nil || len(b.changes) > 0 || len(b.drops) > 0 || b.meta.last != b.g.published.Load().last:
		b.err = errors.New("mvcc: Absorb is not the first change of its batch")
		return
	case compact < 0 || last < 0:
		b.err = fmt.Errorf("mvcc: absorb history from revision %d to %d", compact, last)
		return
	}
	b.absorbs = &absorbed{span: span.Clone(), compact: compact}
	b.meta.compact = max(b.meta.compact, compact)
	b.meta.last = max(b.meta.last, last)
	// The counters of before say nothing about the data of after it.
	b.meta.drops++
}

// AbsorbVersion adds a version to what is absorbed, in any order. newest says that
// its key has no later one. The bytes are copied.
func (b *Batch) AbsorbVersion(v *Version, newest bool) {
	if b.err != nil {
		return
	}
	if b.err = b.checkAbsorbed(v); b.err != nil {
		return
	}
	e := Effect{Key: v.Key, Value: v.Value, Create: v.Create, Version: v.Version, Lease: v.Lease, Tombstone: v.Tombstone}
	b.buf = appendVersionHeader(b.buf[:0], v.Revision, v.Sub, &e)
	if !v.Tombstone {
		b.buf = append(b.buf, v.Value...)
	}
	row := appendVersionKey(make([]byte, 0, len(v.Key)+1+suffixLen), v.Key, v.Revision)
	if b.err = b.b.Set(row, b.buf, nil); b.err != nil {
		return
	}
	b.puts++
	b.bytes += uint64(len(v.Key) + len(v.Value))
	if v.Revision >= b.absorbs.compact {
		flags := byte(0)
		if v.Tombstone {
			flags = indexTombstone
		}
		value := append(append(make([]byte, 0, 1+len(v.Key)), flags), v.Key...)
		b.buf = appendIndexKey(b.buf[:0], v.Revision, v.Sub)
		if b.err = b.b.Set(b.buf, value, nil); b.err != nil {
			return
		}
	}
	if newest {
		b.err = b.index(&e)
	}
}

func (b *Batch) checkAbsorbed(v *Version) error {
	switch {
	case b.absorbs == nil:
		return errors.New("mvcc: AbsorbVersion before Absorb")
	case !b.absorbs.span.Contains(v.Key):
		return fmt.Errorf("mvcc: absorbed key %s outside of %v", keyspace.Format(v.Key), b.absorbs.span)
	case v.Revision < 1 || v.Revision > b.meta.last || v.Sub < 0:
		return fmt.Errorf("mvcc: absorbed key %s at revision %d/%d", keyspace.Format(v.Key), v.Revision, v.Sub)
	case v.Tombstone:
		return nil
	case v.Create < 1 || v.Create > v.Revision || v.Version < 1:
		return fmt.Errorf("mvcc: absorbed key %s of revision %d created at %d with version %d",
			keyspace.Format(v.Key), v.Revision, v.Create, v.Version)
	}
	return nil
}

// stage completes a batch that absorbs, with collection held off. It returns the
// sweeps that are left.
func (a *absorbed) stage(b *Batch) (sweeps []sweep, err error) {
	g := b.g
	sweeps = withoutSpan(g.sweeps.list(), a.span)
	if err := b.b.Set(sweepKey, appendSweeps(nil, sweeps), nil); err != nil {
		return nil, diskError("write sweeps", err)
	}
	collected := min(g.collected.Load(), a.compact)
	if err := b.b.Set(collectedKey, appendCollected(nil, collected, g.touched.Load()), nil); err != nil {
		return nil, diskError("write collected revision", err)
	}
	return sweeps, nil
}

// publish shows in memory what is about to be committed. Like drops and changes it
// runs ahead of the data.
func (a *absorbed) publish(b *Batch, sweeps []sweep) {
	g := b.g
	g.counters.absorb(a.span, b.meta.last, b.meta.drops)
	g.sweeps.set(sweeps)
	g.absorbs.Add(1)
	g.collected.Store(min(g.collected.Load(), a.compact))
	g.collectAt = nil
}

// withoutSpan takes a span out of sweeps.
func withoutSpan(list []sweep, span keyspace.Span) []sweep {
	var rest []sweep
	for _, w := range list {
		if !w.span.Overlaps(span) {
			rest = append(rest, w)
			continue
		}
		for _, part := range []keyspace.Span{
			{Start: w.span.Start, End: span.Start},
			{Start: span.End, End: w.span.End},
		} {
			if !part.Empty() {
				rest = append(rest, sweep{span: part, upto: w.upto, drop: w.drop})
			}
		}
	}
	return rest
}
