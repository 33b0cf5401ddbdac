package logstore

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/raftio"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/internal/histogram"
)

const (
	// formatVersion is stamped into the store; raising it is a one-way upgrade.
	formatVersion = pebble.FormatValueSeparation

	memtableBytes = 64 << 20
	memtables     = 4
	cacheBytes    = memtables*memtableBytes + 16<<20
	slowDisk      = 2 * time.Second
)

// Format numbers the layout of keys and values.
const Format = 1

// Name goes, like Format, into Dragonboat's flag file.
const Name = "kvd-logstore"

// Options say how to open a Store.
type Options struct {
	// Dir holds the store, WALDir its write-ahead log if it shall lie elsewhere.
	Dir, WALDir string
	// NoSync leaves durability to the operating system.
	NoSync bool
	// Busy is told when writes begin and cease to be held up by compaction. It is called from a goroutine of the store's own.
	Busy   func(bool)
	Logger *zap.Logger
	// Fatal is called with the reason before the process must end, because what is in memory does not agree with the disk any more.
	Fatal func(error)

	fs vfs.FS
}

// Store implements raftio.ILogDB. It is safe for concurrent use.
type Store struct {
	opts  Options
	db    *pebble.DB
	cache *pebble.Cache
	write *pebble.WriteOptions
	busy  *busyNotifier
	// writes are the durations of commits.
	writes *histogram.Histogram
	// watch is what watches the disk's health.
	watch io.Closer

	mu struct {
		sync.RWMutex
		replicas map[raftio.NodeInfo]*replica
	}
	// unsaved is the sum of all replicas' unsaved.
	unsaved atomic.Int64
}

var _ raftio.ILogDB = (*Store)(nil)

// replica caches what the store knows about one replica.
type replica struct {
	id raftio.NodeInfo

	mu struct {
		sync.Mutex
		record record
		// stored tells that there is a record on disk, dirty that it is older than the cached one.
		stored, dirty bool
		// snapshot is the index of the newest snapshot; entries below removed were removed since the store was opened.
		snapshot, removed uint64
		// unsaved is how many bytes of entries were written, and are on disk, since the newest snapshot.
		unsaved int64
	}
}

// Open opens or creates the store.
func Open(opts Options) (*Store, error) {
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	s := &Store{opts: opts, cache: pebble.NewCache(cacheBytes), write: pebble.Sync, busy: newBusyNotifier(opts.Busy),
		writes: histogram.New(lowestWrite, writeBuckets)}
	if opts.NoSync {
		s.write = pebble.NoSync
	}
	s.mu.replicas = make(map[raftio.NodeInfo]*replica)
	if s.opts.fs == nil {
		s.opts.fs = vfs.Default
	}
	s.opts.fs, s.watch = vfs.WithDiskHealthChecks(s.opts.fs, slowDisk, nil, func(i vfs.DiskSlowInfo) {
		s.opts.Logger.Warn("the disk of the raft log is slow", zap.Stringer("operation", i.OpType), zap.Duration("since", i.Duration))
	})
	db, err := pebble.Open(opts.Dir, s.pebbleOptions())
	if err != nil {
		_ = s.watch.Close()
		s.busy.close()
		s.cache.Unref()
		return nil, fmt.Errorf("logstore: opening %s: %w", opts.Dir, err)
	}
	s.db = db
	return s, nil
}

func (s *Store) pebbleOptions() *pebble.Options {
	o := &pebble.Options{
		Cache:                       s.cache,
		FS:                          s.opts.fs,
		WALDir:                      s.opts.WALDir,
		FormatMajorVersion:          formatVersion,
		MemTableSize:                memtableBytes,
		MemTableStopWritesThreshold: memtables,
		// Entries are written once and soon deleted by range: few, late compactions, and none for what a range deletion covers.
		L0CompactionThreshold:      8,
		L0StopWritesThreshold:      32,
		LBaseMaxBytes:              1 << 30,
		CompactionConcurrencyRange: func() (int, int) { return 1, 1 },
		// Writeback in small steps, so that the sync of an entry does not wait for megabytes of others.
		WALBytesPerSync: 512 << 10,
		BytesPerSync:    1 << 20,
		Logger:          &pebbleLogger{s},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { s.opts.Logger.Error("raft log store", zap.Error(err)) },
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				s.fatal(fmt.Errorf("%w: %s: %w", ErrCorrupt, i.Path, i.Details))
			},
			WriteStallBegin: func(pebble.WriteStallBeginInfo) { s.busy.set(true) },
			WriteStallEnd:   func() { s.busy.set(false) },
		},
	}
	o.Experimental.ReadSamplingMultiplier = -1
	for i := range o.Levels {
		o.Levels[i].BlockSize = 32 << 10
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return block.NoCompression }
	}
	return o
}

