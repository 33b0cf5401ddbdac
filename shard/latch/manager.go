package latch

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/btree"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// Latch is one span to be latched, for reading or for writing.
type Latch struct {
	Span  keyspace.Span
	Write bool
}

// Manager keeps the latches of one ownership of a shard. It is safe for
// concurrent use.
type Manager struct {
	// writers counts the held write latches. It is raised before a writer
	// learns that it holds them.
	writers atomic.Int64

	mu struct {
		sync.Mutex
		closed bool
		seq    uint64
		points map[string]*point
		order  *btree.BTreeG[*point]
		ranges *btree.BTreeG[*ranged]
		// waiting is the head of the list of waiting guards.
		waiting *Guard
		free    []*point
	}
}

const (
	treeDegree = 16
	// maxFree bounds the points kept for use again.
	maxFree = 1024
)

// New returns a manager without latches.
func New() *Manager {
	m := &Manager{}
	m.mu.points = make(map[string]*point)
	m.mu.order = btree.NewG(treeDegree, func(a, b *point) bool { return a.key < b.key })
	m.mu.ranges = btree.NewG(treeDegree, func(a, b *ranged) bool {
		if a.start != b.start {
			return a.start < b.start
		}
		return a.seq < b.seq
	})
	return m
}

// Acquire puts g at the end of the order with the given latches, which may
// overlap each other; empty spans are ignored. The bytes of the spans are not
// kept. Where the status is Queued, w is called once the latches are held.
func (m *Manager) Acquire(g *Guard, latches []Latch, w Waiter) Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return Closed
	}
	g.waiter = w
	// All conflicts first, all insertions after: a request does not conflict
	// with itself.
	for i := range latches {
		m.blockLocked(g, &latches[i])
	}
	for i := range latches {
		m.insertLocked(g, &latches[i])
	}
	return m.settleLocked(g)
}

// WaitWriters makes g wait for the guards that at this moment hold a write
// latch overlapping one of the spans. g holds nothing afterwards, and is not
// to be released.
func (m *Manager) WaitWriters(g *Guard, spans []keyspace.Span, w Waiter) Status {
	if m.writers.Load() == 0 {
		return Granted
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return Closed
	}
	g.waiter = w
	for i := range spans {
		m.visitWritersLocked(&spans[i], func(holder *Guard) bool {
			blockedBy(g, holder)
			return true
		})
	}
	if g.blockers == 0 {
		g.waiter = nil
		return Granted
	}
	g.state = waiting
	m.pushWaitingLocked(g)
	return Queued
}

// HasWriter tells whether some guard holds a write latch that overlaps span. A
// closed manager does not know any more and says yes.
func (m *Manager) HasWriter(span keyspace.Span) bool {
	if m.writers.Load() == 0 {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	found := m.mu.closed
	m.visitWritersLocked(&span, func(*Guard) bool {
		found = true
		return false
	})
	return found
}

// Cancel gives up a guard that is waiting and tells whether it was: then the
// waiter is not called any more, and g must not be used again. Otherwise
// nothing changes: the guard holds its latches, its waiter being called or
// about to be, or it was closed.
func (m *Manager) Cancel(g *Guard) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if g.state != waiting || m.mu.closed {
		return false
	}
	g.state = ghost
	g.waiter = nil
	m.removeWaitingLocked(g)
	return true
}

// Release gives up the latches of a guard that holds them and calls the waiters
// whose turn has come.
func (m *Manager) Release(g *Guard) {
	m.mu.Lock()
	var granted []*Guard
	if !m.mu.closed && g.state == held {
		granted = m.releaseLocked(g, nil)
	}
	m.mu.Unlock()
	for _, d := range granted {
		d.waiter.Latched(d, true)
	}
}

// Close refuses all further latches and calls all waiters with ok false. Guards
// that hold latches need not be released any more.
func (m *Manager) Close() {
	m.mu.Lock()
	var closed []*Guard
	if !m.mu.closed {
		m.mu.closed = true
		for g := m.mu.waiting; g != nil; g = g.next {
			closed = append(closed, g)
		}
		m.mu.waiting, m.mu.free = nil, nil
		m.mu.points = nil
		m.mu.order.Clear(false)
		m.mu.ranges.Clear(false)
	}
	m.mu.Unlock()
	for _, g := range closed {
		g.waiter.Latched(g, false)
	}
}

// settleLocked grants g if nothing blocks it, and queues it otherwise.
func (m *Manager) settleLocked(g *Guard) Status {
	if g.blockers == 0 {
		m.grantLocked(g)
		return Granted
	}
	g.state = waiting
	m.pushWaitingLocked(g)
	return Queued
}

// blockLocked makes g wait for the earlier guards that conflict with l.
func (m *Manager) blockLocked(g *Guard, l *Latch) {
	if l.Span.Empty() {
		return
	}
	if l.Span.IsKey() {
		if p := m.mu.points[string(l.Span.Start)]; p != nil {
			p.block(g, l.Write)
		}
	} else {
		m.visitPointsLocked(&l.Span, func(p *point) bool {
			p.block(g, l.Write)
			return true
		})
	}
	m.visitRangesLocked(&l.Span, func(r *ranged) bool {
		if l.Write || r.write {
			blockedBy(g, r.guard)
		}
		return true
	})
}

// block makes g wait for those of the point that conflict with it.
func (p *point) block(g *Guard, write bool) {
	if write && len(p.readers) > 0 {
		for _, r := range p.readers {
			blockedBy(g, r)
		}
	} else if p.last != nil {
		blockedBy(g, p.last)
	}
}

