package mvcc

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// TestEventsEndAtRevisions stops deliveries in every way that there is.
func TestEventsEndAtRevisions(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	apply(t, s, 2, put("a", "1", 1), put("b", "1", 1))
	apply(t, s, 3, put("a", "2", 2))
	apply(t, s, 7, put("a", "3", 3), del("b"))
	sn := s.NewSnapshot()
	defer sn.Close()
	read := func(span keyspace.Span, from, to int64, maxBytes, stopAfter int) (got []string, next int64) {
		next, err := sn.Events(context.Background(), span, from, to, maxBytes, func(rev, sub int64, kv *mvccpb.KeyValue, tombstone bool) bool {
			// The reader may look around meanwhile.
			prev, err := sn.GetAt(kv.Key, rev-1)
			require.NoError(t, err)
			old := ""
			if prev != nil {
				old = string(prev.Value)
			}
			got = append(got, fmt.Sprintf("%d/%d %s=%s was %s", rev, sub, kv.Key[1:], kv.Value, old))
			return len(got) != stopAfter
		})
		require.NoError(t, err)
		return got, next
	}
	all := []string{"2/0 a=1 was ", "2/1 b=1 was ", "3/0 a=2 was 1", "7/0 a=3 was 2", "7/1 b= was 1"}
	users, a := keyspace.Users(), keyspace.UserSpan([]byte("a"), nil)
	for _, tc := range []struct {
		span                keyspace.Span
		from, to            int64
		maxBytes, stopAfter int
		want                []string
		next                int64
	}{
		{users, 1, 100, 0, 0, all, 8},
		{users, 2, 7, 0, 0, all, 8},
		{users, 2, 6, 0, 0, all[:3], 7},
		{users, 3, 3, 0, 0, all[2:3], 4},
		{users, 4, 6, 0, 0, nil, 7},
		{users, 8, 9, 0, 0, nil, 8},
		{users, 20, 30, 0, 0, nil, 20},
		{users, 1, 9, 1, 0, all[:2], 3},
		{users, 1, 9, 7, 0, all[:3], 7},
		{users, 1, 9, 0, 1, all[:1], 2},
		{users, 1, 9, 0, 4, all[:4], 7},
		{a, 1, 9, 0, 0, []string{all[0], all[2], all[3]}, 8},
		{a, 3, 6, 0, 0, []string{all[2]}, 7},
		{a, 1, 9, 1, 0, []string{all[0]}, 3},
		{a, 1, 9, 0, 2, []string{all[0], all[2]}, 3},
		{keyspace.Span{}, 1, 9, 0, 0, nil, 8},
	} {
		got, next := read(tc.span, tc.from, tc.to, tc.maxBytes, tc.stopAfter)
		require.Equal(t, tc.want, got, "%+v", tc)
		require.Equal(t, tc.next, next, "%+v", tc)
	}
	_, err := sn.Events(context.Background(), users, 0, 9, 0, nil)
	require.Error(t, err)
}

// TestReadsObeyTheContext cancels every kind of scan.
func TestReadsObeyTheContext(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	fill(t, s, 4096)
	apply(t, s, 5000, del(benchKey(0)))
	require.NoError(t, s.Flush())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	sn := s.NewSnapshot()
	defer sn.Close()
	all := keyspace.All()
	for _, desc := range []bool{false, true} {
		require.ErrorIs(t, sn.Range(ctx, all, RangeOptions{Desc: desc}, func(*mvccpb.KeyValue) bool { return true }), context.Canceled)
	}
	_, err := sn.Hash(ctx, all, 0)
	require.ErrorIs(t, err, context.Canceled)
	_, err = sn.Events(ctx, all, 1, 5000, 0, func(int64, int64, *mvccpb.KeyValue, bool) bool { return true })
	require.ErrorIs(t, err, context.Canceled)
	_, err = sn.countRows(ctx, all, 0)
	require.ErrorIs(t, err, context.Canceled)
}

