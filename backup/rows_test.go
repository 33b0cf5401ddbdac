package backup

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/backup/etcdfile"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
)

func version(key string, rev int64, dead bool) *mvcc.Version {
	v := &mvcc.Version{Key: keyspace.User([]byte(key)), Revision: rev, Tombstone: dead}
	if !dead {
		v.Value, v.Create, v.Version, v.Lease = []byte("v"), rev, 1, 9
	}
	return v
}

func TestItemsSurviveTheWire(t *testing.T) {
	var it, got item
	var buf []byte
	in := []*mvcc.Version{version("a", 3, false), version("a", 2, true), version("\xff", 1<<40, false)}
	for _, v := range in {
		require.True(t, it.set(v))
		buf = appendItem(buf, &it)
	}
	rest := buf
	for _, v := range in {
		var err error
		rest, err = takeItem(rest, &got)
		require.NoError(t, err)
		require.Equal(t, v.Key, got.key)
		require.Equal(t, etcdfile.Revision{Main: v.Revision, Tombstone: v.Tombstone}, got.rev)
	}
	require.Empty(t, rest)
	require.False(t, it.set(&mvcc.Version{Key: keyspace.Internal([]byte("lease"))}), "no client's key")
	for cut := 1; cut < 20; cut++ {
		_, err := takeItem(buf[:cut], &got)
		require.Error(t, err)
	}
}

func FuzzTakeItem(f *testing.F) {
	var it item
	it.set(version("k", 7, false))
	f.Add(appendItem(nil, &it))
	f.Fuzz(func(t *testing.T, b []byte) {
		var it item
		for len(b) > 0 {
			rest, err := takeItem(b, &it)
			if err != nil {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			b = rest
		}
	})
}

// TestFilter cuts history at a compaction revision, whatever is repeated when
// another replica takes over in the middle of a key.
func TestFilter(t *testing.T) {
	all := []*mvcc.Version{
		version("a", 9, false), version("a", 5, false), version("a", 4, false), version("a", 2, false),
		version("b", 7, true), version("b", 3, false),
		version("c", 5, true), version("c", 2, false),
		version("d", 4, true), version("d", 2, false),
		version("e", 2, false),
	}
	want := []string{"a@9", "a@5", "b@7", "b@3", "c@5", "e@2"}
	for lost := range all {
		f := filter{compact: 5, upto: 9}
		var got []string
		feed := func(vs []*mvcc.Version) {
			for _, v := range vs {
				var it item
				it.set(v)
				ok, err := f.take(&it)
				require.NoError(t, err)
				if ok {
					got = append(got, string(v.Key[1:])+"@"+string(rune('0'+v.Revision)))
				}
			}
		}
		feed(all[:lost])
		// The next replica begins at the key that was read last.
		from := 0
		for from < len(all) && string(all[from].Key) < string(f.key) {
			from++
		}
		feed(all[from:])
		require.Equal(t, want, got, "source lost after %d rows", lost)
	}
	var it item
	f := filter{compact: 5, upto: 9}
	it.set(version("a", 10, false))
	_, err := f.take(&it)
	require.Error(t, err, "above the revision of the save")
	it.set(version("b", 6, false))
	_, err = f.take(&it)
	require.NoError(t, err)
	it.set(version("a", 6, false))
	_, err = f.take(&it)
	require.Error(t, err, "keys go back")
}