func (s *Store) fatal(err error) {
	s.opts.Logger.Error("raft log store failed, the process cannot go on", zap.Error(err))
	if s.opts.Fatal != nil {
		s.opts.Fatal(err)
	}
}

// Name implements raftio.ILogDB.
func (s *Store) Name() string { return Name }

// BinaryFormat implements raftio.ILogDB.
func (s *Store) BinaryFormat() uint32 { return Format }

// Close implements raftio.ILogDB. What was still in memory only is written.
func (s *Store) Close() error {
	err := s.writeDirty()
	if cerr := s.db.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("logstore: closing: %w", cerr)
	}
	_ = s.watch.Close()
	s.busy.close()
	s.cache.Unref()
	return err
}

func (s *Store) writeDirty() error {
	b := s.db.NewBatch()
	defer b.Close()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, r := range s.mu.replicas {
		r.mu.Lock()
		if r.mu.dirty {
			r.putRecordLocked(b)
		}
		r.mu.Unlock()
	}
	if b.Empty() {
		return nil
	}
	return s.commit(b)
}

// Metrics returns the metrics of the underlying store.
func (s *Store) Metrics() *pebble.Metrics { return s.db.Metrics() }

func (s *Store) commit(b *pebble.Batch) error {
	defer s.writes.Since(time.Now())
	if err := b.Commit(s.write); err != nil {
		return fmt.Errorf("logstore: writing: %w", err)
	}
	return nil
}

// replica returns the cached state of a replica, reading it from disk the first time.
func (s *Store) replica(id raftio.NodeInfo) (*replica, error) {
	s.mu.RLock()
	r := s.mu.replicas[id]
	s.mu.RUnlock()
	if r != nil {
		return r, nil
	}
	r = &replica{id: id}
	err := s.get(replicaKey(kindState, id), func(b []byte) (err error) {
		r.mu.stored = true
		r.mu.record, err = decodeRecord(b)
		return err
	})
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return nil, err
	}
	snapshot, err := s.readSnapshot(id)
	if err != nil {
		return nil, err
	}
	r.mu.snapshot = snapshot.Index
	if r.mu.unsaved, err = s.measure(r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.mu.replicas[id]; first != nil {
		return first, nil
	}
	s.mu.replicas[id] = r
	s.unsaved.Add(r.mu.unsaved)
	return r, nil
}

// putRecordLocked adds the replica's record to a batch.
func (r *replica) putRecordLocked(b *pebble.Batch) {
	op := b.SetDeferred(replicaKeyLen, stateLen)
	putReplicaKey(op.Key, kindState, r.id)
	putRecord(op.Value, r.mu.record)
	// Finish fails only for indexed batches.
	_ = op.Finish()
	r.mu.stored, r.mu.dirty = true, false
}

// get reads one value; the bytes are valid during the call of f only.
func (s *Store) get(key []byte, f func([]byte) error) error {
	b, closer, err := s.db.Get(key)
	if err != nil {
		if errors.Is(err, pebble.ErrNotFound) {
			return err
		}
		return fmt.Errorf("logstore: reading: %w", err)
	}
	err = f(b)
	if cerr := closer.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("logstore: reading: %w", cerr)
	}
	return err
}

// scan visits the keys in [lower, upper) until f returns false.
func (s *Store) scan(lower, upper []byte, f func(key, value []byte) (bool, error)) (err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("logstore: reading: %w", err)
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("logstore: reading: %w", cerr)
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("logstore: reading: %w", err)
		}
		if more, err := f(it.Key(), value); err != nil || !more {
			return err
		}
	}
	return nil
}

// pebbleLogger passes Pebble's messages on.
type pebbleLogger struct{ s *Store }

func (l *pebbleLogger) Infof(format string, args ...any) {
	if ce := l.s.opts.Logger.Check(zap.DebugLevel, ""); ce != nil {
		ce.Message = fmt.Sprintf(format, args...)
		ce.Write()
	}
}

func (l *pebbleLogger) Errorf(format string, args ...any) {
	l.s.opts.Logger.Warn(fmt.Sprintf(format, args...))
}

// Fatalf must not return.
func (l *pebbleLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf("logstore: "+format, args...)
	l.s.fatal(err)
	panic(err)
}