// TestHashesAddUp compares the hash of the whole with those of its parts.
func TestHashesAddUp(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	fillSmall(t, s, 0, 500)
	sn := s.NewSnapshot()
	defer sn.Close()
	hash := func(span keyspace.Span) uint32 {
		h, err := sn.Hash(context.Background(), span, 0)
		require.NoError(t, err)
		return h
	}
	whole := hash(keyspace.All())
	for _, cut := range []string{"a", "b200", "c", "zz"} {
		left, right := keyspace.All(), keyspace.All()
		left.End, right.Start = key(cut), key(cut)
		require.Equal(t, whole, hash(left)+hash(right))
	}
	require.NotEqual(t, whole, hash(keyspace.UserSpan([]byte("b"), []byte{0})))
}

// TestLargeValues writes values that are larger than a memtable.
func TestLargeValues(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	large := bytes.Repeat([]byte("0123456789abcdef"), (memtableBytes+1<<20)/16)
	apply(t, s, 1, put("small", "x", 1), &Effect{Key: key("large"), Value: large, Version: 1})
	check := func(s *Store) {
		sn := s.NewSnapshot()
		defer sn.Close()
		n := 0
		require.NoError(t, sn.Range(context.Background(), keyspace.All(), RangeOptions{}, func(kv *mvccpb.KeyValue) bool {
			if n++; n == 1 {
				require.True(t, bytes.Equal(large, kv.Value))
			}
			return true
		}))
		require.Equal(t, 2, n)
	}
	check(s)
	require.NoError(t, s.Flush())
	check(s)
	var buf bytes.Buffer
	sn := s.NewSnapshot()
	defer sn.Close()
	require.NoError(t, s.WriteSnapshot(sn, &buf, nil))
	other := openStore(t, s.engine, "other")
	require.NoError(t, other.ReadSnapshot(&buf, nil))
	check(other)
}

// TestCheckpoint opens a copy while the store goes on.
func TestCheckpoint(t *testing.T) {
	e := newTestEngine(t)
	s := openStore(t, e, "db")
	fillSmall(t, s, 0, 100)
	require.NoError(t, s.Checkpoint("copies/1"))
	require.ErrorIs(t, s.Checkpoint("copies/1"), os.ErrExist)
	fillSmall(t, s, 100, 100)
	c := openStore(t, e, "copies/1")
	require.EqualValues(t, 100, c.AppliedIndex())
	require.Len(t, list(t, c, keyspace.All(), RangeOptions{}), 100)
	apply(t, c, 500, put("mine", "x", 1))
	require.Equal(t, "<none>", getValue(t, s, "mine", 0))
	require.Error(t, e.Seed("copies/2", s, keyspace.Span{}, 100, nil), "empty span")
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Checkpoint("copies/3"), ErrClosed)
	require.ErrorIs(t, e.Seed("copies/3", s, keyspace.All(), 100, nil), ErrClosed)
}

// TestForeignBytesInTheDirectory damages each of the files that are not tables:
// opening ends in an error or in a store, never in a panic.
func TestForeignBytesInTheDirectory(t *testing.T) {
	mem := vfs.NewMem()
	e := newTestEngineOn(t, mem)
	s := openStore(t, e, "db")
	fillSmall(t, s, 0, 50)
	require.NoError(t, s.Close())
	dir := "db/" + firstGeneration
	names, err := mem.List(dir)
	require.NoError(t, err)
	opened := 0
	for _, name := range names {
		for _, content := range []string{"", "\x00\x01\x02 nonsense \xff"} {
			copied := vfs.NewMem()
			ok, err := vfs.Clone(mem, copied, "db", "db")
			require.NoError(t, err)
			require.True(t, ok)
			f, err := copied.Create(dir+"/"+name, vfs.WriteCategoryUnspecified)
			require.NoError(t, err)
			_, err = f.Write([]byte(content))
			require.NoError(t, err)
			require.NoError(t, f.Close())
			e, err := NewEngine(EngineOptions{FS: copied, NoBackground: true})
			require.NoError(t, err)
			if s, err := e.Open("db"); err == nil {
				opened++
				sn := s.NewSnapshot()
				_, _ = sn.Hash(context.Background(), keyspace.All(), 0)
				sn.Close()
			}
			_ = e.Close()
		}
	}
	require.Less(t, opened, 2*len(names), "no damage was noticed")
}
