package mvcc

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eventually waits for a condition that the background work brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	require.Eventually(t, ok, 2*time.Minute, 5*time.Millisecond, what)
}

// TestBackgroundWork leaves collection and counters to the engine.
func TestBackgroundWork(t *testing.T) {
	e, err := NewEngine(EngineOptions{FS: vfs.NewMem()})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	s := openStore(t, e, "db")
	fill(t, s, 5000)
	for i := range 500 {
		apply(t, s, s.LastRevision()+1, &Effect{Key: key(benchKey(i)), Create: 1, Version: 2})
	}
	b := s.NewBatch()
	b.DropSpan(keyspace.Span{Start: key(benchKey(4000)), End: key(benchKey(4500))})
	b.SetCompactRevision(s.LastRevision())
	require.NoError(t, b.Commit())
	eventually(t, "collected", func() bool { return s.CollectedRevision() == s.LastRevision() && !s.needsWork() })
	z := s.Sizes()
	require.True(t, z.KeysExact)
	require.GreaterOrEqual(t, z.Keys, int64(4500))
	require.Less(t, z.Keys, int64(4700))

	versions, index := countStoredRows(t, s)
	require.Equal(t, int(z.Keys), versions, "one version per key is left")
	require.Equal(t, 1, index, "the index of the compaction revision is left")
}

// countStoredRows counts what lies in the database, visible or not.
func countStoredRows(t require.TestingT, s *Store) (versions, index int) {
	sn := s.NewSnapshot()
	defer sn.Close()
	require.NoError(t, sn.scanRows(nil, nil, func(it *pebble.Iterator) error {
		switch it.Key()[0] {
		case indexPrefix:
			index++
		case 0x01, 0x02:
			versions++
		}
		return nil
	}))
	return versions, index
}

// TestCollectKeepsWhatCompactionPromises checks the rows that are left around
// the compaction revision.
func TestCollectKeepsWhatCompactionPromises(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	apply(t, s, 1, put("a", "1", 1), put("b", "1", 1), put("c", "1", 1))
	apply(t, s, 2, put("a", "2", 2), del("b"))
	apply(t, s, 3, put("a", "3", 3), del("c"))
	apply(t, s, 4, put("b", "4", 1))
	held := s.NewSnapshot()
	defer held.Close()
	compact := func(rev int64) {
		b := s.NewBatch()
		b.SetCompactRevision(rev)
		require.NoError(t, b.Commit())
		for done := false; !done; {
			var err error
			done, err = s.Collect(context.Background(), CollectLimits{Rows: 1, Deletes: 1})
			require.NoError(t, err)
		}
	}
	compact(3)
	versions, index := countStoredRows(t, s)
	// a@3; c's deletion at 3, which a watch from 3 needs; b@4.
	require.Equal(t, 3, versions)
	require.Equal(t, 3, index)
	require.Equal(t, []string{"a=3"}, list(t, s, keyspace.All(), RangeOptions{Rev: 3}))
	compact(4)
	versions, index = countStoredRows(t, s)
	require.Equal(t, 2, versions)
	require.Equal(t, 1, index)
	require.Equal(t, []string{"a=3", "b=4"}, list(t, s, keyspace.All(), RangeOptions{Rev: 4}))

	kv, err := held.Get(key("b"), 1)
	require.NoError(t, err)
	require.Equal(t, "1", string(kv.Value), "a snapshot of before the compaction keeps its history")
}

// TestMemtableBudget writes more than the budget to several stores: those with
// the most are flushed.
func TestMemtableBudget(t *testing.T) {
	e, err := NewEngine(EngineOptions{FS: vfs.NewMem(), MemtableBudget: 1 << 20})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	var stores []*Store
	for i := range 4 {
		stores = append(stores, openStore(t, e, fmt.Sprint(i)))
	}
	fill(t, stores[0], 64)
	small := stores[0].current.Load().unflushed.Load()
	require.Positive(t, small)
	for range 3 {
		for _, s := range stores[1:] {
			fill(t, s, 2000)
		}
	}
	eventually(t, "within budget", func() bool { return e.unflushed.Load() <= e.opts.MemtableBudget })
	require.Equal(t, small, stores[0].current.Load().unflushed.Load(), "the small one was left alone")
}

