package watch

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"sort"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// topology is an immutable cut of the user key space into segments, in key
// order, without gaps. Every change of who feeds which keys makes a new one.
type topology struct {
	version  uint64
	segments []*segment
}

// covering returns the segments that hold a part of span; it must not be empty.
// The result aliases the topology.
func (t *topology) covering(span keyspace.Span) []*segment {
	lo := sort.Search(len(t.segments), func(i int) bool { return bytes.Compare(t.segments[i].span.End, span.Start) > 0 })
	hi := lo
	for hi < len(t.segments) && bytes.Compare(t.segments[hi].span.Start, span.End) < 0 {
		hi++
	}
	return t.segments[lo:hi:hi]
}

// hull returns the span of all segments that hold a part of span.
func (t *topology) hull(span keyspace.Span) keyspace.Span {
	segs := t.covering(span)
	if len(segs) == 0 {
		return span
	}
	return keyspace.Span{Start: segs[0].span.Start, End: segs[len(segs)-1].span.End}
}

// claim says who is to feed a span. Of two local sources that cover a key, the
// one of the higher generation knows more: the other has yet to apply the split.
type claim struct {
	span       keyspace.Span
	generation uint64
	local      *source // nil: a shard that must be fed from elsewhere
	remote     uint64  // shard id, zero if not even that is known
}

func (c claim) sameFeeder(o claim) bool { return c.local == o.local && c.remote == o.remote }

// cut lays out who feeds which keys of the user space: locals where they cover
// it, the range map's shards elsewhere, nobody where neither knows.
func cut(locals []claim, remotes []claim) []claim {
	users := keyspace.Users()
	bounds := [][]byte{users.Start, users.End}
	for _, list := range [][]claim{locals, remotes} {
		for _, c := range list {
			bounds = append(bounds, c.span.Start, c.span.End)
		}
	}
	slices.SortFunc(bounds, bytes.Compare)
	bounds = slices.CompactFunc(bounds, bytes.Equal)
	byStart := func(a, b claim) int { return bytes.Compare(a.span.Start, b.span.Start) }
	slices.SortFunc(locals, byStart)
	slices.SortFunc(remotes, byStart)

	var out []claim
	var activeLocal, activeRemote []claim
	for i := 0; i+1 < len(bounds); i++ {
		piece := keyspace.Span{Start: bounds[i], End: bounds[i+1]}
		activeLocal, locals = advance(activeLocal, locals, piece.Start)
		activeRemote, remotes = advance(activeRemote, remotes, piece.Start)
		c := best(activeLocal, activeRemote)
		c.span = piece
		if n := len(out); n > 0 && out[n-1].sameFeeder(c) {
			out[n-1].span.End = piece.End
			continue
		}
		out = append(out, c)
	}
	return out
}

// advance moves the claims that begin at or below key from waiting to active and
// drops the active ones that end there.
func advance(active, waiting []claim, key []byte) ([]claim, []claim) {
	for len(waiting) > 0 && bytes.Compare(waiting[0].span.Start, key) <= 0 {
		active = append(active, waiting[0])
		waiting = waiting[1:]
	}
	active = slices.DeleteFunc(active, func(c claim) bool { return bytes.Compare(c.span.End, key) <= 0 })
	return active, waiting
}

func best(locals, remotes []claim) claim {
	for _, list := range [][]claim{locals, remotes} {
		if len(list) > 0 {
			return slices.MaxFunc(list, func(a, b claim) int {
				if c := cmp.Compare(a.generation, b.generation); c != 0 {
					return c
				}
				return cmp.Compare(a.shard(), b.shard())
			})
		}
	}
	return claim{}
}

func (c claim) shard() uint64 {
	if c.local != nil {
		return c.local.shard
	}
	return c.remote
}

