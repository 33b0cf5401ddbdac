package main

import (
	"fmt"
	"time"
)

// gap is a run of revisions that no watch showed: first to last, both included.
type gap struct{ first, last int64 }

func (g gap) size() int64 { return g.last - g.first + 1 }

func (g gap) String() string {
	if g.first == g.last {
		return fmt.Sprintf("revision %d", g.first)
	}
	return fmt.Sprintf("revisions %d to %d (%d)", g.first, g.last, g.size())
}

// findGaps lists what is missing in events from revision first on.
func findGaps(events []seen, first int64) []gap {
	var gaps []gap
	for _, e := range events {
		if e.revision > first {
			gaps = append(gaps, gap{first, e.revision - 1})
		}
		first = e.revision + 1
	}
	return gaps
}

// limits say where revisions may be missing and how many.
type limits struct {
	// after: what was under way when the member was killed asked for its revision after this one was known to a client, so the loss cannot
	// have reached down to it.
	after int64
	// before: this revision was given to a put that began when the new owners had answered for every shard, so what was lost lies below.
	before int64
	// most is the number of revisions that may be missing in all.
	most int64
}

// lossLimits finds where revisions may be missing when a member was killed at one time and new owners had answered for all shards at another.
func lossLimits(puts []put, killed, recovered time.Duration) limits {
	oldest := killed // start of the oldest put that was under way at the kill
	for _, p := range puts {
		if p.started < killed && (p.ended == 0 || p.ended >= killed) {
			oldest = min(oldest, p.started)
		}
	}
	var l limits
	for _, p := range puts {
		if p.fate != acked {
			continue
		}
		if p.ended < oldest {
			l.after = max(l.after, p.revision)
		}
		if p.started > recovered && (l.before == 0 || p.revision < l.before) {
			l.before = p.revision
		}
	}
	return l
}

// within tells whether a gap lies where it may.
func (l limits) within(g gap) bool {
	return g.first > l.after && (l.before == 0 || g.last < l.before)
}

// peakRate is the largest number of puts that were answered within one second.
func peakRate(puts []put) int64 {
	perSecond := map[int64]int64{}
	var peak int64
	for _, p := range puts {
		if p.fate == acked {
			s := int64(p.ended / time.Second)
			perSecond[s]++
			peak = max(peak, perSecond[s])
		}
	}
	return peak
}
