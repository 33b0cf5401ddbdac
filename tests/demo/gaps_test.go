package main

import (
	"fmt"
	"testing"
	"time"
)

func TestFindGaps(t *testing.T) {
	ev := func(revs ...int64) (out []seen) {
		for _, r := range revs {
			out = append(out, seen{revision: r})
		}
		return out
	}
	for _, c := range []struct {
		events []seen
		first  int64
		want   string
	}{
		{ev(), 5, "[]"},
		{ev(5, 6, 7), 5, "[]"},
		{ev(6), 5, "[revision 5]"},
		{ev(5, 9, 10, 12), 5, "[revisions 6 to 8 (3) revision 11]"},
	} {
		if got := fmt.Sprint(findGaps(c.events, c.first)); got != c.want {
			t.Errorf("gaps of %v from %d: got %s, want %s", c.events, c.first, got, c.want)
		}
	}
}

// TestLossLimits: a revision may be missing only above what was known before the oldest put under way at the kill began, and below
// what a put got that began after the recovery.
func TestLossLimits(t *testing.T) {
	s := func(n int) time.Duration { return time.Duration(n) * time.Second }
	puts := []put{
		{fate: acked, revision: 10, started: s(1), ended: s(2)},
		{fate: acked, revision: 11, started: s(3), ended: s(5)}, // answered while the put below was under way
		{fate: unknown, started: s(4), ended: s(20)},            // under way at the kill
		{fate: acked, revision: 40, started: s(11), ended: s(13)},
		{fate: acked, revision: 51, started: s(16), ended: s(17)},
		{fate: acked, revision: 50, started: s(16), ended: s(18)},
	}
	l := lossLimits(puts, s(10), s(15))
	if l.after != 10 || l.before != 50 {
		t.Fatalf("limits %+v", l)
	}
	for _, c := range []struct {
		g    gap
		want bool
	}{{gap{10, 12}, false}, {gap{12, 49}, true}, {gap{12, 50}, false}, {gap{60, 61}, false}} {
		if got := l.within(c.g); got != c.want {
			t.Errorf("%v within %+v: %v", c.g, l, got)
		}
	}
}
