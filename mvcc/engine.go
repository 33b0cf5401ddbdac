package mvcc

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

// EngineOptions configures what the stores of a member share. The zero value
// is usable.
type EngineOptions struct {
	// CacheBytes is the memory for blocks of data. The block cache is made
	// larger by MemtableBudget, because memtables are charged to it. 0 means
	// DefaultCacheBytes.
	CacheBytes int64
	// MemtableBudget is the memory, in bytes, for writes that are not yet in
	// sstables, over all stores. Past it the store with the most is flushed
	// early. 0 means DefaultMemtableBudget.
	MemtableBudget int64
	// Logger receives what the storage layer has to say. nil discards it.
	Logger *zap.Logger
	// OnFailure, if set, is told once, from any goroutine, of the first error
	// after which a store must not be written to any more: a failed flush or
	// compaction. The member must stop.
	OnFailure func(error)
	// FS is the file system; nil is the operating system's.
	FS vfs.FS
	// NoBackground leaves collection, counters and the memtable budget to
	// explicit calls. For tests that need every step in hand.
	NoBackground bool

	// fatal replaces the end of the process that follows when pebble meets a
	// state from which it cannot return, such as a failed manifest write.
	fatal func(msg string)
}

// Defaults of EngineOptions.
const (
	DefaultCacheBytes     = 256 << 20
	DefaultMemtableBudget = 128 << 20
)

// Engine holds what all stores of a member share: block cache, file cache,
// compaction slots, memtable budget and the background work. Its stores must be
// closed before it.
type Engine struct {
	opts      EngineOptions
	fs        vfs.FS
	log       *zap.Logger
	cache     *pebble.Cache
	files     *pebble.FileCache
	scheduler *compactionSlots
	// unflushed is the sum of the stores' bytes that are in memtables.
	unflushed atomic.Int64
	failOnce  sync.Once
	stats     engineStats
	keeper    *keeper
	bulk      bulkReads
	// bulkEvents is the number of events from which Events reads them by a scan.
	bulkEvents int

	mu struct {
		sync.Mutex
		closed bool
		stores map[*Store]struct{}
	}
}

// maxOpenFiles bounds the sstables that all stores together keep open.
const maxOpenFiles = 4096

// NewEngine makes the shared parts and starts the background work.
func NewEngine(opts EngineOptions) (*Engine, error) {
	if opts.CacheBytes < 0 || opts.MemtableBudget < 0 {
		return nil, fmt.Errorf("mvcc: negative size: cache %d bytes, memtables %d bytes", opts.CacheBytes, opts.MemtableBudget)
	}
	if opts.CacheBytes == 0 {
		opts.CacheBytes = DefaultCacheBytes
	}
	if opts.MemtableBudget == 0 {
		opts.MemtableBudget = DefaultMemtableBudget
	}
	e := &Engine{opts: opts, fs: opts.FS, log: opts.Logger, bulkEvents: defaultBulkEvents}
	if e.fs == nil {
		e.fs = vfs.Default
	}
	if e.log == nil {
		e.log = zap.NewNop()
	}
	e.mu.stores = make(map[*Store]struct{})
	e.stats.init()
	e.cache = pebble.NewCache(opts.CacheBytes + opts.MemtableBudget)
	e.files = pebble.NewFileCache(fileCacheShards, maxOpenFiles)
	e.scheduler = newCompactionSlots(maxCompactions)
	e.keeper = newKeeper(e)
	if !opts.NoBackground {
		e.keeper.start()
	}
	return e, nil
}

// Close ends the background work and closes the stores that are still open.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.mu.closed {
		e.mu.Unlock()
		return nil
	}
	e.mu.closed = true
	open := make([]*Store, 0, len(e.mu.stores))
	for s := range e.mu.stores {
		open = append(open, s)
	}
	e.mu.Unlock()

	e.keeper.stop()
	var err error
	for _, s := range open {
		err = errors.Join(err, s.Close())
	}
	e.scheduler.close()
	e.files.Unref()
	e.cache.Unref()
	return err
}

func (e *Engine) addStore(s *Store) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.closed {
		return ErrClosed
	}
	e.mu.stores[s] = struct{}{}
	return nil
}

func (e *Engine) removeStore(s *Store) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.mu.stores, s)
}

// stores returns the open stores, in no order.
func (e *Engine) stores() []*Store {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*Store, 0, len(e.mu.stores))
	for s := range e.mu.stores {
		all = append(all, s)
	}
	return all
}

// failed reports the first failure of a store to the owner of the engine.
func (e *Engine) failed(dir string, err error) {
	e.log.Error("storage failed", zap.String("dir", dir), zap.Error(err))
	if e.opts.OnFailure != nil {
		e.failOnce.Do(func() { e.opts.OnFailure(err) })
	}
}
