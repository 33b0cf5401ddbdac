package mvcc

import (
	"errors"
	"fmt"
	"os"
	"sort"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// partialSuffix marks a directory that is being built: it is renamed once it is
// complete and durable, and anything found under such a name is thrown away.
const partialSuffix = ".tmp"

// Checkpoint makes dir, which must not exist, a copy of the store as of a moment
// during the call, by hard links: it takes next to no room and time. Once it
// has returned the copy is durable, and can be opened like any store.
func (s *Store) Checkpoint(dir string) error {
	if exists, err := s.engine.exists(dir); err != nil || exists {
		if err == nil {
			err = os.ErrExist
		}
		return diskError("checkpoint to "+dir, err)
	}
	return s.checkpoint(dir, nil, func(string) error { return nil })
}

// Seed makes dir a store that holds the part of parent inside keep, with its
// whole history and the parent's compaction revision, the given local records
// and no others, and applied index 0: the beginning of a child shard. The part
// must not change meanwhile.
//
// last is the seed's last revision, at most the parent's: no smaller than any in
// the part, and below any that will be put into the child, whose log may be
// ahead of the moment when a late seed is made. A late seed may also have a
// larger compaction revision than an early one, because the parent may have
// thrown away what lies below it.
//
// It does nothing where dir exists, because a seed appears there only when it is
// complete and durable; a crash in the middle leaves nothing under that name.
func (e *Engine) Seed(dir string, parent *Store, keep keyspace.Span, last int64, local map[string][]byte) error {
	if !keyspace.All().ContainsSpan(keep) || keep.Empty() {
		return fmt.Errorf("mvcc: seed of %s", keep)
	}
	if exists, err := e.exists(dir); err != nil || exists {
		return diskError("seed "+dir, err)
	}
	spans := []pebble.CheckpointSpan{
		{Start: appendPrefix(nil, keep.Start), End: appendPrefix(nil, keep.End)},
		{Start: []byte{indexPrefix, terminator}, End: []byte{rowsEnd, terminator}},
	}
	return parent.checkpoint(dir, spans, func(partial string) error {
		return e.trim(partial, keep, last, local)
	})
}

func (e *Engine) exists(path string) (bool, error) {
	_, err := e.fs.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// checkpoint builds a copy of the store aside, lets finish work on it, and then
// gives it its name.
func (s *Store) checkpoint(dir string, spans []pebble.CheckpointSpan, finish func(partial string) error) (err error) {
	g, err := s.acquire()
	if err != nil {
		return err
	}
	defer g.release()
	// What is in memtables is not part of a checkpoint.
	if err := s.flush(g); err != nil {
		return err
	}
	fs := s.engine.fs
	partial := dir + partialSuffix
	if err := fs.RemoveAll(partial); err != nil {
		return diskError("remove partial store", err)
	}
	if err := makeDirs(fs, partial); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// The next attempt removes what this one leaves.
			_ = fs.RemoveAll(partial)
		}
	}()
	var opts []pebble.CheckpointOption
	if spans != nil {
		opts = append(opts, pebble.WithRestrictToSpans(spans))
	}
	if err := g.db.Checkpoint(fs.PathJoin(partial, firstGeneration), opts...); err != nil {
		return diskError("checkpoint", err)
	}
	if err := finish(partial); err != nil {
		return err
	}
	if err := syncDir(fs, partial); err != nil {
		return err
	}
	if err := fs.Rename(partial, dir); err != nil {
		return diskError("rename store", err)
	}
	return syncDir(fs, fs.PathDir(dir))
}

