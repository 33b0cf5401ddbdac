package mvcc

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// newTestEngine returns an engine on a file system in memory, without
// background work.
func newTestEngine(t testing.TB) *Engine {
	return newTestEngineOn(t, vfs.NewMem())
}

func newTestEngineOn(t testing.TB, fs vfs.FS) *Engine {
	e, err := NewEngine(EngineOptions{
		CacheBytes: 8 << 20, MemtableBudget: 64 << 20, FS: fs, NoBackground: true,
		fatal: func(msg string) { panic(msg) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

func openStore(t testing.TB, e *Engine, dir string) *Store {
	s, err := e.Open(dir)
	require.NoError(t, err)
	return s
}

func key(k string) []byte { return keyspace.User([]byte(k)) }

func put(k, v string, version int64) *Effect {
	return &Effect{Key: key(k), Value: []byte(v), Version: version}
}

func del(k string) *Effect { return &Effect{Key: key(k), Tombstone: true} }

// apply commits one revision.
func apply(t require.TestingT, s *Store, rev int64, effects ...*Effect) {
	b := s.NewBatch()
	for i, e := range effects {
		b.Put(rev, int64(i), e)
	}
	b.SetAppliedIndex(s.AppliedIndex() + 1)
	require.NoError(t, b.Commit())
}

func getValue(t testing.TB, s *Store, k string, rev int64) string {
	sn := s.NewSnapshot()
	defer sn.Close()
	kv, err := sn.Get(key(k), rev)
	require.NoError(t, err)
	if kv == nil {
		return "<none>"
	}
	require.Equal(t, key(k), kv.Key)
	return string(kv.Value)
}

func list(t testing.TB, s *Store, span keyspace.Span, o RangeOptions) (keys []string) {
	sn := s.NewSnapshot()
	defer sn.Close()
	require.NoError(t, sn.Range(context.Background(), span, o, func(kv *mvccpb.KeyValue) bool {
		keys = append(keys, string(kv.Key[1:])+"="+string(kv.Value))
		return true
	}))
	return keys
}

func TestVersionsOfAKey(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	apply(t, s, 2, put("a", "1", 1))
	apply(t, s, 3, &Effect{Key: key("a"), Value: []byte("2"), Create: 2, Version: 2, Lease: -7})
	apply(t, s, 5, del("a"), put("b", "x", 1))
	apply(t, s, 9, put("a", "3", 1))

	for rev, want := range map[int64]string{1: "<none>", 2: "1", 3: "2", 4: "2", 5: "<none>", 8: "<none>", 9: "3", 100: "3", 0: "3"} {
		require.Equal(t, want, getValue(t, s, "a", rev), "revision %d", rev)
	}
	sn := s.NewSnapshot()
	defer sn.Close()
	kv, err := sn.Get(key("a"), 4)
	require.NoError(t, err)
	require.Equal(t, []int64{2, 3, 2, -7}, []int64{kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease})
	h, err := sn.Head(key("a"))
	require.NoError(t, err)
	require.Equal(t, Head{Create: 9, Mod: 9, Version: 1, Exists: true}, h)
	h, err = sn.Head(key("zzz"))
	require.NoError(t, err)
	require.False(t, h.Exists)
	require.EqualValues(t, 4, sn.AppliedIndex())
	require.EqualValues(t, 9, sn.LastRevision())
	require.Equal(t, []string{"a=3", "b=x"}, list(t, s, keyspace.Users(), RangeOptions{}))
	require.Equal(t, []string{"b=x", "a=3"}, list(t, s, keyspace.Users(), RangeOptions{Desc: true}))
	require.Equal(t, []string{"a=2"}, list(t, s, keyspace.Users(), RangeOptions{Rev: 4}))
	require.NoError(t, s.Flush())
	require.Equal(t, []string{"a=2"}, list(t, s, keyspace.Users(), RangeOptions{Rev: 4, Desc: true}))
}

func TestSnapshotIsOneInstant(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	apply(t, s, 2, put("a", "1", 1))
	sn := s.NewSnapshot()
	defer sn.Close()
	b := s.NewBatch()
	b.Put(3, 0, put("a", "2", 2))
	b.SetLocal([]byte("owner"), []byte("m1"))
	b.SetAppliedIndex(9)
	require.NoError(t, b.Commit())

	kv, err := sn.Get(key("a"), 0)
	require.NoError(t, err)
	require.Equal(t, "1", string(kv.Value))
	v, err := sn.GetLocal([]byte("owner"))
	require.NoError(t, err)
	require.Nil(t, v)
	require.EqualValues(t, 1, sn.AppliedIndex())

	v, err = s.GetLocal([]byte("owner"))
	require.NoError(t, err)
	require.Equal(t, "m1", string(v))
	require.EqualValues(t, 9, s.AppliedIndex())
}

// TestSnapshotDuringCommit takes snapshots while apply commits, and checks that
// data, local records and the store's record are of one batch.
func TestSnapshotDuringCommit(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for rev := int64(2); ; rev++ {
			select {
			case <-stop:
				return
			default:
			}
			b := s.NewBatch()
			b.Put(rev, 0, &Effect{Key: key("a"), Value: []byte{byte(rev)}, Version: rev})
			b.SetLocal([]byte("l"), []byte{byte(rev)})
			b.SetAppliedIndex(uint64(rev))
			if err := b.Commit(); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 3000 {
		sn := s.NewSnapshot()
		if sn.LastRevision() == 0 {
			sn.Close()
			continue
		}
		kv, err := sn.Get(key("a"), 0)
		require.NoError(t, err)
		l, err := sn.GetLocal([]byte("l"))
		require.NoError(t, err)
		require.Equal(t, sn.LastRevision(), kv.ModRevision)
		require.EqualValues(t, sn.LastRevision(), sn.AppliedIndex())
		require.Equal(t, kv.Value, l)
		sn.Close()
	}
	close(stop)
	<-done
}

func TestLocalRecords(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	b := s.NewBatch()
	for _, n := range []string{"", "a", "a\x00", "a\x00\x00b", "ab", "b", "\xff", "\xff\xff"} {
		b.SetLocal([]byte(n), []byte("v"+n))
	}
	require.NoError(t, b.Commit())
	scan := func(prefix string) (names []string) {
		require.NoError(t, s.ScanLocal([]byte(prefix), func(n, v []byte) error {
			require.Equal(t, "v"+string(n), string(v))
			names = append(names, string(n))
			return nil
		}))
		return names
	}
	require.Equal(t, []string{"", "a", "a\x00", "a\x00\x00b", "ab", "b", "\xff", "\xff\xff"}, scan(""))
	require.Equal(t, []string{"a", "a\x00", "a\x00\x00b", "ab"}, scan("a"))
	require.Equal(t, []string{"\xff", "\xff\xff"}, scan("\xff"))
	require.Empty(t, scan("c"))
	b = s.NewBatch()
	b.DeleteLocal([]byte("a"))
	require.NoError(t, b.Commit())
	require.Equal(t, []string{"a\x00", "a\x00\x00b", "ab"}, scan("a"))
}

func TestFaultyBatchesAreRefused(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	apply(t, s, 5, put("a", "1", 1))
	for name, fill := range map[string]func(b *Batch){
		"old revision":       func(b *Batch) { b.Put(5, 0, put("b", "", 1)) },
		"falling revision":   func(b *Batch) { b.Put(9, 0, put("b", "", 1)); b.Put(8, 0, put("c", "", 1)) },
		"outside":            func(b *Batch) { b.Put(6, 0, &Effect{Key: []byte("x"), Version: 1}) },
		"empty key":          func(b *Batch) { b.Put(6, 0, &Effect{Version: 1}) },
		"no version":         func(b *Batch) { b.Put(6, 0, &Effect{Key: key("b")}) },
		"created later":      func(b *Batch) { b.Put(6, 0, &Effect{Key: key("b"), Create: 7, Version: 1}) },
		"negative sub":       func(b *Batch) { b.Put(6, -1, put("b", "", 1)) },
		"index falls":        func(b *Batch) { b.SetAppliedIndex(0) },
		"drop after put":     func(b *Batch) { b.Put(6, 0, put("b", "", 1)); b.DropSpan(keyspace.Users()) },
		"after an error":     func(b *Batch) { b.Put(1, 0, put("b", "", 1)); b.Put(6, 0, put("b", "", 1)) },
		"used a second time": func(b *Batch) { b.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			b := s.NewBatch()
			fill(b)
			require.Error(t, b.Commit())
			require.EqualValues(t, 5, s.LastRevision())
			require.Equal(t, []string{"a=1"}, list(t, s, keyspace.All(), RangeOptions{}))
		})
	}
}

func TestClosedStore(t *testing.T) {
	e := newTestEngine(t)
	s := openStore(t, e, "db")
	apply(t, s, 5, put("a", "1", 1))
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())

	ctx := context.Background()
	sn := s.NewSnapshot()
	_, err := sn.Get(key("a"), 0)
	require.ErrorIs(t, err, ErrClosed)
	_, err = sn.Head(key("a"))
	require.ErrorIs(t, err, ErrClosed)
	_, err = sn.Count(ctx, keyspace.All(), 0)
	require.ErrorIs(t, err, ErrClosed)
	_, err = sn.Hash(ctx, keyspace.All(), 0)
	require.ErrorIs(t, err, ErrClosed)
	_, err = sn.GetLocal(nil)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, sn.ScanLocal(nil, nil), ErrClosed)
	require.ErrorIs(t, sn.Range(ctx, keyspace.All(), RangeOptions{}, nil), ErrClosed)
	_, err = sn.Events(ctx, keyspace.All(), 1, 9, 0, nil)
	require.ErrorIs(t, err, ErrClosed)
	sn.Close()
	_, err = s.GetLocal(nil)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, s.Flush(), ErrClosed)
	b := s.NewBatch()
	b.Put(6, 0, put("a", "2", 2))
	b.SetLocal(nil, nil)
	b.DeleteLocal(nil)
	b.DropSpan(keyspace.All())
	b.SetAppliedIndex(3)
	require.ErrorIs(t, b.Commit(), ErrClosed)
	_, err = s.Collect(ctx, CollectLimits{})
	require.ErrorIs(t, err, ErrClosed)
	require.Zero(t, s.Sizes())
	require.Zero(t, s.AppliedIndex())

	s = openStore(t, e, "db")
	require.EqualValues(t, 5, s.LastRevision())
	require.Equal(t, "1", getValue(t, s, "a", 0))
}

func newMem() vfs.FS { return vfs.NewMem() }

// TestManyVersions reads keys with more versions than are stepped over, in both
// directions and at every revision.
func TestManyVersions(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	w := &twin{local: map[string]string{}}
	for rev := int64(1); rev <= 120; rev++ {
		k := key(string(rune('a' + rev*7%3)))
		deleted := rev%11 == 0 && w.get(string(k), 0).Version > 0
		apply(t, s, rev, w.effect(rev, 0, k, "v", 0, deleted))
		w.last, w.applied = rev, w.applied+1
		if rev == 60 {
			require.NoError(t, s.Flush())
		}
	}
	var revs []int64
	for rev := int64(0); rev <= 121; rev++ {
		revs = append(revs, rev)
	}
	sn := s.NewSnapshot()
	defer sn.Close()
	w.check(t, sn, []keyspace.Span{keyspace.All(), keyspace.UserSpan([]byte("b"), nil)}, revs)
}
