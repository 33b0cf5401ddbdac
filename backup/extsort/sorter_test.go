package extsort

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

type pair struct{ k, v []byte }

// TestSortAgainstSlice compares the sorter, with room for a few rows only, with a
// stable sort in memory.
func TestSortAgainstSlice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "sort")
		require.NoError(rt, err)
		s := New(Options{Dir: dir, Bytes: rapid.IntRange(1, 400).Draw(rt, "bytes"), MergeBytes: rapid.SampledFrom([]int{1, 3 * minBuffer}).Draw(rt, "merge")})
		var want []pair
		for i := range rapid.IntRange(0, 120).Draw(rt, "rows") {
			key := rapid.SliceOfN(rapid.ByteRange('a', 'c'), 0, 3).Draw(rt, "key")
			value := binary.BigEndian.AppendUint32(nil, uint32(i))
			want = append(want, pair{key, value})
			require.NoError(rt, s.Add(key, value))
		}
		slices.SortStableFunc(want, func(a, b pair) int { return bytes.Compare(a.k, b.k) })
		i := 0
		require.NoError(rt, s.Sort(context.Background(), func(k, v []byte) error {
			if i >= len(want) || !bytes.Equal(k, want[i].k) || !bytes.Equal(v, want[i].v) {
				rt.Fatalf("row %d is %q %x", i, k, v)
			}
			i++
			return nil
		}))
		require.Equal(rt, len(want), i)
		require.NoError(rt, s.Close())
		left, err := os.ReadDir(dir)
		require.NoError(rt, err)
		require.Empty(rt, left)
	})
}

func TestSortStopsWithItsContext(t *testing.T) {
	s := New(Options{Dir: t.TempDir()})
	require.NoError(t, s.Add([]byte("a"), nil))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, s.Sort(ctx, func(_, _ []byte) error { return nil }), context.Canceled)
	require.NoError(t, s.Close())
}

// A row that is larger than the buffer is one run.
func TestSortLargeRow(t *testing.T) {
	s := New(Options{Dir: t.TempDir(), Bytes: 64})
	large := bytes.Repeat([]byte("x"), 1<<20)
	require.NoError(t, s.Add([]byte("b"), large))
	require.NoError(t, s.Add([]byte("a"), []byte("small")))
	var got []int
	require.NoError(t, s.Sort(context.Background(), func(_, v []byte) error {
		got = append(got, len(v))
		return nil
	}))
	require.Equal(t, []int{5, 1 << 20}, got)
	require.NoError(t, s.Close())
}
