package mvcc

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"
)

// Store is the multi-version state of one key range on disk. One goroutine
// writes (NewBatch, Commit, ReadSnapshot); everything else may be called from
// any goroutine at any time, also during and after Close.
type Store struct {
	engine *Engine
	dir    string
	// current is the generation in use; nil once closed.
	current atomic.Pointer[generation]
	// failed is set once; failing is closed with it.
	failed  atomic.Pointer[error]
	failing chan struct{}
	// closing is closed when Close begins.
	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error
	// replacing is held while the current generation is replaced or closed.
	replacing sync.Mutex
	// replaced waits for the generations that ReadSnapshot took out of use.
	replaced sync.WaitGroup
	marker   *atomicfs.Marker
	pins     pinSet
}

const (
	// generationMarker names the file that tells which generation is in use.
	// Where there is none it is firstGeneration.
	generationMarker = "generation"
	generationPrefix = "data-"
	firstGeneration  = generationPrefix + "0"
)

// Open opens the store in dir, making it where there is none. Nothing is read
// but the storage layer's manifest, so it takes milliseconds whatever the size.
func (e *Engine) Open(dir string) (*Store, error) {
	s := &Store{
		engine:  e,
		dir:     dir,
		failing: make(chan struct{}),
		closing: make(chan struct{}),
	}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("mvcc: open store %s: %w", dir, err)
	}
	if err := e.addStore(s); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) open() error {
	fs := s.engine.fs
	if err := makeDirs(fs, s.dir); err != nil {
		return err
	}
	marker, name, err := atomicfs.LocateMarker(fs, s.dir, generationMarker)
	if err != nil {
		return diskError("locate generation", err)
	}
	if name == "" {
		name = firstGeneration
	}
	g, err := s.openGeneration(name)
	if err != nil {
		return errors.Join(err, marker.Close())
	}
	// Only now, with the lock of the generation in use held, can nobody else be
	// building another one.
	if err := s.removeOtherGenerations(name); err != nil {
		return errors.Join(err, g.close(), marker.Close())
	}
	s.marker = marker
	s.current.Store(g)
	return nil
}

// removeOtherGenerations deletes what an interrupted ReadSnapshot left behind.
func (s *Store) removeOtherGenerations(name string) error {
	names, err := s.engine.fs.List(s.dir)
	if err != nil {
		return diskError("list", err)
	}
	for _, n := range names {
		if n != name && isGeneration(n) {
			if err := s.engine.fs.RemoveAll(s.engine.fs.PathJoin(s.dir, n)); err != nil {
				return diskError("remove old generation", err)
			}
		}
	}
	return nil
}

// Close flushes the store and closes it, once the snapshots that are open have
// been closed; scans that are under way end early with ErrClosed. A store that
// has failed is closed without being flushed.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		s.pins.close()
		s.replacing.Lock()
		defer s.replacing.Unlock()
		if g := s.current.Load(); g != nil && s.failure() == nil {
			s.closeErr = s.flush(g)
		}
		s.engine.removeStore(s)
		if g := s.current.Swap(nil); g != nil {
			s.closeErr = errors.Join(s.closeErr, g.close())
		}
		s.replaced.Wait()
		if s.marker != nil {
			s.closeErr = errors.Join(s.closeErr, s.marker.Close())
		}
	})
	return s.closeErr
}

// acquire returns the current generation, kept open until it is released.
func (s *Store) acquire() (*generation, error) {
	for {
		g := s.current.Load()
		if g == nil {
			return nil, ErrClosed
		}
		if g.acquire() {
			return g, nil
		}
	}
}

// fail marks the store as unfit to be written to.
func (s *Store) fail(err error) {
	if err != nil && s.failed.CompareAndSwap(nil, &err) {
		close(s.failing)
		s.engine.failed(s.dir, err)
	}
}

// failure returns the error that the store failed with, or nil.
func (s *Store) failure() error {
	if p := s.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// state returns the record of how far the store is; the zero record once it is
// closed.
func (s *Store) state() meta {
	if g := s.current.Load(); g != nil {
		return *g.published.Load()
	}
	return meta{}
}

// AppliedIndex returns the index of the last raft entry whose batch was
// committed; 0 for a new store, and for a closed one.
func (s *Store) AppliedIndex() uint64 { return s.state().applied }

// LastRevision returns the largest revision applied; 0 for a new store, and for
// a closed one.
func (s *Store) LastRevision() int64 { return s.state().last }

// CompactRevision returns the lowest revision that reads may ask for; 0 where
// there was no compaction, and for a closed store.
func (s *Store) CompactRevision() int64 { return s.state().compact }

// CollectedRevision returns the revision up to which this replica has thrown
// history away: from it on everything is there. It differs between replicas and
// is at most CompactRevision.
func (s *Store) CollectedRevision() int64 {
	if g := s.current.Load(); g != nil {
		return g.touched.Load()
	}
	return 0
}

// GetLocal returns a local record as of the last committed batch; nil where
// there is none. The caller owns the bytes.
func (s *Store) GetLocal(name []byte) ([]byte, error) {
	g, err := s.acquire()
	if err != nil {
		return nil, err
	}
	defer g.release()
	v, err := g.get(appendLocalKey(make([]byte, 0, len(name)+2), name))
	return v, diskError("read local record", err)
}

// ScanLocal calls fn with the local records whose name begins with prefix, in
// order of their names, as of the last committed batch, until fn returns an
// error, which it passes on. The bytes are valid only during the call.
func (s *Store) ScanLocal(prefix []byte, fn func(name, value []byte) error) error {
	sn := s.NewSnapshot()
	defer sn.Close()
	return sn.ScanLocal(prefix, fn)
}

// Flush makes every committed batch durable: once it has returned, a reopened
// store has at least the applied index of before the call. It costs nothing
// where nothing was written since the last one.
func (s *Store) Flush() error {
	g, err := s.acquire()
	if err != nil {
		return err
	}
	defer g.release()
	return s.flush(g)
}

func (s *Store) flush(g *generation) error {
	if err := s.failure(); err != nil {
		return err
	}
	writes := g.writes.Load()
	if g.flushed.Load() >= writes {
		return nil
	}
	done, err := g.db.AsyncFlush()
	if err != nil {
		return diskError("flush", err)
	}
	select {
	case <-done:
	case <-s.failing:
		// Pebble tries a failed flush again for ever.
		return s.failure()
	}
	g.raiseFlushed(writes)
	return nil
}

// isOpen returns an error when long reads must end.
func (s *Store) isOpen() error {
	select {
	case <-s.closing:
		return ErrClosed
	default:
		return nil
	}
}

// notFound turns pebble's ErrNotFound into a nil value.
func notFound(err error) error {
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	return err
}
