package mvcc

import (
	"context"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// CollectLimits bounds one step of Collect.
type CollectLimits struct {
	// Rows is the number of rows of the revision index that are worked off,
	// Deletes the number of rows that are deleted, which is overrun by at most
	// one. 0 means the default.
	Rows, Deletes int
}

// Defaults of CollectLimits. A step of this size takes some milliseconds.
const (
	defaultCollectRows    = 1024
	defaultCollectDeletes = 4096
)

// Collect throws away, on this replica only, a part of the history below the
// compaction revision R: versions that another one at or below R superseded,
// deletions below R, and the revision index below R. The state at R and every
// event from R on stay. It also removes what DropSpan left in the revision
// index. done tells that there was nothing left to do.
//
// It runs in the background, concurrently with everything else: rows that it
// removes are visible only to snapshots taken before the compaction, which keep
// theirs.
func (s *Store) Collect(ctx context.Context, l CollectLimits) (done bool, err error) {
	if l.Rows <= 0 {
		l.Rows = defaultCollectRows
	}
	if l.Deletes <= 0 {
		l.Deletes = defaultCollectDeletes
	}
	sn := s.NewSnapshot()
	defer sn.Close()
	if sn.err != nil {
		return false, sn.err
	}
	g := sn.g
	g.collecting.Lock()
	defer g.collecting.Unlock()
	if sn.meta.drops != g.published.Load().drops {
		// What was absorbed meanwhile is not in the snapshot, and would be passed over.
		return false, nil
	}
	if done, err = sn.sweepIndex(ctx, l); err != nil || !done {
		return false, err
	}
	return sn.collectHistory(ctx, l)
}

// collector gathers the deletes of one step.
type collector struct {
	sn      *Snapshot
	batch   *pebble.Batch
	deletes int
	row     []byte
}

func (c *collector) delete(row []byte) error {
	c.deletes++
	return c.batch.Delete(row, nil)
}

// collectHistory works off the revision index from the collected revision on.
// Every key that changed at or below R has its index entry there, so no other
// key needs to be looked at.
//
// Before it, all history below the collected revision C is gone but for the
// newest version of each key; after it the same holds of a larger C. A deletion
// at C itself is still there, because a watch from C needs it, and so is the
// index of C. A step may end inside a revision, which then counts as touched;
// where exactly is kept in memory only, because to do a part of a revision again
// does no harm.
func (sn *Snapshot) collectHistory(ctx context.Context, l CollectLimits) (done bool, err error) {
	g, target := sn.g, sn.meta.compact
	collected := g.collected.Load()
	if collected >= target {
		return true, nil
	}
	// What was done towards a lower target left that one's deletions.
	start := g.collectAt
	if start == nil || g.collectTo != target {
		start = appendIndexStart(nil, collected)
	}
	it, err := sn.rows(scanOptions(start, appendIndexStart(nil, target+1)))
	if err != nil {
		return false, err
	}
	c, began := &collector{sn: sn, batch: g.db.NewBatch()}, time.Now()
	defer func() { g.store.engine.stats.collection(c.deletes, began) }()
	// Closing a batch or an iterator cannot fail in a way that matters here.
	defer func() { _ = c.batch.Close() }()
	defer func() { _ = it.Close() }()

	reached, touched, next, rows := target, target, []byte(nil), 0
	for valid := it.First(); valid; valid = it.Next() {
		e, err := readIndexEntry(it)
		if err != nil {
			return false, err
		}
		if rows == l.Rows || c.deletes >= l.Deletes {
			reached, touched, next = max(collected, e.rev-1), e.rev, append(next, it.Key()...)
			break
		}
		if rows++; rows%checkEvery == 0 {
			if err := sn.proceed(ctx); err != nil {
				return false, err
			}
		}
		if err := c.supersede(e.key, e.rev, target); err != nil {
			return false, err
		}
	}
	if err := it.Error(); err != nil {
		return false, diskError("scan revision index", err)
	}
	if err := c.finish(reached, touched); err != nil {
		return false, err
	}
	g.collectAt, g.collectTo = next, target
	return next == nil, nil
}

// readIndexEntry decodes the entry that an iterator stands on. Its key is valid
// until the iterator moves.
func readIndexEntry(it *pebble.Iterator) (e entry, err error) {
	var ok bool
	if e.rev, e.sub, ok = decodeIndexKey(it.Key()); !ok {
		return e, corruptf("revision index key %x", it.Key())
	}
	value, err := it.ValueAndErr()
	if err != nil {
		return e, diskError("read revision index", err)
	}
	if e.key, e.tombstone, ok = decodeIndexValue(value); !ok {
		return e, corruptf("revision index entry %d/%d: %x", e.rev, e.sub, value)
	}
	return e, nil
}

// supersede deletes what the version of key at rev makes history below target:
// its predecessor, of which by then every older version is gone, and, if it is
// a deletion, itself.
func (c *collector) supersede(key []byte, rev, target int64) error {
	c.row = appendVersionKey(c.row[:0], key, rev)
	it := c.sn.it
	for valid := it.SeekPrefixGE(c.row); valid; valid = it.Next() {
		_, mod, ok := decodeVersionKey(it.Key())
		if !ok {
			return corruptf("row key %x", it.Key())
		}
		if mod < rev {
			return c.delete(it.Key())
		}
		row, err := it.ValueAndErr()
		if err != nil {
			return diskError("read value", err)
		}
		if isTombstone(row) && rev < target {
			if err := c.delete(it.Key()); err != nil {
				return err
			}
		}
	}
	return diskError("read key", it.Error())
}

// finish commits the deletes, with the revision up to which all is collected
// and the one up to which something may be.
func (c *collector) finish(reached, touched int64) error {
	g, target := c.sn.g, c.sn.meta.compact
	if err := c.batch.Set(collectedKey, appendCollected(nil, reached, touched), nil); err != nil {
		return diskError("write collected revision", err)
	}
	if reached == target {
		if err := c.batch.DeleteRange(appendIndexStart(nil, 0), appendIndexStart(nil, target), nil); err != nil {
			return diskError("delete old revision index", err)
		}
	}
	// Raised first: nobody may take for there what is already gone.
	g.touched.Store(touched)
	if err := c.commit(); err != nil {
		return err
	}
	g.collected.Store(reached)
	return nil
}

func (c *collector) commit() error {
	g := c.sn.g
	if err := g.store.failure(); err != nil {
		return err
	}
	size := c.batch.Len()
	if err := g.db.Apply(c.batch, pebble.NoSync); err != nil {
		err = diskError("commit collection", err)
		g.store.fail(err)
		return err
	}
	g.wrote(size)
	return nil
}

// sweepIndex removes from the revision index a part of the entries of dropped
// spans. One pass over the index serves all drops that happened before it.
func (sn *Snapshot) sweepIndex(ctx context.Context, l CollectLimits) (done bool, err error) {
	g := sn.g
	list := g.sweeps.list()
	if len(list) == 0 {
		return true, nil
	}
	if g.sweepPass.drops == 0 {
		g.sweepPass.drops, g.sweepPass.at = sn.meta.drops, appendIndexStart(nil, 0)
	}
	pass := g.sweepPass
	var upto int64
	for _, w := range list {
		if w.drop <= pass.drops {
			upto = max(upto, w.upto)
		}
	}
	it, err := sn.rows(scanOptions(pass.at, appendIndexStart(nil, upto+1)))
	if err != nil {
		return false, err
	}
	c := &collector{sn: sn, batch: g.db.NewBatch()}
	// Closing a batch or an iterator cannot fail in a way that matters here.
	defer func() { _ = c.batch.Close() }()
	defer func() { _ = it.Close() }()
	next, rows := []byte(nil), 0
	for valid := it.First(); valid; valid = it.Next() {
		if rows == sweepFactor*l.Rows || c.deletes >= l.Deletes {
			next = append(next, it.Key()...)
			break
		}
		if rows++; rows%checkEvery == 0 {
			if err := sn.proceed(ctx); err != nil {
				return false, err
			}
		}
		e, err := readIndexEntry(it)
		if err != nil {
			return false, err
		}
		for _, w := range list {
			if w.drop <= pass.drops && e.rev <= w.upto && w.span.Contains(e.key) {
				if err := c.delete(it.Key()); err != nil {
					return false, err
				}
				break
			}
		}
	}
	if err := it.Error(); err != nil {
		return false, diskError("scan revision index", err)
	}
	if next == nil {
		return c.endSweep(pass.drops)
	}
	g.sweepPass.at = next
	return false, c.commit()
}

// sweepFactor is how many rows are looked at in a sweep in the time that the
// collection of one takes.
const sweepFactor = 8

// endSweep commits the last deletes of a pass and takes its drops off the list.
func (c *collector) endSweep(drops uint64) (done bool, err error) {
	g := c.sn.g
	g.sweepChange.Lock()
	defer g.sweepChange.Unlock()
	var rest []sweep
	for _, w := range g.sweeps.list() {
		if w.drop > drops {
			rest = append(rest, w)
		}
	}
	if err := c.batch.Set(sweepKey, appendSweeps(nil, rest), nil); err != nil {
		return false, diskError("write sweeps", err)
	}
	if err := c.commit(); err != nil {
		return false, err
	}
	g.sweeps.set(rest)
	g.sweepPass.drops = 0
	return len(rest) == 0, nil
}