// TestFlushOfACleanStore takes no flush.
func TestFlushOfACleanStore(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	flushes := func() int64 { return s.current.Load().db.Metrics().Flush.Count }
	before := flushes()
	require.NoError(t, s.Flush())
	require.Equal(t, before, flushes())
	apply(t, s, 1, put("a", "1", 1))
	require.NoError(t, s.Flush())
	require.NoError(t, s.Flush())
	require.Equal(t, before+1, flushes())
	b := s.NewBatch()
	require.NoError(t, b.Commit())
	require.NoError(t, s.Flush())
	require.Equal(t, before+1, flushes(), "an empty batch leaves the store clean")
}

// TestCloseEndsScans closes a store under readers.
func TestCloseEndsScans(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	fill(t, s, 20000)
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				sn := s.NewSnapshot()
				_, err := sn.countRows(context.Background(), keyspace.All(), 0)
				sn.Close()
				if err != nil {
					require.ErrorIs(t, err, ErrClosed)
					return
				}
				if _, err := s.GetLocal([]byte("x")); err != nil {
					require.ErrorIs(t, err, ErrClosed)
				}
				_ = s.Sizes()
			}
		}()
	}
	require.NoError(t, s.Close())
	wg.Wait()
}

// fakeDB is a database that wants to compact.
type fakeDB struct {
	mu      sync.Mutex
	slots   *dbSlots
	allowed int
	waiting int
	score   float64
	started chan float64
}

func (f *fakeDB) GetAllowedWithoutPermission() int { return f.allowed }

func (f *fakeDB) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting > 0, pebble.WaitingCompaction{Priority: 1, Score: f.score}
}

func (f *fakeDB) Schedule(pebble.CompactionGrantHandle) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting == 0 {
		return false
	}
	f.waiting--
	f.started <- f.score
	return true
}

// TestCompactionSlots has three databases compete for two slots.
func TestCompactionSlots(t *testing.T) {
	c := newCompactionSlots(2)
	defer c.close()
	started := make(chan float64, 10)
	var dbs []*fakeDB
	for i := range 3 {
		f := &fakeDB{allowed: 1, score: float64(i), started: started, slots: c.forDB()}
		f.slots.Register(1, f)
		dbs = append(dbs, f)
	}
	ok, first := dbs[0].slots.TrySchedule()
	require.True(t, ok)
	ok, _ = dbs[0].slots.TrySchedule()
	require.False(t, ok, "more than the database may run")
	ok, second := dbs[1].slots.TrySchedule()
	require.True(t, ok)
	dbs[1].waiting, dbs[2].waiting = 1, 1
	ok, _ = dbs[2].slots.TrySchedule()
	require.False(t, ok, "no slot is free")
	ok, _ = dbs[1].slots.TrySchedule()
	require.False(t, ok)

	second.Done()
	require.Equal(t, 2.0, <-started, "the most urgent one comes first")
	first.Done()
	require.Equal(t, 1.0, <-started)
	for _, f := range dbs {
		f.slots.Unregister()
		ok, _ := f.slots.TrySchedule()
		require.False(t, ok, "closed")
	}
	dbs[1].slots.Done()
	dbs[2].slots.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Zero(t, c.mu.running)
}

// TestStoresAreSmall bounds what an open store costs.
func TestStoresAreSmall(t *testing.T) {
	e := newTestEngine(t)
	heap := func() int64 {
		// What pools hold goes at the second collection.
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	const n = 30
	before := heap()
	for i := range n {
		apply(t, openStore(t, e, fmt.Sprint(i)), 1, put("a", "1", 1))
	}
	each := (heap() - before) / n
	t.Logf("%d bytes of heap per store", each)
	require.Less(t, each, int64(700<<10))
}
