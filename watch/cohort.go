package watch

import (
	"context"
	"errors"
	"math"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/mvcc"
)

const (
	// cohortRetry is how soon a cohort tries again what failed, where no change
	// will announce that it might work.
	cohortRetry = 100 * time.Millisecond
	// joinBytes bounds what is delivered in one go, under the live group's lock, to
	// close the last gap.
	joinBytes = 256 << 10
)

// runCohort reads and delivers one window of history, or hands the watchers over
// to the live group once the cohort has got as far.
func (g *group) runCohort() {
	h := g.hub
	var out outcome
	if left, blind := g.prepareCohort(&out); left && (blind || !g.handOver(&out)) {
		g.readOn(&out)
	}
	h.settle(&out)
	g.mu.Lock()
	empty := g.emptyLocked() && !g.mu.dead
	g.mu.Unlock()
	if empty {
		g.retire()
	}
}

// prepareCohort follows the topology, skips what only future watchers are beyond,
// and sets aside the watchers whose streams have no room, before anything is read
// for them. It tells whether anybody is left.
func (g *group) prepareCohort(out *outcome) (left, blind bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.dead {
		return false, false
	}
	g.adoptLocked(g.hub.topology.Load())
	var full []*watcher
	room := map[*Stream]bool{}
	g.mu.active.each(func(w *watcher) {
		ok, asked := room[w.stream]
		if !asked {
			ok = w.stream.hasRoom()
			room[w.stream] = ok
		}
		if !ok {
			full = append(full, w)
		}
	})
	for _, w := range full {
		g.takeLocked(w)
	}
	out.refused = append(out.refused, full...)
	if g.mu.active.size == 0 && len(g.mu.futures) > 0 {
		g.advanceLocked(g.nearestLocked() - 1)
	}
	return !g.emptyLocked(), g.mu.blind
}

// handOver moves the watchers to the live group of their hull if the cohort is
// not behind it. Where the rest of the way is short and in memory it is delivered
// here and now, under the lock of the live group, so that a busy group is joined
// however fast it goes.
func (g *group) handOver(out *outcome) bool {
	h := g.hub
	h.groups.Lock()
	l := h.liveGroupLocked(g.span, g.pos.Load()+1)
	if l == nil {
		h.groups.Unlock()
		return false
	}
	l.mu.Lock()
	h.groups.Unlock()
	g.mu.Lock()
	defer func() {
		g.mu.Unlock()
		l.mu.Unlock()
	}()
	if g.pos.Load() < l.pos.Load() && !g.closeGapLocked(l.pos.Load(), out) {
		return false
	}
	var ws []*watcher
	g.eachLocked(func(w *watcher) { ws = append(ws, w) })
	for _, w := range ws {
		if g.takeLocked(w); w.next <= l.pos.Load() {
			// A future one that the live group is past already.
			out.movers = append(out.movers, w)
			continue
		}
		l.joinLocked(w)
		if w.stream.asked.Load() {
			out.reached = append(out.reached, w.stream)
		}
	}
	l.task.wake()
	return true
}

// closeGapLocked delivers everything up to the live group's position out of
// memory; false if memory does not have it or it is much.
func (g *group) closeGapLocked(to int64, out *outcome) bool {
	for pos := g.pos.Load(); pos < to; pos = g.pos.Load() {
		views := make([]view, len(g.mu.segments))
		for i, s := range g.mu.segments {
			views[i] = s.view()
			if !views[i].covers(pos) || views[i].resolved < to {
				return false
			}
		}
		upto := min(to, g.nearestLocked()-1)
		entries, end := window(views, pos, upto, joinBytes)
		if end < upto || fillPrevs(g.hub, entries, g) != nil {
			return false
		}
		refused, _ := g.deliverLocked(entries)
		out.refused = append(out.refused, refused...)
		out.reached = append(out.reached, g.advanceLocked(upto)...)
	}
	return true
}

// readOn reads the next window without the group's lock and delivers it. The
// position cannot move meanwhile, since only this task moves it.
func (g *group) readOn(out *outcome) {
	h := g.hub
	g.mu.Lock()
	segs, pos, to := g.mu.segments, g.pos.Load(), g.nearestLocked()-1
	g.mu.Unlock()
	frontier := int64(math.MaxInt64)
	for _, s := range segs {
		frontier = min(frontier, s.resolved())
	}
	if to = min(to, frontier); to <= pos {
		// Everything that is resolved was delivered; the segments wake the cohort.
		return
	}
	ctx, cancel := context.WithTimeout(h.ctx, readTimeout)
	entries, upto, err := h.readWindow(ctx, segs, g.span, pos+1, to, h.cfg.WindowBytes)
	cancel()
	var compacted *mvcc.CompactedError
	switch {
	case errors.As(err, &compacted):
		if g.compactTo(compacted.CompactRevision) {
			g.task.wake()
		} else {
			h.after(cohortRetry, g.task)
		}
		return
	case err != nil:
		if h.ctx.Err() == nil {
			h.log.Debug("cannot read history for watches; trying again", zap.Stringer("span", g.span),
				zap.Int64("from-revision", pos+1), errField(err))
		}
		h.after(cohortRetry, g.task)
		return
	case upto <= pos:
		// A source lags behind what another one fed before it. It wakes the cohort
		// when it has applied more, or when its owner tells that there is no more;
		// one that is elsewhere does not.
		h.resolve.want(segs, to)
		h.after(cohortRetry, g.task)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	// A watcher that joined meanwhile may begin inside the window.
	if n := g.nearestLocked() - 1; n < upto {
		upto = n
		entries = upTo(entries, upto)
	}
	if upto <= pos {
		g.task.wake()
		return
	}
	if err := fillPrevs(h, entries, g); err != nil {
		h.log.Debug("cannot read previous values for watches; trying again", errField(err))
		h.after(cohortRetry, g.task)
		return
	}
	refused, _ := g.deliverLocked(entries)
	out.refused = append(out.refused, refused...)
	out.reached = append(out.reached, g.advanceLocked(upto)...)
	g.mu.blind = false
	g.task.wake()
}

// compactTo ends the watchers whose next events are below the compaction
// revision; false if there are none.
func (g *group) compactTo(compacted int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pos.Load()+1 >= compacted {
		return false
	}
	for _, w := range g.takeActiveLocked() {
		w.stream.compact(w, compacted)
	}
	for len(g.mu.futures) > 0 && g.mu.futures[0].next < compacted {
		w := g.mu.futures[0]
		g.takeLocked(w)
		w.stream.compact(w, compacted)
	}
	return true
}
