package main

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets of constant relative width: 64 per power of two, so a percentile is exact to about 1.6 percent.
// It is owned by one goroutine; merge adds one into another.
type histogram struct {
	counts [subBuckets * 40]int64
	n      int64
}

const (
	subBits    = 6
	subBuckets = 1 << subBits
)

func bucketOf(ns int64) int {
	v := uint64(max(ns, 0))
	if v < subBuckets {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	b := (shift+1)*subBuckets + int(v>>shift) - subBuckets
	return min(b, subBuckets*40-1)
}

// bucketValue is the middle of a bucket in nanoseconds.
func bucketValue(b int) int64 {
	if b < subBuckets {
		return int64(b)
	}
	shift := b/subBuckets - 1
	low := int64(b%subBuckets+subBuckets) << shift
	return low + (int64(1)<<shift)/2
}

func (h *histogram) add(d time.Duration) { h.counts[bucketOf(int64(d))]++; h.n++ }

func (h *histogram) merge(o *histogram) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
}

// quantile is the duration that a share q of all counted durations does not exceed; 0 when nothing was counted.
func (h *histogram) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := int64(q * float64(h.n-1))
	for i, c := range h.counts {
		if rank < c {
			return time.Duration(bucketValue(i))
		}
		rank -= c
	}
	return time.Duration(bucketValue(len(h.counts) - 1))
}
