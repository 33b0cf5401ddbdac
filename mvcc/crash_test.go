package mvcc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// crashingFS copies what a crash would leave of a file system right before its
// n-th writing operation.
type crashingFS struct {
	mem   *vfs.MemFS
	after atomic.Int64
	armed atomic.Bool
	seed  uint64
	once  sync.Once
	left  *vfs.MemFS
}

// MaybeError implements errorfs.Injector; it never returns an error.
func (c *crashingFS) MaybeError(op errorfs.Op) error {
	if c.armed.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && c.after.Add(-1) == 0 {
		c.once.Do(func() {
			c.left = c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(c.seed % 3 * 50), RNG: testRand(c.seed)})
		})
	}
	return nil
}

func (c *crashingFS) String() string { return "crash" }

// runUntilCrash runs fn on a file system that crashes at a writing operation of
// it, and returns what is left; nil where fn has fewer of them.
func runUntilCrash(t *testing.T, at int, prepare, fn func(e *Engine)) *vfs.MemFS {
	c := &crashingFS{mem: vfs.NewCrashableMem(), seed: uint64(at)}
	c.after.Store(int64(at))
	e, err := NewEngine(EngineOptions{
		CacheBytes: 1 << 20, MemtableBudget: 8 << 20, FS: errorfs.Wrap(c.mem, c), NoBackground: true,
		fatal: func(msg string) { panic(msg) },
	})
	require.NoError(t, err)
	prepare(e)
	c.armed.Store(true)
	fn(e)
	c.armed.Store(false)
	require.NoError(t, e.Close())
	return c.left
}

// eachCrash runs fn with a crash at every one of its writing operations.
func eachCrash(t *testing.T, prepare, fn func(e *Engine), check func(t *testing.T, left *vfs.MemFS)) {
	for at := 1; ; at++ {
		left := runUntilCrash(t, at, prepare, fn)
		if left == nil {
			require.Greater(t, at, 5, "too few writing operations to mean anything")
			return
		}
		t.Run(fmt.Sprintf("op%d", at), func(t *testing.T) { check(t, left) })
	}
}

func fillSmall(t testing.TB, s *Store, from, n int) {
	for i := range n {
		b := s.NewBatch()
		rev := s.LastRevision() + 1
		b.Put(rev, 0, put(fmt.Sprintf("%c%03d", 'a'+i%4, from+i), fmt.Sprint(rev), 1))
		b.SetAppliedIndex(uint64(rev))
		b.SetLocal([]byte("owner"), []byte(fmt.Sprint(rev)))
		require.NoError(t, b.Commit())
	}
}

// TestSeedSurvivesACrash crashes at every step of making a seed: the seed is
// complete or not there, and making it again ends with the same.
func TestSeedSurvivesACrash(t *testing.T) {
	keep := keyspace.Span{Start: key("b"), End: key("d")}
	local := map[string][]byte{"descriptor": []byte("child")}
	seed := func(e *Engine, parent *Store) {
		require.NoError(t, e.Seed("shards/2", parent, keep, parent.LastRevision(), local))
	}
	check := func(t *testing.T, e *Engine) {
		child := openStore(t, e, "shards/2")
		require.Len(t, list(t, child, keyspace.All(), RangeOptions{}), 50)
		require.Len(t, list(t, child, keep, RangeOptions{}), 50)
		require.EqualValues(t, 100, child.LastRevision())
		require.EqualValues(t, 10, child.CompactRevision())
		require.Zero(t, child.AppliedIndex())
		v, err := child.GetLocal([]byte("owner"))
		require.NoError(t, err)
		require.Nil(t, v)
		v, err = child.GetLocal([]byte("descriptor"))
		require.NoError(t, err)
		require.Equal(t, "child", string(v))
	}
	var parent *Store
	eachCrash(t, func(e *Engine) {
		parent = openStore(t, e, "shards/1")
		fillSmall(t, parent, 0, 100)
		b := parent.NewBatch()
		b.SetCompactRevision(10)
		require.NoError(t, b.Commit())
		require.NoError(t, parent.Flush())
	}, func(e *Engine) {
		seed(e, parent)
	}, func(t *testing.T, left *vfs.MemFS) {
		e := newTestEngineOn(t, left)
		parent := openStore(t, e, "shards/1")
		require.Len(t, list(t, parent, keyspace.All(), RangeOptions{}), 100)
		if _, err := left.Stat("shards/2"); err == nil {
			s := openStore(t, e, "shards/2")
			require.EqualValues(t, 100, s.LastRevision())
			require.NoError(t, s.Close())
		}
		seed(e, parent)
		seed(e, parent)
		check(t, e)
	})
}

// TestReadSnapshotSurvivesACrash crashes at every step of replacing the state:
// what is left is the old state or the new one as a whole.
func TestReadSnapshotSurvivesACrash(t *testing.T) {
	var stream []byte
	{
		s := openStore(t, newTestEngine(t), "source")
		fillSmall(t, s, 1000, 300)
		sn := s.NewSnapshot()
		var buf bytes.Buffer
		require.NoError(t, s.WriteSnapshot(sn, &buf, nil))
		sn.Close()
		stream = buf.Bytes()
	}
	var s *Store
	seen := map[int64]int{}
	eachCrash(t, func(e *Engine) {
		s = openStore(t, e, "db")
		fillSmall(t, s, 0, 40)
		require.NoError(t, s.Flush())
	}, func(*Engine) {
		require.NoError(t, s.ReadSnapshot(bytes.NewReader(stream), nil))
		require.EqualValues(t, 300, s.LastRevision())
		s.replaced.Wait()
	}, func(t *testing.T, left *vfs.MemFS) {
		e := newTestEngineOn(t, left)
		s := openStore(t, e, "db")
		last := s.LastRevision()
		seen[last]++
		require.Contains(t, []int64{40, 300}, last)
		require.EqualValues(t, last, s.AppliedIndex())
		v, err := s.GetLocal([]byte("owner"))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(last), string(v))
		require.Len(t, list(t, s, keyspace.All(), RangeOptions{}), int(last))
		names, err := left.List("db")
		require.NoError(t, err)
		generations := 0
		for _, n := range names {
			if isGeneration(n) {
				generations++
			}
		}
		require.Equal(t, 1, generations, "left-overs in %v", names)
		require.NoError(t, s.ReadSnapshot(bytes.NewReader(stream), nil))
		require.Len(t, list(t, s, keyspace.All(), RangeOptions{}), 300)
	})
	require.Positive(t, seen[40])
	require.Positive(t, seen[300])
}