func blockedBy(g, blocker *Guard) {
	g.blockers++
	blocker.blocked = append(blocker.blocked, g)
}

func (m *Manager) insertLocked(g *Guard, l *Latch) {
	if l.Span.Empty() {
		return
	}
	if !l.Span.IsKey() {
		m.mu.seq++
		r := &ranged{
			start: string(l.Span.Start), end: string(l.Span.End),
			seq: m.mu.seq, write: l.Write, guard: g,
		}
		g.ranges = append(g.ranges, r)
		m.mu.ranges.ReplaceOrInsert(r)
		return
	}
	p := m.mu.points[string(l.Span.Start)]
	if p == nil {
		p = m.newPointLocked(string(l.Span.Start))
	}
	switch {
	case p.last == g:
		// A request that reads what it also writes.
		return
	case l.Write:
		p.last = g
		clear(p.readers)
		p.readers = p.readers[:0]
	case slices.Contains(p.readers, g):
		return
	default:
		p.readers = append(p.readers, g)
	}
	p.refs++
	if g.points == nil {
		g.points = g.onePoint[:0]
	}
	g.points = append(g.points, pointRef{point: p, write: l.Write})
}

func (m *Manager) newPointLocked(key string) *point {
	var p *point
	if n := len(m.mu.free); n > 0 {
		p = m.mu.free[n-1]
		m.mu.free = m.mu.free[:n-1]
	} else {
		p = &point{}
	}
	p.key = key
	m.mu.points[key] = p
	m.mu.order.ReplaceOrInsert(p)
	return p
}

func (m *Manager) dropPointLocked(p *point) {
	delete(m.mu.points, p.key)
	m.mu.order.Delete(p)
	if len(m.mu.free) < maxFree {
		*p = point{readers: p.readers[:0]}
		m.mu.free = append(m.mu.free, p)
	}
}

// grantLocked marks the latches of g as held.
func (m *Manager) grantLocked(g *Guard) {
	g.state = held
	n := int64(0)
	for _, ref := range g.points {
		if ref.write {
			ref.point.holder = g
			n++
		}
	}
	for _, r := range g.ranges {
		if r.write {
			n++
		}
	}
	if n > 0 {
		m.writers.Add(n)
	}
}

// releaseLocked takes the latches of g out of the order and appends to granted
// the guards whose turn has come. Ghosts among them release themselves.
func (m *Manager) releaseLocked(g *Guard, granted []*Guard) []*Guard {
	n := int64(0)
	for _, ref := range g.points {
		p := ref.point
		if ref.write {
			p.holder = nil
			n++
		} else if i := slices.Index(p.readers, g); i >= 0 {
			p.readers = slices.Delete(p.readers, i, i+1)
		}
		if p.last == g {
			p.last = nil
		}
		if p.refs--; p.refs == 0 {
			m.dropPointLocked(p)
		}
	}
	for _, r := range g.ranges {
		m.mu.ranges.Delete(r)
		if r.write {
			n++
		}
	}
	if n > 0 {
		m.writers.Add(-n)
	}
	blocked := g.blocked
	*g = Guard{}
	for _, d := range blocked {
		if d.blockers--; d.blockers > 0 {
			continue
		}
		switch d.state {
		case ghost:
			m.grantLocked(d)
			granted = m.releaseLocked(d, granted)
		case waiting:
			m.removeWaitingLocked(d)
			m.grantLocked(d)
			granted = append(granted, d)
		}
	}
	return granted
}

// visitPointsLocked visits the latched keys inside a span.
func (m *Manager) visitPointsLocked(s *keyspace.Span, fn func(*point) bool) {
	m.mu.order.AscendRange(&point{key: string(s.Start)}, &point{key: string(s.End)}, fn)
}

// visitRangesLocked visits the latched ranges that overlap a span.
func (m *Manager) visitRangesLocked(s *keyspace.Span, fn func(*ranged) bool) {
	if m.mu.ranges.Len() == 0 {
		return
	}
	start, end := string(s.Start), string(s.End)
	m.mu.ranges.Ascend(func(r *ranged) bool {
		if r.start >= end {
			return false
		}
		if r.end <= start {
			return true
		}
		return fn(r)
	})
}

// visitWritersLocked visits the guards that hold a write latch overlapping s.
func (m *Manager) visitWritersLocked(s *keyspace.Span, fn func(*Guard) bool) {
	if s.Empty() {
		return
	}
	if s.IsKey() {
		if p := m.mu.points[string(s.Start)]; p != nil && p.holder != nil && !fn(p.holder) {
			return
		}
	} else {
		m.visitPointsLocked(s, func(p *point) bool {
			return p.holder == nil || fn(p.holder)
		})
	}
	m.visitRangesLocked(s, func(r *ranged) bool {
		return !r.write || r.guard.state != held || fn(r.guard)
	})
}

func (m *Manager) pushWaitingLocked(g *Guard) {
	g.prev, g.next = nil, m.mu.waiting
	if g.next != nil {
		g.next.prev = g
	}
	m.mu.waiting = g
}

func (m *Manager) removeWaitingLocked(g *Guard) {
	if g.prev != nil {
		g.prev.next = g.next
	} else {
		m.mu.waiting = g.next
	}
	if g.next != nil {
		g.next.prev = g.prev
	}
	g.prev, g.next = nil, nil
}
