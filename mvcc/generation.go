package mvcc

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

// generation is one database of a store, with what is kept in memory about it.
// A store has one generation, until ReadSnapshot replaces it by another as a
// whole; a reader stays with the one that it began with.
type generation struct {
	store *Store
	name  string
	db    *pebble.DB

	// refs counts the users, the store itself being one; drained is closed
	// when the last one is gone.
	refs    atomic.Int64
	drained chan struct{}

	// published is the record of the last committed batch. turn is odd while a
	// batch may be visible in the database and not yet in published: a reader
	// that sees the same even turn before and after it made its iterator knows
	// that the two belong together.
	published atomic.Pointer[meta]
	turn      atomic.Uint64
	// absorbs counts the batches that took a span off the sweeps.
	absorbs atomic.Uint64

	// collected is the revision up to which history was thrown away, touched
	// the one up to which some of it may have been.
	collected, touched atomic.Int64
	counters           *counters
	// sweeps are the dropped spans whose index entries are still there;
	// sweepChange is held while the list is changed, on disk and here.
	sweeps      sweepList
	sweepChange sync.Mutex

	// collecting is held by the one step of Collect that runs, and guards
	// what follows: the row of the revision index that collection towards a
	// compaction revision has come to, unless nil, and the pass over the index for a sweep that is under way, if
	// drops is not 0, which serves the drops up to that number and has come to
	// the row at.
	collecting sync.Mutex
	collectAt  []byte
	collectTo  int64
	sweepPass  struct {
		drops uint64
		at    []byte
	}

	// writes counts batches; flushed is the count of those that are durable.
	writes, flushed atomic.Uint64
	// unflushed is the number of bytes written since the last flush began.
	unflushed atomic.Int64
}

func isGeneration(name string) bool { return strings.HasPrefix(name, generationPrefix) }

func (s *Store) openGeneration(name string) (*generation, error) {
	fs := s.engine.fs
	g := &generation{store: s, name: name, drained: make(chan struct{})}
	g.refs.Store(1)
	opts := s.engine.pebbleOptions(s)
	opts.EventListener.FlushBegin = func(pebble.FlushInfo) { g.clearUnflushed() }
	dir := fs.PathJoin(s.dir, name)
	db, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, diskError("open database "+dir, err)
	}
	g.db = db
	if err := g.load(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return g, nil
}

// load reads the few records that a generation keeps in memory.
func (g *generation) load() error {
	var m meta
	v, err := g.get(metaKey)
	if err != nil {
		return diskError("read store record", err)
	}
	if v != nil {
		var ok bool
		if m, ok = decodeMeta(v); !ok {
			return corruptf("store record %x", v)
		}
	}
	g.published.Store(&m)
	if v, err = g.get(collectedKey); err != nil {
		return diskError("read collected revision", err)
	}
	if v != nil {
		collected, touched, ok := decodeCollected(v)
		if !ok {
			return corruptf("collected revision %x", v)
		}
		g.collected.Store(collected)
		g.touched.Store(touched)
	}
	if v, err = g.get(sweepKey); err != nil {
		return diskError("read sweeps", err)
	}
	if err := g.sweeps.load(v); err != nil {
		return err
	}
	g.counters = newCounters(m)
	return nil
}

// get reads one row as of now; nil where there is none.
func (g *generation) get(row []byte) ([]byte, error) {
	v, closer, err := g.db.Get(row)
	if err != nil {
		return nil, notFound(err)
	}
	v = append(make([]byte, 0, len(v)), v...)
	return v, closer.Close()
}

func (g *generation) acquire() bool {
	for {
		n := g.refs.Load()
		if n == 0 {
			return false
		}
		if g.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (g *generation) release() {
	if g.refs.Add(-1) == 0 {
		close(g.drained)
	}
}

// close gives up the store's own reference, waits for the others and closes the
// database.
func (g *generation) close() error {
	g.release()
	g.waitDrained()
	g.clearUnflushed()
	if err := g.db.Close(); err != nil {
		return fmt.Errorf("mvcc: close database %s: %w", g.name, err)
	}
	return nil
}

// waitDrained waits for the last user. To go on without would take memory away
// from under a reader, so one that never ends is complained about instead.
func (g *generation) waitDrained() {
	t := time.NewTicker(10 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-g.drained:
			return
		case <-t.C:
			g.store.engine.log.Warn("waiting for open snapshots to close the store",
				zap.String("dir", g.store.dir), zap.Int64("open", g.refs.Load()))
		}
	}
}

// wrote accounts for a committed batch of n bytes.
func (g *generation) wrote(n int) {
	g.writes.Add(1)
	g.unflushed.Add(int64(n))
	g.store.engine.addUnflushed(int64(n))
}

func (g *generation) clearUnflushed() {
	g.store.engine.addUnflushed(-g.unflushed.Swap(0))
}

func (g *generation) raiseFlushed(writes uint64) {
	for {
		n := g.flushed.Load()
		if n >= writes || g.flushed.CompareAndSwap(n, writes) {
			return
		}
	}
}

// makeDirs makes dir and its parents, and makes their names durable.
func makeDirs(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err == nil {
		return nil
	}
	if parent := fs.PathDir(dir); parent != dir {
		if err := makeDirs(fs, parent); err != nil {
			return err
		}
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return diskError("make directory", err)
	}
	return syncDir(fs, fs.PathDir(dir))
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return diskError("open directory", err)
	}
	return diskError("sync directory", errors.Join(d.Sync(), d.Close()))
}
