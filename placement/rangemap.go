package placement

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"sort"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Map is the range map of one version of the placement state: which shard holds
// which key. It is immutable, and so are the descriptors that it hands out.
//
// It is a sorted slice of which every change makes a new one. Changes are splits and
// moves, a few per second at most, while every request looks a key up: the slice
// does that without allocation.
type Map struct {
	version uint64
	// live is in key order and tiles the key space; empty before the first entry.
	live []*kvdpb.Descriptor
	// seeding holds the children of running splits by shard id. Their spans are
	// still routed to the parents.
	seeding []*kvdpb.Descriptor
	byID    map[uint64]*kvdpb.Descriptor
	// splitting holds the children that wait for seeds, by the shards that are split.
	splitting map[uint64]*kvdpb.Descriptor
}

// NewMap builds the map of a set of descriptors whose live ones tile the key
// space. It keeps the descriptors.
func NewMap(version uint64, shards map[uint64]*kvdpb.Descriptor) *Map {
	return newMap(version, shards, sortedLive(shards))
}

// newMap builds the map of descriptors of which the live ones are in order already.
func newMap(version uint64, shards map[uint64]*kvdpb.Descriptor, live []*kvdpb.Descriptor) *Map {
	m := &Map{version: version, live: live, byID: maps.Clone(shards), splitting: map[uint64]*kvdpb.Descriptor{}}
	for _, d := range live {
		if d.Parent != 0 && unseeded(d) {
			m.splitting[d.Parent] = d
		}
	}
	if len(live) == len(shards) {
		return m
	}
	for _, d := range shards {
		if d.Phase == kvdpb.Descriptor_SEEDING {
			m.splitting[d.Parent] = d
			m.seeding = append(m.seeding, d)
		}
	}
	slices.SortFunc(m.seeding, func(a, b *kvdpb.Descriptor) int { return cmp.Compare(a.Shard, b.Shard) })
	return m
}

// Version returns the version of the placement state that the map shows.
func (m *Map) Version() uint64 { return m.version }

// Len returns how many live shards there are.
func (m *Map) Len() int { return len(m.live) }

// Live returns the live descriptors in key order. The caller must not change
// the slice.
func (m *Map) Live() []*kvdpb.Descriptor { return m.live }

// Seeding returns the children of running splits, by shard id. The caller must
// not change the slice.
func (m *Map) Seeding() []*kvdpb.Descriptor { return m.seeding }

// ByID returns the descriptor of a shard, live or being seeded; nil if there is
// none.
func (m *Map) ByID(shard uint64) *kvdpb.Descriptor { return m.byID[shard] }

// SplitChild returns the child of a shard that is being split, live or not, which
// waits for seeds; nil if there is none.
func (m *Map) SplitChild(shard uint64) *kvdpb.Descriptor { return m.splitting[shard] }

// Lookup returns the live shard that holds an encoded key; nil for a key outside
// the key space, or before the first entry.
func (m *Map) Lookup(key []byte) *kvdpb.Descriptor {
	i := m.search(key)
	if i < 0 || bytes.Compare(key, m.live[i].End) >= 0 {
		return nil
	}
	return m.live[i]
}

// Overlapping returns the live shards that hold a part of the span, in key
// order. The result aliases the map; the caller must not change it.
func (m *Map) Overlapping(span keyspace.Span) []*kvdpb.Descriptor {
	if span.Empty() || len(m.live) == 0 {
		return nil
	}
	from := max(m.search(span.Start), 0)
	if bytes.Compare(span.Start, m.live[from].End) >= 0 {
		return nil
	}
	to := from + sort.Search(len(m.live)-from, func(i int) bool {
		return bytes.Compare(m.live[from+i].Start, span.End) >= 0
	})
	return m.live[from:to:to]
}

// search returns the index of the last live shard that begins at or below key;
// -1 if there is none.
func (m *Map) search(key []byte) int {
	lo, hi := 0, len(m.live)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if bytes.Compare(m.live[mid].Start, key) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}
