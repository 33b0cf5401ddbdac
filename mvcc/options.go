package mvcc

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"go.uber.org/zap"
)

const (
	// formatVersion is stamped into every store. Raising it is a one-way
	// upgrade of stores on disk.
	formatVersion = pebble.FormatValueSeparation

	// memtableBytes is what a memtable grows to, doubling from 256 KB, so that
	// an idle store stays small and a busy one flushes seldom.
	memtableBytes = 16 << 20
	blockBytes    = 16 << 10
	// indexBlockBytes is large enough for nearly every table to have one index
	// block, so that a lookup searches one instead of two.
	indexBlockBytes = 256 << 10
	bloomBits       = 10

	// maxCompactions is the number of compactions that run at a time over all
	// stores of a member.
	maxCompactions  = 2
	fileCacheShards = 4

	// Level 0 is compacted early, and stops writes only when far behind: a
	// stalled apply costs more than a few more tables to look into.
	l0CompactAt = 4
	l0StopAt    = 48
)

// pebbleOptions returns the options of one database of a store.
func (e *Engine) pebbleOptions(s *Store) *pebble.Options {
	o := &pebble.Options{
		Cache:                       e.cache,
		FileCache:                   e.files,
		FS:                          e.fs,
		Comparer:                    Comparer,
		KeySchema:                   keySchema.Name,
		KeySchemas:                  sstable.MakeKeySchemas(&keySchema),
		FormatMajorVersion:          formatVersion,
		DisableWAL:                  true,
		MemTableSize:                memtableBytes,
		MemTableStopWritesThreshold: 6,
		L0CompactionThreshold:       l0CompactAt,
		L0StopWritesThreshold:       l0StopAt,
		LBaseMaxBytes:               64 << 20,
		FlushSplitBytes:             2 << 20,
		CompactionConcurrencyRange:  func() (int, int) { return 1, maxCompactions },
		BlockPropertyCollectors:     []func() pebble.BlockPropertyCollector{newRevisionCollector},
		Logger:                      &pebbleLogger{dir: s.dir, log: e.log, fatal: e.opts.fatal},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { s.fail(diskError("background work", err)) },
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				s.fail(fmt.Errorf("%w: %s: %w", ErrCorrupt, i.Path, i.Details))
			},
		},
	}
	o.Experimental.CompactionScheduler = e.scheduler.forDB()
	o.Experimental.EnableColumnarBlocks = func() bool { return true }
	o.Experimental.ReadSamplingMultiplier = -1
	for i := range o.Levels {
		o.Levels[i].BlockSize = blockBytes
		o.Levels[i].IndexBlockSize = indexBlockBytes
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(bloomBits)
		o.Levels[i].FilterType = pebble.TableFilter
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return block.FastestCompression }
	}
	// Level 0 is rewritten at once.
	o.Levels[0].Compression = func() *sstable.CompressionProfile { return block.NoCompression }
	return o
}

// pebbleLogger passes pebble's messages on.
type pebbleLogger struct {
	dir   string
	log   *zap.Logger
	fatal func(string)
}

// Infof implements pebble.Logger.
func (l *pebbleLogger) Infof(format string, args ...any) {
	if c := l.log.Check(zap.DebugLevel, "pebble"); c != nil {
		c.Write(zap.String("dir", l.dir), zap.String("message", fmt.Sprintf(format, args...)))
	}
}

// Errorf implements pebble.Logger.
func (l *pebbleLogger) Errorf(format string, args ...any) {
	l.log.Warn("pebble", zap.String("dir", l.dir), zap.String("message", fmt.Sprintf(format, args...)))
}

// Fatalf implements pebble.Logger. Pebble relies on it not to return: what it
// holds in memory no longer agrees with the disk.
func (l *pebbleLogger) Fatalf(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if l.fatal != nil {
		l.fatal(msg)
	}
	l.log.Fatal("pebble cannot go on", zap.String("dir", l.dir), zap.String("message", msg))
}
