package mvcc

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// versionsOf gathers what Versions visits.
func versionsOf(t *testing.T, sn *Snapshot, from, to int64) []string {
	t.Helper()
	var got []string
	require.NoError(t, sn.Versions(t.Context(), keyspace.All(), from, to, func(v *Version) error {
		mark := ""
		if v.Tombstone {
			mark = " dead"
		}
		got = append(got, fmt.Sprintf("%s@%d.%d=%s%s", v.Key[1:], v.Revision, v.Sub, v.Value, mark))
		return nil
	}))
	return got
}

func putOne(t *testing.T, s *Store, rev int64, key string, e Effect) {
	t.Helper()
	e.Key = keyspace.User([]byte(key))
	b := s.NewBatch()
	b.Put(rev, 0, &e)
	require.NoError(t, b.Commit())
}

// A pin shows its instant whatever is written, compacted, collected and dropped
// meanwhile, and ends with the store.
func TestPinOutlivesCollection(t *testing.T) {
	e, err := NewEngine(EngineOptions{NoBackground: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	s, err := e.Open(t.TempDir() + "/store")
	require.NoError(t, err)
	putOne(t, s, 2, "a", Effect{Value: []byte("1"), Version: 1})
	putOne(t, s, 3, "b", Effect{Value: []byte("1"), Version: 1})
	putOne(t, s, 4, "a", Effect{Value: []byte("2"), Create: 2, Version: 2})
	putOne(t, s, 5, "b", Effect{Tombstone: true})
	putOne(t, s, 6, "c", Effect{Value: []byte("1"), Version: 1})

	p, err := s.NewPin()
	require.NoError(t, err)
	putOne(t, s, 7, "a", Effect{Tombstone: true})
	b := s.NewBatch()
	b.SetCompactRevision(7)
	require.NoError(t, b.Commit())
	for done := false; !done; {
		done, err = s.Collect(context.Background(), CollectLimits{})
		require.NoError(t, err)
	}
	b = s.NewBatch()
	b.DropSpan(keyspace.All())
	require.NoError(t, b.Commit())
	require.NoError(t, s.Flush())

	sn := p.NewSnapshot()
	require.NoError(t, sn.Err())
	require.Equal(t, []string{"a@4.0=2", "a@2.0=1", "b@5.0= dead", "b@3.0=1", "c@6.0=1"}, versionsOf(t, sn, 0, 6))
	require.Equal(t, []string{"a@4.0=2", "b@5.0= dead"}, versionsOf(t, sn, 5, 5), "what was valid at 5, and the deletion at 5")
	require.Equal(t, []string{"a@4.0=2", "a@2.0=1", "b@3.0=1"}, versionsOf(t, sn, 3, 4)[:3])
	sn.Close()
	require.EqualValues(t, 0, p.CompactRevision())

	later, err := s.NewPin()
	require.NoError(t, err)
	require.EqualValues(t, 7, later.CompactRevision())
	laterSn := later.NewSnapshot()
	require.ErrorIs(t, laterSn.Versions(t.Context(), keyspace.All(), 6, 9, func(*Version) error { return nil }), ErrCompacted)
	laterSn.Close()
	later.Close()
	later.Close()

	require.NoError(t, s.Close(), "a pin does not hold a store up")
	require.ErrorIs(t, p.NewSnapshot().Err(), ErrClosed)
	p.Close()
	_, err = s.NewPin()
	require.ErrorIs(t, err, ErrClosed)
}

// While a store is pinned, reading all of it does not fill the block cache, and
// afterwards the cache is what it was.
func TestPinBoundsTheCache(t *testing.T) {
	e, err := NewEngine(EngineOptions{NoBackground: true, CacheBytes: 120 << 20, MemtableBudget: 1 << 20})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	s, err := e.Open(t.TempDir() + "/store")
	require.NoError(t, err)
	value := make([]byte, 1<<20)
	for i := range 44 {
		for j := 0; j < len(value); j += 8 {
			value[j], value[j+1], value[j+3] = byte(j>>3), byte(j>>11), byte(i)
		}
		putOne(t, s, int64(i+2), fmt.Sprintf("key-%03d", i), Effect{Value: value, Version: 1})
	}
	require.NoError(t, s.Flush())
	readAll := func(p *Pin) {
		sn := p.NewSnapshot()
		defer sn.Close()
		n := 0
		require.NoError(t, sn.Versions(t.Context(), keyspace.All(), 0, 1000, func(*Version) error { n++; return nil }))
		require.Equal(t, 44, n)
	}
	before := e.cache.Size()
	p, err := s.NewPin()
	require.NoError(t, err)
	other, err := s.NewPin()
	require.NoError(t, err)
	readAll(p)
	p.Close()
	readAll(other)
	require.LessOrEqual(t, e.cache.Size(), before+bulkCacheGrowth)
	other.Close()
	other.Close()

	sn := s.NewSnapshot()
	require.NoError(t, sn.Versions(t.Context(), keyspace.All(), 0, 1000, func(*Version) error { return nil }))
	sn.Close()
	require.Greater(t, e.cache.Size(), before+36<<20, "the bound ends with the pins")
}
