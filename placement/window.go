package placement

import "time"

const (
	// minWindow is the size of an idle sequencer's window, and about what a
	// crash of an idle cluster skips.
	minWindow = 256
	// maxWindow bounds a window whatever the load.
	maxWindow = 1 << 20
	// windowIdle is how often a window that is larger than it need be is looked at.
	windowIdle = 2 * time.Second
)

// window sizes the revision window to about a second of use. It is pure: the
// sequencer tells it what happens.
//
// The window is extended when half of it is used, so it is right when half of it
// lasts half a second. It doubles when it lasted less than half of that and
// shrinks when it lasted more than twice that; that needs no measured rate and
// follows a burst within a few rounds.
type window struct {
	size int64
	// opened tells that the epoch has extended its window at all.
	opened bool
	// last is when the window was last extended; markAt and mark are when use
	// was last looked at, and the next revision then.
	last   time.Duration
	markAt time.Duration
	mark   int64
}

// reset begins an epoch.
func (w *window) reset(now time.Duration, next int64) {
	*w = window{size: minWindow, last: now, markAt: now, mark: next}
}

// low tells whether it is time to extend.
func (w *window) low(remaining int64) bool { return remaining < w.size/2 }

// extend returns how far above the next revision the new window is to reach.
// need is what the waiting callers want at once.
func (w *window) extend(now time.Duration, need int64) int64 {
	// The first extension tells nothing of use: an epoch begins with no window.
	switch elapsed := now - w.last; {
	case !w.opened:
		w.opened = true
	case elapsed < 50*time.Millisecond:
		w.size *= 4
	case elapsed < 250*time.Millisecond:
		w.size *= 2
	case elapsed > time.Second:
		w.size /= 2
	}
	w.size = min(max(w.size, minWindow), maxWindow)
	w.last = now
	return max(w.size, 2*need)
}

// shrink looks at a window of which remaining revisions are unused. It returns
// how many to keep; ok is false if the window may stay as it is.
func (w *window) shrink(now time.Duration, next, remaining int64) (keep int64, ok bool) {
	perSecond := int64(float64(next-w.mark) / max((now-w.markAt).Seconds(), 0.001))
	w.mark, w.markAt = next, now
	keep = min(max(perSecond, minWindow), maxWindow)
	if remaining <= 4*keep {
		return 0, false
	}
	w.size = keep
	return keep, true
}

// watchful tells whether the window is large enough for shrink to be of use, if
// traffic stops now.
func watchful(remaining int64) bool { return remaining > 4*minWindow }