// trim reduces the copy of a store to a seed, durably.
func (e *Engine) trim(dir string, keep keyspace.Span, last int64, local map[string][]byte) (err error) {
	s := &Store{engine: e, dir: dir, failing: make(chan struct{}), closing: make(chan struct{})}
	if err := s.open(); err != nil {
		return fmt.Errorf("mvcc: open seed: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.trimRows(keep, last, local); err != nil {
		return fmt.Errorf("mvcc: trim seed: %w", err)
	}
	if err := s.trimIndex(keep); err != nil {
		return fmt.Errorf("mvcc: trim seed's revision index: %w", err)
	}
	inside := func(_ *Snapshot, _ int64, key []byte) (bool, error) { return keep.Contains(key), nil }
	if err := s.trimLeased(inside); err != nil {
		return fmt.Errorf("mvcc: trim seed's lease index: %w", err)
	}
	return s.Flush()
}

// trimRows drops what lies outside of keep, and all local records but the given
// ones.
func (s *Store) trimRows(keep keyspace.Span, last int64, local map[string][]byte) error {
	g := s.current.Load()
	b := g.db.NewBatch()
	// Closing a batch cannot fail in a way that matters.
	defer func() { _ = b.Close() }()
	data := appendPrefix(nil, keyspace.Min())
	dataEnd := appendPrefix(nil, keyspace.Max())
	for _, r := range [][2][]byte{
		{[]byte{localPrefix, terminator}, data},
		{data, appendPrefix(nil, keep.Start)},
		{appendPrefix(nil, keep.End), dataEnd},
	} {
		if Comparer.Compare(r[0], r[1]) < 0 {
			if err := b.DeleteRange(r[0], r[1], nil); err != nil {
				return diskError("drop range", err)
			}
		}
	}
	names := make([]string, 0, len(local))
	for n := range local {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		if err := b.Set(appendLocalKey(nil, []byte(n)), local[n], nil); err != nil {
			return diskError("write local record", err)
		}
	}
	m := *g.published.Load()
	m.applied, m.last = 0, min(m.last, last)
	if err := b.Set(metaKey, appendMeta(nil, &m), nil); err != nil {
		return diskError("write store record", err)
	}
	if err := g.db.Apply(b, pebble.NoSync); err != nil {
		return diskError("commit", err)
	}
	g.wrote(b.Len())
	g.published.Store(&m)
	return nil
}

const (
	// trimRun is how many index entries in a row are deleted as a range.
	trimRun = 16
	// trimBatch bounds a batch of deletes, in bytes.
	trimBatch = 1 << 20
)

// trimIndex removes the entries of the revision index that point outside of
// keep, or that an unfinished sweep of the parent would have removed.
func (s *Store) trimIndex(keep keyspace.Span) error {
	sn := s.NewSnapshot()
	defer sn.Close()
	if sn.err != nil {
		return sn.err
	}
	g := sn.g
	b := g.db.NewBatch()
	// Closing a batch cannot fail in a way that matters.
	defer func() { _ = b.Close() }()
	commit := func() error {
		if err := g.db.Apply(b, pebble.NoSync); err != nil {
			return diskError("commit", err)
		}
		g.wrote(b.Len())
		b.Reset()
		return nil
	}
	var run [][]byte
	endRun := func(next []byte) error {
		if len(run) >= trimRun {
			err := b.DeleteRange(run[0], next, nil)
			run = run[:0]
			return err
		}
		for _, k := range run {
			if err := b.Delete(k, nil); err != nil {
				return err
			}
		}
		run = run[:0]
		if b.Len() < trimBatch {
			return nil
		}
		return commit()
	}
	end := []byte{storePrefix, terminator}
	err := sn.scanRows([]byte{indexPrefix, terminator}, end, func(it *pebble.Iterator) error {
		e, err := readIndexEntry(it)
		if err != nil {
			return err
		}
		if keep.Contains(e.key) && !sn.swept(e.key, e.rev) {
			return endRun(it.Key())
		}
		switch {
		case len(run) < trimRun:
			run = append(run, append([]byte(nil), it.Key()...))
		case len(run) == trimRun:
			// Only the first entry of a long run is needed.
			run = append(run, run[0])
		}
		return nil
	})
	if err == nil {
		err = endRun(end)
	}
	if err != nil {
		return err
	}
	if err := b.Delete(sweepKey, nil); err != nil {
		return diskError("write sweeps", err)
	}
	return commit()
}
