package histogram

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// maxBuckets bounds the buckets of a Histogram, the last one without bound
// included.
const maxBuckets = 32

// Histogram counts durations. It is safe for concurrent use, and a nil one
// counts nothing.
type Histogram struct {
	lowest  time.Duration
	bounded int
	sum     atomic.Int64
	counts  [maxBuckets]atomic.Uint64
}

// New makes a histogram of n buckets, at most 31, whose upper bounds are lowest,
// 2*lowest, 4*lowest and so on, and one for what is larger.
func New(lowest time.Duration, n int) *Histogram {
	return &Histogram{lowest: max(lowest, 1), bounded: min(max(n, 1), maxBuckets-1)}
}

// Observe counts a duration.
func (h *Histogram) Observe(d time.Duration) {
	if h == nil {
		return
	}
	d = max(d, 0)
	bucket := 0
	if d > h.lowest {
		bucket = min(bits.Len64(uint64((d-1)/h.lowest)), h.bounded)
	}
	h.counts[bucket].Add(1)
	h.sum.Add(int64(d))
}

// Since counts the time since began.
func (h *Histogram) Since(began time.Time) { h.Observe(time.Since(began)) }

// Snapshot is what a histogram has counted.
type Snapshot struct {
	// Count is the number of all durations, Sum their sum.
	Count uint64
	Sum   time.Duration
	// Bounds are the buckets' upper bounds, and Cumulative how many durations were
	// not above each.
	Bounds     []time.Duration
	Cumulative []uint64
}

// Snapshot reads the histogram. Concurrent observations may be in it or not.
func (h *Histogram) Snapshot() Snapshot {
	if h == nil {
		return Snapshot{}
	}
	s := Snapshot{
		Sum:    time.Duration(h.sum.Load()),
		Bounds: make([]time.Duration, h.bounded), Cumulative: make([]uint64, h.bounded),
	}
	for i := range h.bounded {
		s.Count += h.counts[i].Load()
		s.Bounds[i], s.Cumulative[i] = h.lowest<<i, s.Count
	}
	s.Count += h.counts[h.bounded].Load()
	return s
}
