package watch

import (
	"math"
	"slices"
)

// liveRounds bounds how many windows a live group delivers before it lets others
// have their turn.
const liveRounds = 16

// runLive delivers what has become deliverable, and asks for the resolution of
// segments that hold up what somebody watches.
func (g *group) runLive() {
	var out outcome
	g.mu.Lock()
	if g.mu.dead {
		g.mu.Unlock()
		return
	}
	out.movers = g.adoptLocked(g.hub.topology.Load())
	more := true
	for range liveRounds {
		if more = g.stepLiveLocked(&out); !more {
			break
		}
	}
	empty := g.emptyLocked()
	if more {
		g.task.wake()
	} else if !empty {
		out.want = g.wantLocked()
		out.segments = g.mu.segments
	}
	g.mu.Unlock()
	g.hub.settle(&out)
	if empty {
		g.retire()
	}
}

// outcome is what a run leaves to be done without the group's lock.
type outcome struct {
	// movers go to the group that their position belongs to now, behind to a
	// cohort, and so do blind, for want of previous values; refused go to their
	// streams.
	movers, behind, blind, refused []*watcher
	// reached are streams that waited for the position.
	reached []*Stream
	// segments are to be resolved up to want, if that is not 0.
	segments []*segment
	want     int64
}

func (h *Hub) settle(out *outcome) {
	for _, w := range out.movers {
		h.attach(w)
	}
	for _, w := range out.behind {
		h.attachCohort(w, false)
	}
	for _, w := range out.blind {
		h.attachCohort(w, true)
	}
	stallAll(out.refused)
	for _, s := range out.reached {
		s.checkProgress()
	}
	if out.want > 0 {
		h.resolve.want(out.segments, out.want)
	}
}

// stepLiveLocked delivers one window. more says that there may be another.
func (g *group) stepLiveLocked(out *outcome) (more bool) {
	views := make([]view, len(g.mu.segments))
	resolved := int64(math.MaxInt64)
	for i, s := range g.mu.segments {
		views[i] = s.view()
		resolved = min(resolved, views[i].resolved)
	}
	pos, nearest := g.pos.Load(), g.nearestLocked()
	to := min(resolved, nearest-1)
	if to <= pos {
		return false
	}
	if g.mu.active.size == 0 {
		out.reached = append(out.reached, g.advanceLocked(to)...)
		return true
	}
	for _, v := range views {
		if !v.covers(pos) {
			// Memory has lost what the active watchers need. They read it from disk,
			// each span on its own; the group goes on without them.
			out.behind = append(out.behind, g.takeActiveLocked()...)
			out.reached = append(out.reached, g.advanceLocked(to)...)
			return true
		}
	}
	entries, upto := window(views, pos, to, g.hub.cfg.WindowBytes)
	refused, blind := g.deliverLocked(entries)
	out.refused = append(out.refused, refused...)
	out.blind = append(out.blind, blind...)
	out.reached = append(out.reached, g.advanceLocked(upto)...)
	return true
}

func (g *group) takeActiveLocked() []*watcher {
	ws := make([]*watcher, 0, g.mu.active.size)
	g.mu.active.each(func(w *watcher) { ws = append(ws, w) })
	for _, w := range ws {
		g.takeLocked(w)
	}
	return ws
}

// window takes the entries of revisions in (pos, to] out of views, merged by
// revision. It ends early, at upto, behind the revision with which keys and
// values reach maxBytes.
func window(views []view, pos, to int64, maxBytes int) (entries []*entry, upto int64) {
	lists := make([][]*entry, 0, len(views))
	for _, v := range views {
		if es := v.between(pos, to); len(es) > 0 {
			lists = append(lists, es)
		}
	}
	entries = merge(lists)
	size := 0
	for i, e := range entries {
		if size += e.size(); size >= maxBytes {
			end := i + 1
			for end < len(entries) && entries[end].rev == e.rev {
				end++
			}
			if end < len(entries) {
				return entries[:end], e.rev
			}
			break
		}
	}
	return entries, to
}

// merge merges lists that are in order. The result may alias the only list.
func merge(lists [][]*entry) []*entry {
	switch len(lists) {
	case 0:
		return nil
	case 1:
		return lists[0]
	}
	n := 0
	for _, l := range lists {
		n += len(l)
	}
	out := make([]*entry, 0, n)
	for _, l := range lists {
		out = append(out, l...)
	}
	// A stable sort of few runs, which is what the standard library's does best.
	slices.SortStableFunc(out, func(a, b *entry) int {
		switch {
		case a.before(b):
			return -1
		case b.before(a):
			return 1
		}
		return 0
	})
	return out
}

// wantLocked returns the revision up to which the segments have to be resolved
// because of an event that somebody here watches, or of a stream that waits for
// it; 0 if nothing is held up.
func (g *group) wantLocked() int64 {
	want := int64(0)
	if len(g.mu.segments) > 1 {
		want = g.pendingLocked()
	}
	for _, x := range g.mu.waiters {
		want = max(want, x.rev)
	}
	if want <= g.pos.Load() {
		return 0
	}
	return want
}

// pendingLocked returns the largest revision beyond the position that concerns
// somebody here. What was looked at is not looked at again.
func (g *group) pendingLocked() int64 {
	pos := g.pos.Load()
	for i, s := range g.mu.segments {
		v := s.view()
		from := max(g.mu.scanned[i], pos)
		if v.resolved <= from {
			continue
		}
		if !v.covers(from) {
			// Memory has lost some of it; it may concern anybody.
			g.mu.pending = max(g.mu.pending, v.resolved)
		}
		for _, e := range v.between(from, v.resolved) {
			// The futures' spans are not indexed. There are some for a moment only.
			if len(g.mu.futures) > 0 || g.mu.active.concerns(e.key) {
				g.mu.pending = max(g.mu.pending, e.rev)
			}
		}
		g.mu.scanned[i] = v.resolved
	}
	return g.mu.pending
}
