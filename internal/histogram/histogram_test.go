package histogram

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestBucketsAgainstSearch compares with a search through the bounds.
func TestBucketsAgainstSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lowest := time.Duration(rapid.Int64Range(1, int64(time.Second)).Draw(t, "lowest"))
		n := rapid.IntRange(1, 20).Draw(t, "n")
		h := New(lowest, n)
		want := make([]uint64, n)
		var sum time.Duration
		observed := rapid.SliceOfN(rapid.OneOf(rapid.Int64Range(-5, int64(time.Hour)), rapid.Int64Range(0, 40)), 0, 50).Draw(t, "observed")
		for _, o := range observed {
			d := time.Duration(o)
			if o < 20 && o >= 0 { // a bound, and what lies beside it
				d = lowest<<(o/3) + time.Duration(o%3-1)
			}
			h.Observe(d)
			d = max(d, 0)
			sum += d
			for i := range want {
				if d <= lowest<<i {
					want[i]++
				}
			}
		}
		s := h.Snapshot()
		require.Equal(t, want, s.Cumulative)
		require.Equal(t, uint64(len(observed)), s.Count)
		require.Equal(t, sum, s.Sum)
		require.Equal(t, lowest, s.Bounds[0])
	})
}

func TestNilCountsNothing(t *testing.T) {
	var h *Histogram
	h.Observe(time.Second)
	require.Zero(t, h.Snapshot().Count)
}

func TestObserveAllocatesNothing(t *testing.T) {
	h := New(time.Millisecond, 14)
	require.Zero(t, testing.AllocsPerRun(100, func() { h.Observe(3 * time.Millisecond) }))
}
