package compactor

import "time"

// window remembers the revisions of the last period, and tells which is old enough to be compacted.
type window struct {
	period, interval, sample time.Duration
	notes                    []note
	// last is when something was compacted; before that, when the window began.
	last time.Time
	// begun: something was compacted, so that the interval counts and no more the period.
	begun bool
}

// note is a revision and when it was current.
type note struct {
	at       time.Time
	revision int64
}

func newWindow(period time.Duration) *window {
	interval := min(period, maxInterval)
	return &window{period: period, interval: interval, sample: max(interval/samplesPerInterval, minSample)}
}

// note takes in the current revision.
func (w *window) note(now time.Time, revision int64) {
	if w.last.IsZero() {
		w.last = now
	}
	w.notes = append(w.notes, note{now, revision})
	// One note that is older than the period says all that those before it say.
	for len(w.notes) > 1 && now.Sub(w.notes[1].at) >= w.period {
		w.notes = w.notes[1:]
	}
}

// due is the revision to compact now, 0 for none.
func (w *window) due(now time.Time) int64 {
	wait := w.period
	if w.begun {
		wait = w.interval
	}
	if now.Sub(w.last) < wait || len(w.notes) == 0 || now.Sub(w.notes[0].at) < w.period {
		return 0
	}
	return w.notes[0].revision
}

// compacted takes note of a compaction.
func (w *window) compacted(now time.Time, _ int64) { w.last, w.begun = now, true }
