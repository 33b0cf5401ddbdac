package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestHistogramAgainstSorting compares quantiles with those of a sorted slice.
func TestHistogramAgainstSorting(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var h, parts histogram
	var all []time.Duration
	for i := range 20000 {
		d := time.Duration(rng.ExpFloat64() * float64(time.Millisecond))
		if i%7 == 0 {
			d = time.Duration(rng.IntN(100)) // the exact buckets
		}
		all = append(all, d)
		h.add(d)
		if i%1000 == 0 {
			h.merge(&parts)
			parts = histogram{}
		}
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 1} {
		want := all[int(q*float64(len(all)-1))]
		got := h.quantile(q)
		if diff := (got - want).Abs(); diff > want/50+1 {
			t.Errorf("quantile %v: got %v, want %v", q, got, want)
		}
	}
}

func TestHistogramExtremes(t *testing.T) {
	var h histogram
	if got := h.quantile(0.5); got != 0 {
		t.Errorf("empty histogram: got %v", got)
	}
	h.add(-1)
	h.add(1 << 62)
	if h.n != 2 {
		t.Errorf("counted %d of 2", h.n)
	}
}
