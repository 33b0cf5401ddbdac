package watch

import (
	"math"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// cohortSlack is how many revisions ahead of a cohort a watcher may be to wait
// for it rather than begin one of its own.
const cohortSlack = 1000

// attach puts a watcher that is nowhere where its position belongs: into the
// live group of its hull if that is not past it, else into a cohort.
func (h *Hub) attach(w *watcher) {
	if h.attachLive(w) {
		if w.stream.asked.Load() {
			w.stream.checkProgress()
		}
		return
	}
	h.attachCohort(w, false)
}

func (h *Hub) attachLive(w *watcher) bool {
	h.groups.Lock()
	g := h.liveGroupLocked(w.span, w.next)
	if g == nil {
		h.groups.Unlock()
		return false
	}
	g.mu.Lock()
	h.groups.Unlock()
	defer g.mu.Unlock()
	if w.next <= g.pos.Load() {
		return false
	}
	g.joinLocked(w)
	g.task.wake()
	return true
}

// liveGroupLocked returns the live group of the span's hull. Where there is none
// it begins one for a watcher at next, if memory has all events from there on,
// and returns nil if not. Hub.groups is held.
func (h *Hub) liveGroupLocked(span keyspace.Span, next int64) *group {
	t := h.topology.Load()
	hull := t.hull(span)
	if g := h.groups.live[keyOf(hull)]; g != nil {
		return g
	}
	// From here on rings keep what they get, so the look at them holds.
	g := h.newGroup(true, hull)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.adoptLocked(t)
	floor, resolved := int64(0), int64(math.MaxInt64)
	for _, s := range g.mu.segments {
		v := s.view()
		if !v.covers(next - 1) {
			floor = max(floor, v.floor)
		}
		resolved = min(resolved, v.resolved)
	}
	switch {
	case next-1 >= floor:
		// A floor above the position, of a segment that is not covered, would have
		// been above next-1 too.
		g.pos.Store(min(next-1, resolved))
	case next > resolved:
		g.pos.Store(resolved)
	default:
		g.mu.dead = true
		for _, s := range g.mu.segments {
			s.unsubscribe(g.task)
			h.feeds.unwant(s)
		}
		h.interest.Add(-1)
		return nil
	}
	h.groups.live[keyOf(hull)] = g
	return g
}

// attachCohort puts a watcher into a cohort of its span that is at or a little
// before its position, or begins one. blind says that the live group could not
// read previous values for it.
func (h *Hub) attachCohort(w *watcher, blind bool) {
	h.groups.Lock()
	defer h.groups.Unlock()
	key := keyOf(w.span)
	for _, c := range h.groups.cohorts[key] {
		if c.admit(w, blind) {
			return
		}
	}
	c := h.newGroup(false, w.span)
	c.pos.Store(w.next - 1)
	h.groups.cohorts[key] = append(h.groups.cohorts[key], c)
	c.admit(w, blind)
}

// admit takes a watcher into a cohort if it fits.
func (g *group) admit(w *watcher, blind bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	pos := g.pos.Load()
	if g.mu.dead || w.next <= pos || w.next-1-pos > cohortSlack {
		return false
	}
	g.mu.blind = g.mu.blind || blind
	g.joinLocked(w)
	g.task.wake()
	return true
}

func (h *Hub) dropCohortLocked(key spanKey, g *group) {
	cs := h.groups.cohorts[key]
	for i, c := range cs {
		if c == g {
			cs = append(cs[:i:i], cs[i+1:]...)
			break
		}
	}
	if len(cs) == 0 {
		delete(h.groups.cohorts, key)
	} else {
		h.groups.cohorts[key] = cs
	}
}

// wakeGroups makes every group look at the topology again.
func (h *Hub) wakeGroups() {
	h.groups.Lock()
	defer h.groups.Unlock()
	for _, g := range h.groups.live {
		g.task.wake()
	}
	for _, cs := range h.groups.cohorts {
		for _, c := range cs {
			c.task.wake()
		}
	}
}
