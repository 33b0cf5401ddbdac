package main

import (
	"slices"
	"testing"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
)

// TestObserver: an end of an ownership lies between the start of the last look that did not see it and the end of the first that did.
func TestObserver(t *testing.T) {
	o := &observer{member: &cluster.Member{Name: "m1"}}
	ms := time.Millisecond
	for _, look := range []struct {
		count        float64
		began, ended time.Duration
	}{{1, 10 * ms, 12 * ms}, {1, 20 * ms, 22 * ms}, {2, 30 * ms, 35 * ms}, {2, 40 * ms, 41 * ms}, {0, 90 * ms, 91 * ms}, {1, 95 * ms, 99 * ms}} {
		o.see(look.count, look.began, look.ended)
	}
	want := []change{{"m1", 20 * ms, 35 * ms}, {"m1", 90 * ms, 99 * ms}}
	if !slices.Equal(o.changes, want) {
		t.Errorf("changes %v, want %v", o.changes, want)
	}
}
