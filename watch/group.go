package watch

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// group delivers to watchers that advance together: at any moment all its active
// watchers have been handed exactly the events up to the group's position. There
// are two kinds.
//
// A live group has the watchers whose ranges touch the same segments. It takes
// events out of memory, in the order of revisions, as far as all its segments
// are resolved; there is one per hull (the span of those segments).
//
// A cohort has watchers of one span that are behind. It reads history, from
// memory or disk, one window at a time, and hands its watchers over to the live
// group of their hull when it has got as far.
//
// Invariants, under mu:
//
//  1. The position never falls.
//  2. An active watcher was handed everything of its span in (its start,
//     position], and nothing above the position. A future one was handed nothing
//     above its own, which is larger.
//  3. A watcher that cannot be handed something leaves the group before the
//     position moves past it.
//
// An earlier idea was one position per watch and a sorter over all shards in
// front of them. It made every watch wait for every shard, and every event pay
// for every watch.
type group struct {
	hub  *Hub
	live bool
	// span is the hull of a live group, the watched span of a cohort.
	span keyspace.Span
	task *task
	// pos is the position. It changes under mu only.
	pos atomic.Int64

	mu struct {
		sync.Mutex
		dead     bool
		topology *topology
		segments []*segment
		active   *index
		futures  futures
		// scanned says, for each segment, up to where events beyond the position
		// were looked at; pending is the largest revision among those that somebody
		// here watches.
		scanned []int64
		pending int64
		waiters []waiter
		// blind, of a cohort, says that it must get ahead by itself before it hands
		// its watchers over: some of them come from a live group that could not read
		// previous values, and would come back at once.
		blind bool
		// touched is scratch space of a delivery.
		touched []*node
	}
}

// waiter is a stream that wants to hear when the group has got to a revision.
type waiter struct {
	rev    int64
	stream *Stream
}

func (h *Hub) newGroup(live bool, span keyspace.Span) *group {
	g := &group{hub: h, live: live, span: span}
	g.mu.active = newIndex()
	if live {
		g.task = h.live.newTask(g.runLive)
	} else {
		g.task = h.history.newTask(g.runCohort)
	}
	h.interest.Add(1)
	return g
}

// adoptLocked makes the group follow a topology. It returns the active watchers
// and futures of a live group whose hull is another one now; they were taken out.
func (g *group) adoptLocked(t *topology) (movers []*watcher) {
	if g.mu.topology == t {
		return nil
	}
	segs := t.covering(g.span)
	for _, s := range segs {
		if !slices.Contains(g.mu.segments, s) {
			s.subscribe(g.task)
			g.hub.feeds.want(s)
		}
	}
	for _, s := range g.mu.segments {
		if !slices.Contains(segs, s) {
			s.unsubscribe(g.task)
			g.hub.feeds.unwant(s)
		}
	}
	g.mu.topology, g.mu.segments = t, segs
	g.mu.scanned, g.mu.pending = make([]int64, len(segs)), 0
	if !g.live {
		return nil
	}
	g.eachLocked(func(w *watcher) {
		if !t.hull(w.span).Equal(g.span) {
			movers = append(movers, w)
		}
	})
	for _, w := range movers {
		g.takeLocked(w)
	}
	return movers
}

// eachLocked calls fn with every watcher; fn must not add or remove any.
func (g *group) eachLocked(fn func(*watcher)) {
	g.mu.active.each(fn)
	for _, w := range g.mu.futures {
		fn(w)
	}
}

func (g *group) emptyLocked() bool { return g.mu.active.size == 0 && len(g.mu.futures) == 0 }

// joinLocked puts a watcher in whose next lies above the group's position. The
// watcher is dropped if it was canceled meanwhile.
func (g *group) joinLocked(w *watcher) {
	if w.next <= g.pos.Load() {
		g.hub.broken(fmt.Errorf("watch %d at revision %d joins a group at %d", w.id, w.next, g.pos.Load()))
	}
	w.group.Store(g)
	if w.canceled.Load() {
		w.group.Store(nil)
		return
	}
	if w.next == g.pos.Load()+1 {
		g.mu.active.add(w)
	} else {
		g.mu.futures.add(w)
	}
	// What was found to concern nobody may concern this one.
	clear(g.mu.scanned)
}

// takeLocked takes a watcher out and sets its next; false if it is not here.
func (g *group) takeLocked(w *watcher) bool {
	switch {
	case w.group.Load() != g:
		return false
	case g.mu.active.remove(w):
		w.next = g.pos.Load() + 1
	case g.mu.futures.remove(w):
	default:
		return false
	}
	w.group.Store(nil)
	return true
}

