package mvcc

import (
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/internal/histogram"
)

// EngineStats are figures of all stores of an engine. Counts are since the
// engine was made, or, where they say so, of the stores that are open.
type EngineStats struct {
	// Stores are open now, with Readers snapshots and batches between them.
	Stores  int
	Readers int64
	// Keys are the live keys of the open stores, as far as they are known.
	Keys int64
	// Commits are the durations of Batch.Commit, Collections those of the steps that
	// throw history away, and CollectedRows what they threw away. CollectedAt is
	// when the last one ended; zero before the first.
	Commits, Collections histogram.Snapshot
	CollectedRows        uint64
	CollectedAt          time.Time
	// Puts and Deletes count the changes that were written, PutBytes the bytes of
	// keys and values of the puts.
	Puts, Deletes, PutBytes uint64
	// UnflushedBytes are in memtables. CacheBytes is what the block cache holds,
	// CacheHits and CacheMisses how it was used.
	UnflushedBytes, CacheBytes, CacheHits, CacheMisses int64
	// Flushes and Compactions are Pebble's in the open stores.
	Flushes, Compactions int64
}

// engineStats are what the stores count.
type engineStats struct {
	commits, collections *histogram.Histogram
	collected            atomic.Uint64

	puts, deletes, putBytes atomic.Uint64
	// collectedAt is in nanoseconds since 1970.
	collectedAt atomic.Int64
}

// The bounds are etcd's for commits and compactions of its backend.
const (
	lowestCommit      = time.Millisecond
	commitBuckets     = 14
	lowestCollection  = time.Millisecond
	collectionBuckets = 20
)

func (s *engineStats) init() {
	s.commits = histogram.New(lowestCommit, commitBuckets)
	s.collections = histogram.New(lowestCollection, collectionBuckets)
}

// committed counts a batch that was committed.
func (s *engineStats) committed(b *Batch, began time.Time) {
	s.commits.Since(began)
	if b.puts > 0 {
		s.puts.Add(b.puts)
		s.putBytes.Add(b.bytes)
	}
	if b.deletes > 0 {
		s.deletes.Add(b.deletes)
	}
}

// collection counts a step that threw history away.
func (s *engineStats) collection(rows int, began time.Time) {
	if rows == 0 {
		return
	}
	now := time.Now()
	s.collections.Observe(now.Sub(began))
	s.collected.Add(uint64(rows))
	s.collectedAt.Store(now.UnixNano())
}

// Stats reads the figures. It takes some microseconds for each store.
func (e *Engine) Stats() EngineStats {
	s := EngineStats{
		Commits: e.stats.commits.Snapshot(), Collections: e.stats.collections.Snapshot(), CollectedRows: e.stats.collected.Load(),
		Puts: e.stats.puts.Load(), Deletes: e.stats.deletes.Load(), PutBytes: e.stats.putBytes.Load(),
		UnflushedBytes: e.unflushed.Load(),
	}
	if at := e.stats.collectedAt.Load(); at > 0 {
		s.CollectedAt = time.Unix(0, at)
	}
	for _, store := range e.stores() {
		store.addTo(&s)
	}
	return s
}

func (s *Store) addTo(sum *EngineStats) {
	g, err := s.acquire()
	if err != nil {
		return
	}
	defer g.release()
	sum.Stores++
	// The store itself and this call are users as well.
	sum.Readers += max(g.refs.Load()-2, 0)
	keys, _ := g.counters.total()
	sum.Keys += keys
	m := g.db.Metrics()
	sum.Flushes += m.Flush.Count
	sum.Compactions += m.Compact.Count
	// The cache is one for all stores.
	sum.CacheBytes, sum.CacheHits, sum.CacheMisses = m.BlockCache.Size, m.BlockCache.Hits, m.BlockCache.Misses
}