// rebuildLocked makes the topology follow the local sources and the range map,
// and wakes everybody if anything changed. Hub.mu is held.
func (h *Hub) rebuildLocked() {
	old := h.topology.Load()
	claims := cut(h.localClaimsLocked(), h.remoteClaims())
	next := &topology{version: old.version + 1, segments: make([]*segment, 0, len(claims))}
	kept := make(map[*segment]bool, len(old.segments))
	var fresh []*segment
	for _, c := range claims {
		if seg := old.exactly(c); seg != nil {
			kept[seg] = true
			next.segments = append(next.segments, seg)
			continue
		}
		src := c.local
		if src == nil {
			src = h.newSource(c.remote, false)
		}
		seg := newSegment(c.span, src)
		fresh = append(fresh, seg)
		next.segments = append(next.segments, seg)
	}
	if len(fresh) == 0 && len(kept) == len(old.segments) {
		return
	}

	// The sources that are touched stand still until the new segments have taken
	// over: what one hands over meanwhile would be lost between the two.
	sources := touched(old.segments, fresh, kept)
	for _, src := range sources {
		src.mu.Lock()
	}
	ended := make(map[*segment]view)
	for _, seg := range old.segments {
		if !kept[seg] {
			ended[seg] = seg.freeze()
		}
	}
	for _, seg := range fresh {
		seg.inherit(old.covering(seg.span), ended)
	}
	for _, src := range sources {
		src.mu.segments = src.mu.segments[:0:0]
		for _, seg := range next.segments {
			if seg.source == src {
				src.mu.segments = append(src.mu.segments, seg)
			}
		}
	}
	h.topology.Store(next)
	h.ringLimit.Store(int64(h.cfg.RingBytes / min(len(next.segments), maxRingShares)))
	for _, src := range sources {
		src.mu.Unlock()
	}
	h.wakeGroups()
	h.feeds.dropFrozen(ended)
}

// exactly returns the segment that a claim would make anew, if it is there.
func (t *topology) exactly(c claim) *segment {
	covering := t.covering(c.span)
	if len(covering) == 0 {
		return nil
	}
	seg := covering[0]
	if seg.span.Equal(c.span) && seg.source.local == (c.local != nil) &&
		(seg.source == c.local || c.local == nil && seg.source.shard == c.remote) {
		return seg
	}
	return nil
}

// touched lists the sources of the segments that end or begin, in the order in
// which they are locked. Those of fresh feeds are known to nobody else yet.
func touched(old, fresh []*segment, kept map[*segment]bool) []*source {
	set := map[*source]bool{}
	for _, seg := range old {
		if !kept[seg] {
			set[seg.source] = true
		}
	}
	for _, seg := range fresh {
		set[seg.source] = true
	}
	out := make([]*source, 0, len(set))
	for src := range set {
		out = append(out, src)
	}
	slices.SortFunc(out, func(a, b *source) int {
		if c := cmp.Compare(a.shard, b.shard); c != 0 {
			return c
		}
		return cmp.Compare(a.serial, b.serial)
	})
	return out
}

// inherit makes a new segment begin where those before it in its span ended. The
// lock of its source is held.
func (s *segment) inherit(before []*segment, ended map[*segment]view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resolved := int64(math.MaxInt64)
	for _, b := range before {
		resolved = min(resolved, ended[b].resolved)
	}
	if len(before) == 0 {
		resolved = 0
	}
	s.mu.resolved, s.mu.inherited, s.mu.floor = resolved, resolved, resolved
	if len(before) == 1 {
		v := ended[before[0]]
		s.mu.floor = v.floor
		for _, e := range v.entries {
			if s.span.Contains(e.key) {
				s.mu.entries = append(s.mu.entries, e)
				s.mu.bytes += e.size() + entryOverhead
			}
		}
	}
	if !s.source.local {
		// How far the disk of a feed's member goes is its own to tell.
		s.mu.have = math.MaxInt64
		return
	}
	s.mu.have = s.source.mu.last
	if s.mu.have > resolved {
		s.mu.entries, s.mu.bytes = nil, 0
		s.mu.resolved, s.mu.floor = s.mu.have, s.mu.have
	}
}

func (h *Hub) localClaimsLocked() []claim {
	out := make([]claim, 0, len(h.mu.locals))
	for _, src := range h.mu.locals {
		if span := src.mu.span.Intersect(keyspace.Users()); !span.Empty() {
			out = append(out, claim{span: span, generation: src.mu.generation, local: src})
		}
	}
	return out
}

func (h *Hub) remoteClaims() []claim {
	if h.cfg.Map == nil {
		return nil
	}
	var out []claim
	for _, d := range h.cfg.Map().Overlapping(keyspace.Users()) {
		span := keyspace.Span{Start: d.Start, End: d.End}.Intersect(keyspace.Users())
		if !span.Empty() {
			out = append(out, claim{span: span, generation: d.Generation, remote: d.Shard})
		}
	}
	return out
}
