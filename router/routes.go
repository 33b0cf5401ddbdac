package router

import (
	"bytes"
	"maps"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// routes says where a key lives. The base is the range map that this member
// follows through raft; beside it lie two small sets of news that came in errors
// and that the base does not have yet: descriptors, and owners of shards.
//
// Invariants:
//  1. A descriptor is believed for a key only if its generation is higher than
//     that of the base's descriptor for the key. Generations rise along the
//     lineage of a key whatever shard holds it.
//  2. The learned descriptors do not overlap. One is replaced only by a higher
//     generation.
//  3. An owner is replaced only by one of a higher epoch.
//
// A wrong route costs a round trip and never correctness: shards check every
// key themselves. Readers take no lock; news are rare.
type routes struct {
	base    func() *placement.Map
	learned atomic.Pointer[[]*kvdpb.Descriptor]
	owners  atomic.Pointer[map[uint64]ownerNews]
	// mu is held by those who change learned or owners.
	mu sync.Mutex
}

type ownerNews struct {
	member, epoch uint64
}

func newRoutes(base func() *placement.Map) *routes {
	t := &routes{base: base}
	t.learned.Store(&[]*kvdpb.Descriptor{})
	t.owners.Store(&map[uint64]ownerNews{})
	return t
}

// lookup returns the shard that holds a key; nil while no map is known.
func (t *routes) lookup(key []byte) *kvdpb.Descriptor {
	d := t.base().Lookup(key)
	if learned := *t.learned.Load(); len(learned) > 0 {
		if l := find(learned, key); l != nil && (d == nil || l.Generation > d.Generation) {
			return l
		}
	}
	return d
}

// find returns the one of the sorted descriptors that holds key.
func find(ds []*kvdpb.Descriptor, key []byte) *kvdpb.Descriptor {
	i := sort.Search(len(ds), func(i int) bool { return bytes.Compare(ds[i].Start, key) > 0 }) - 1
	if i < 0 || bytes.Compare(key, ds[i].End) >= 0 {
		return nil
	}
	return ds[i]
}

// part is a piece of a span that one shard holds.
type part struct {
	desc *kvdpb.Descriptor
	span keyspace.Span
}

// split cuts a span at the boundaries of shards, in key order; ok is false
// while no map is known.
func (t *routes) split(span keyspace.Span) (parts []part, ok bool) {
	learned := *t.learned.Load()
	for at := span.Start; bytes.Compare(at, span.End) < 0; {
		d := t.lookup(at)
		if d == nil {
			return nil, false
		}
		end := d.End
		// A learned descriptor of a higher generation may begin inside d.
		i := sort.Search(len(learned), func(i int) bool { return bytes.Compare(learned[i].Start, at) > 0 })
		for ; i < len(learned) && bytes.Compare(learned[i].Start, end) < 0; i++ {
			if learned[i].Generation > d.Generation {
				end = learned[i].Start
			}
		}
		if bytes.Compare(end, span.End) > 0 {
			end = span.End
		}
		parts = append(parts, part{desc: d, span: keyspace.Span{Start: at, End: end}})
		at = end
	}
	return parts, true
}

// learn takes over descriptors that came in an error, as far as they are news,
// and tells whether any was.
func (t *routes) learn(ds []*kvdpb.Descriptor) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	base, learned := t.base(), *t.learned.Load()
	for _, d := range ds {
		// A child that is being seeded is still routed to its parent.
		if d == nil || d.Phase != kvdpb.Descriptor_LIVE || bytes.Compare(d.Start, d.End) >= 0 || !newer(base, d) {
			continue
		}
		over := keyspace.Span{Start: d.Start, End: d.End}
		old := func(l *kvdpb.Descriptor) bool { return over.Overlaps(keyspace.Span{Start: l.Start, End: l.End}) }
		if slices.ContainsFunc(learned, func(l *kvdpb.Descriptor) bool { return old(l) && l.Generation >= d.Generation }) {
			continue
		}
		next := make([]*kvdpb.Descriptor, 0, len(learned)+1)
		for _, l := range learned {
			if !old(l) {
				next = append(next, l)
			}
		}
		next = append(next, d)
		slices.SortFunc(next, func(a, b *kvdpb.Descriptor) int { return bytes.Compare(a.Start, b.Start) })
		learned, news = next, true
	}
	if news {
		t.learned.Store(&learned)
	}
	return news
}

// newer tells whether a descriptor is news to the map.
func newer(m *placement.Map, d *kvdpb.Descriptor) bool {
	b := m.Lookup(d.Start)
	return b == nil || b.Generation < d.Generation
}

// forget drops what the base has caught up with, after it changed.
func (t *routes) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	base := t.base()
	if learned := *t.learned.Load(); len(learned) > 0 {
		kept := make([]*kvdpb.Descriptor, 0, len(learned))
		for _, l := range learned {
			if newer(base, l) {
				kept = append(kept, l)
			}
		}
		t.learned.Store(&kept)
	}
	owners := maps.Clone(*t.owners.Load())
	maps.DeleteFunc(owners, func(shard uint64, _ ownerNews) bool {
		return base.ByID(shard) == nil && !slices.ContainsFunc(*t.learned.Load(), func(l *kvdpb.Descriptor) bool { return l.Shard == shard })
	})
	t.owners.Store(&owners)
}

// learnOwner takes over who owns a shard, if that is news.
func (t *routes) learnOwner(shard, member, epoch uint64) (news bool) {
	if old, ok := (*t.owners.Load())[shard]; shard == 0 || (ok && old.epoch >= epoch) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	owners := *t.owners.Load()
	if old, ok := owners[shard]; ok && old.epoch >= epoch {
		return false
	}
	next := maps.Clone(owners)
	next[shard] = ownerNews{member: member, epoch: epoch}
	t.owners.Store(&next)
	return true
}

// owner returns what was learned about a shard's owner.
func (t *routes) owner(shard uint64) ownerNews { return (*t.owners.Load())[shard] }