// detach takes a canceled watcher out of wherever it is.
func (h *Hub) detach(w *watcher) {
	for {
		g := w.group.Load()
		if g == nil {
			// Stalled, or in transit: whoever holds it sees that it was canceled.
			return
		}
		g.mu.Lock()
		taken := g.takeLocked(w)
		empty := g.emptyLocked()
		g.mu.Unlock()
		if empty {
			g.task.wake()
		}
		if taken {
			return
		}
	}
}

// activateLocked makes the futures active that the group has come to.
func (g *group) activateLocked() {
	pos := g.pos.Load()
	for len(g.mu.futures) > 0 && g.mu.futures[0].next <= pos+1 {
		g.mu.active.add(g.mu.futures.pop())
	}
}

// nearestLocked returns the revision below which no future watcher begins.
func (g *group) nearestLocked() int64 {
	if len(g.mu.futures) == 0 {
		return math.MaxInt64
	}
	return g.mu.futures[0].next
}

// advanceLocked moves the position to rev and returns the streams that waited
// for that.
func (g *group) advanceLocked(rev int64) (reached []*Stream) {
	if rev < g.pos.Load() {
		g.hub.broken(fmt.Errorf("watch group over %v would go back from revision %d to %d", g.span, g.pos.Load(), rev))
	}
	g.pos.Store(rev)
	g.activateLocked()
	left := g.mu.waiters[:0]
	for _, x := range g.mu.waiters {
		if x.rev <= rev {
			reached = append(reached, x.stream)
		} else {
			left = append(left, x)
		}
	}
	clear(g.mu.waiters[len(left):])
	g.mu.waiters = left
	return reached
}

// await has the stream's checkProgress called once the group has got to rev. It
// returns false if it is there already or lives no more.
func (g *group) await(rev int64, s *Stream) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.dead || g.pos.Load() >= rev {
		return false
	}
	for i := range g.mu.waiters {
		if g.mu.waiters[i].stream == s {
			g.mu.waiters[i].rev = min(g.mu.waiters[i].rev, rev)
			g.task.wake()
			return true
		}
	}
	g.mu.waiters = append(g.mu.waiters, waiter{rev, s})
	g.task.wake()
	return true
}

// deliverLocked hands entries, whole revisions in their order, to the active
// watchers. Those whose streams have no room leave the group first and are
// returned as refused; so are, as blind, those that want previous values which
// cannot be read now.
func (g *group) deliverLocked(entries []*entry) (refused, blind []*watcher) {
	touched := g.mu.touched[:0]
	for _, e := range entries {
		g.mu.active.visit(e.key, func(n *node) {
			if len(n.pending) == 0 {
				touched = append(touched, n)
			}
			n.pending = append(n.pending, e)
		})
	}
	reader := prevReader{hub: g.hub}
	defer reader.close()
	for _, n := range touched {
		if err := reader.fill(n); err != nil {
			g.hub.log.Debug("cannot read previous values for watches; trying again from history", errField(err))
			n.each(func(w *watcher) {
				if w.mask&withPrev != 0 {
					blind = append(blind, w)
				}
			})
		}
	}
	for _, w := range blind {
		g.takeLocked(w)
	}
	for i, n := range touched {
		b := batches{entries: n.pending}
		for _, set := range n.sets {
			refused = append(refused, set.stream.deliver(set.watchers, &b, g.live)...)
		}
		clear(n.pending)
		n.pending = n.pending[:0]
		touched[i] = nil
	}
	g.mu.touched = touched[:0]
	for _, w := range refused {
		g.takeLocked(w)
	}
	return refused, blind
}

// stallAll gives refused watchers to their streams to keep.
func stallAll(refused []*watcher) {
	for len(refused) > 0 {
		s, n := refused[0].stream, 1
		for n < len(refused) && refused[n].stream == s {
			n++
		}
		s.stall(refused[:n])
		refused = refused[n:]
	}
}

// retire ends an empty group. A cohort may still be woken; it finds itself dead.
func (g *group) retire() {
	h := g.hub
	h.groups.Lock()
	defer h.groups.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.emptyLocked() {
		g.dieLocked()
	}
}

// dieLocked takes the group off the hub's lists. Hub.groups is held.
func (g *group) dieLocked() {
	if g.mu.dead {
		return
	}
	g.mu.dead = true
	h, key := g.hub, keyOf(g.span)
	if g.live {
		delete(h.groups.live, key)
	} else {
		h.dropCohortLocked(key, g)
	}
	for _, s := range g.mu.segments {
		s.unsubscribe(g.task)
		h.feeds.unwant(s)
	}
	g.mu.segments = nil
	h.interest.Add(-1)
}
