package watch

import (
	"fmt"
	"sort"
	"sync"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// segment is a piece of the key space that one source feeds. It knows how far
// its events are known, and holds the recent ones.
//
// Invariants, under mu:
//
//  1. Every event of span with a revision in (floor, resolved] is in entries, in
//     the order of revisions; older ones are on the source's disk.
//  2. No event of span at or below resolved can appear later: resolved never
//     falls, and what is appended lies above it.
//  3. Once frozen nothing changes any more. Its span goes on in the segments of
//     a newer topology, which began with its resolved revision.
type segment struct {
	span   keyspace.Span
	source *source

	mu struct {
		sync.Mutex
		entries []*entry
		bytes   int
		floor   int64
		// resolved bounds what watches may have seen.
		resolved int64
		// have bounds what the source's disk holds in full. It is below resolved
		// while a source lags behind what another one fed before.
		have int64
		// inherited is the resolved revision that the segment began with. What a
		// lagging source hands over at or below it is known already.
		inherited int64
		frozen    bool
		subs      map[*task]struct{}
	}
}

func newSegment(span keyspace.Span, src *source) *segment {
	s := &segment{span: span, source: src}
	s.mu.subs = map[*task]struct{}{}
	return s
}

// view is what a segment holds at one instant. The entries are shared: readers
// must not change the slice.
type view struct {
	entries         []*entry
	floor, resolved int64
	have            int64
	frozen          bool
}

func (s *segment) view() view {
	s.mu.Lock()
	defer s.mu.Unlock()
	return view{entries: s.mu.entries, floor: s.mu.floor, resolved: s.mu.resolved, have: s.mu.have, frozen: s.mu.frozen}
}

// covers tells whether all events above pos, up to resolved, are in memory.
func (v view) covers(pos int64) bool { return v.floor <= pos || v.resolved <= pos }

// between returns the entries of revisions in (pos, to].
func (v view) between(pos, to int64) []*entry {
	lo := sort.Search(len(v.entries), func(i int) bool { return v.entries[i].rev > pos })
	es := v.entries[lo:]
	if v.resolved <= to {
		return es
	}
	return es[:sort.Search(len(es), func(i int) bool { return es[i].rev > to })]
}

// append takes in events that the source handed over, all of one or more whole
// revisions. limit bounds the ring in bytes. It wakes who follows the segment.
//
// An event that is neither new nor known is a broken promise of an owner that
// said "resolved" too early, or of the source: it is answered with an error, and
// nothing after it is taken in.
func (s *segment) append(entries []*entry, limit int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.frozen {
		return nil
	}
	known, before := s.mu.resolved, len(s.mu.entries)
	for _, e := range entries {
		if e.rev <= known {
			if e.rev <= s.mu.inherited {
				continue
			}
			return fmt.Errorf("watch: event of %s at revision %d in %v, which is resolved up to %d",
				keyspace.Format(e.key), e.rev, s.span, known)
		}
		if n := len(s.mu.entries); n > 0 && e.before(s.mu.entries[n-1]) {
			return fmt.Errorf("watch: event of %s at revision %d in %v comes after one at %d",
				keyspace.Format(e.key), e.rev, s.span, s.mu.entries[n-1].rev)
		}
		s.mu.resolved = max(s.mu.resolved, e.rev)
		s.mu.entries = append(s.mu.entries, e)
		s.mu.bytes += e.size() + entryOverhead
		s.mu.have = max(s.mu.have, e.rev)
	}
	if len(s.mu.entries) > before {
		s.trimLocked(limit)
		s.wakeLocked()
	}
	return nil
}

// pass notes that the source handed over everything up to rev while nobody
// wanted events, and empties the ring.
func (s *segment) pass(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.frozen {
		return
	}
	s.mu.have = max(s.mu.have, rev)
	s.mu.resolved = max(s.mu.resolved, rev)
	s.mu.entries, s.mu.bytes, s.mu.floor = nil, 0, s.mu.resolved
	s.wakeLocked()
}

// trimLocked drops the oldest revisions, whole ones, until the ring keeps to its
// limit. The newest revision always stays.
func (s *segment) trimLocked(limit int) {
	n := len(s.mu.entries)
	drop := 0
	for s.mu.bytes > limit && drop < n {
		rev, end, size := s.mu.entries[drop].rev, drop, 0
		for end < n && s.mu.entries[end].rev == rev {
			size += s.mu.entries[end].size() + entryOverhead
			end++
		}
		if end == n {
			break
		}
		drop, s.mu.floor = end, rev
		s.mu.bytes -= size
	}
	// Readers hold the array, so nothing in it is cleared. What was cut off goes
	// when append moves the rest to a new one.
	s.mu.entries = s.mu.entries[drop:]
}

// credit notes that the owner resolved rev and that the source has applied all
// of it.
func (s *segment) credit(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.frozen {
		return
	}
	lagged := s.mu.have < min(rev, s.mu.resolved)
	s.mu.have = max(s.mu.have, rev)
	if rev > s.mu.resolved {
		s.mu.resolved = rev
	} else if !lagged {
		return
	}
	s.wakeLocked()
}

// jump notes that the source's disk is complete up to rev, and that some of what
// lies between was never handed over.
func (s *segment) jump(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.frozen {
		return
	}
	s.mu.have = max(s.mu.have, rev)
	if rev > s.mu.resolved {
		s.mu.entries, s.mu.bytes = nil, 0
		s.mu.resolved, s.mu.floor = rev, rev
	}
	s.wakeLocked()
}

// freeze ends the segment and returns what it held.
func (s *segment) freeze() view {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.frozen = true
	s.wakeLocked()
	return view{entries: s.mu.entries, floor: s.mu.floor, resolved: s.mu.resolved, have: s.mu.have, frozen: true}
}

func (s *segment) isFrozen() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.frozen
}

func (s *segment) resolved() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.resolved
}

// readable returns the revision up to which the segment is resolved and its
// source's disk holds everything.
func (s *segment) readable() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(s.mu.resolved, s.mu.have)
}

func (s *segment) subscribe(t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.subs[t] = struct{}{}
}

func (s *segment) unsubscribe(t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.subs, t)
}

func (s *segment) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeLocked()
}

func (s *segment) wakeLocked() {
	for t := range s.mu.subs {
		t.wake()
	}
}