// TestReadSnapshotLeavesTheOldState tries streams that end early, are stopped,
// or are not one.
func TestReadSnapshotLeavesTheOldState(t *testing.T) {
	e := newTestEngine(t)
	s := openStore(t, e, "db")
	fillSmall(t, s, 0, 40)
	src := openStore(t, e, "src")
	fillSmall(t, src, 0, 3000)
	sn := src.NewSnapshot()
	defer sn.Close()
	var buf bytes.Buffer
	require.NoError(t, src.WriteSnapshot(sn, &buf, nil))
	good := buf.Bytes()

	held := s.NewSnapshot()
	defer held.Close()
	stopped := make(chan struct{})
	close(stopped)
	require.ErrorIs(t, s.ReadSnapshot(bytes.NewReader(good), stopped), ErrStopped)
	require.ErrorIs(t, src.WriteSnapshot(sn, &buf, stopped), ErrStopped)
	require.Error(t, src.WriteSnapshot(held, &buf, nil), "snapshot of another store")
	for _, n := range []int{0, 5, len(streamHeader), len(streamHeader) + 3, len(good) / 2, len(good) - 1} {
		require.Error(t, s.ReadSnapshot(bytes.NewReader(good[:n]), nil), "%d bytes", n)
	}
	for i := 0; i < len(good); i += len(good)/50 + 1 {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		require.Error(t, s.ReadSnapshot(bytes.NewReader(bad), nil), "byte %d", i)
	}
	require.Len(t, list(t, s, keyspace.All(), RangeOptions{}), 40)

	require.NoError(t, s.ReadSnapshot(bytes.NewReader(good), nil))
	require.Len(t, list(t, s, keyspace.All(), RangeOptions{}), 3000)
	n, err := held.Count(context.Background(), keyspace.All(), 0)
	require.NoError(t, err)
	require.EqualValues(t, 40, n, "a snapshot stays with the state that it was taken of")
	apply(t, s, s.LastRevision()+1, put("new", "x", 1))
	require.Equal(t, "x", getValue(t, s, "new", 0))
}

// failingFS fails writing operations on the files whose path contains a text.
type failingFS struct {
	in  string
	on  atomic.Bool
	err error
}

func (f *failingFS) MaybeError(op errorfs.Op) error {
	if f.on.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.Contains(op.Path, f.in) {
		return f.err
	}
	return nil
}

func (f *failingFS) String() string { return "fail" }

// TestFailedFlushIsTold has a disk that no longer takes tables.
func TestFailedFlushIsTold(t *testing.T) {
	fs := &failingFS{in: ".sst", err: errors.New("no more disk")}
	told := make(chan error, 1)
	e, err := NewEngine(EngineOptions{
		FS: errorfs.Wrap(vfs.NewMem(), fs), NoBackground: true, OnFailure: func(err error) { told <- err },
		fatal: func(msg string) { panic(msg) },
	})
	require.NoError(t, err)
	s := openStore(t, e, "db")
	apply(t, s, 2, put("a", "1", 1))
	fs.on.Store(true)
	require.ErrorIs(t, s.Flush(), fs.err)
	require.ErrorIs(t, <-told, fs.err)
	b := s.NewBatch()
	b.Put(3, 0, put("a", "2", 2))
	require.ErrorIs(t, b.Commit(), fs.err, "a store that failed takes no writes")
	require.Equal(t, "1", getValue(t, s, "a", 0), "what is there can still be read")
	fs.on.Store(false)
	require.NoError(t, e.Close())
}

// TestCorruptTable flips bytes of tables on disk: reads end in ErrCorrupt, or
// in what was written.
func TestCorruptTable(t *testing.T) {
	mem := vfs.NewMem()
	e := newTestEngineOn(t, mem)
	s := openStore(t, e, "db")
	fillSmall(t, s, 0, 2000)
	require.NoError(t, s.Close())
	names, err := mem.List("db/" + firstGeneration)
	require.NoError(t, err)
	for _, n := range names {
		if !strings.HasSuffix(n, ".sst") {
			continue
		}
		path := "db/" + firstGeneration + "/" + n
		f, err := mem.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
		require.NoError(t, err)
		for at := int64(100); at < 40000; at += 500 {
			_, _ = f.WriteAt([]byte{0xde, 0xad}, at)
		}
		require.NoError(t, f.Close())
	}
	told := make(chan error, 1)
	e2, err := NewEngine(EngineOptions{FS: mem, NoBackground: true, OnFailure: func(err error) { told <- err }})
	require.NoError(t, err)
	s, err = e2.Open("db")
	if err == nil {
		sn := s.NewSnapshot()
		_, err = sn.Hash(context.Background(), keyspace.All(), 0)
		sn.Close()
	}
	require.ErrorIs(t, err, ErrCorrupt)
	_ = e2.Close()
}
