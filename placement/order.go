package placement

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// order keeps the live descriptors of a state in key order from one look to the next,
// so that a change of a few among very many costs a copy and not a sort, on every
// member.
type order struct {
	// live is nil before the first look. A list that was given away is never changed
	// in place.
	live []*kvdpb.Descriptor
	// count is how many descriptors there were then, of every phase; set are those
	// that were set since. What is written to the storage counts as set, whoever
	// changed it: no view shows what is not stored.
	count int
	set   map[uint64]struct{}
}

func before(a, b *kvdpb.Descriptor) int {
	return cmp.Or(bytes.Compare(a.Start, b.Start), cmp.Compare(a.Shard, b.Shard))
}

// inOrder returns the live descriptors in key order. The caller must not change the
// slice.
func (s *State) inOrder() []*kvdpb.Descriptor {
	o := &s.order
	switch {
	case o.live != nil && len(o.set) == 0 && o.count == len(s.shards):
		return o.live
	case o.live == nil || len(o.set) > len(s.shards)/8:
		o.live = sortedLive(s.shards)
	default:
		o.live = s.reordered()
	}
	o.count = len(s.shards)
	clear(o.set)
	return o.live
}

// reordered merges what was set since the last look into what is left of that.
func (s *State) reordered() []*kvdpb.Descriptor {
	var set []*kvdpb.Descriptor
	for id := range s.order.set {
		if d := s.shards[id]; d != nil && d.Phase == kvdpb.Descriptor_LIVE {
			set = append(set, d)
		}
	}
	slices.SortFunc(set, before)
	merged := make([]*kvdpb.Descriptor, 0, len(s.order.live)+len(set))
	for _, d := range s.order.live {
		_, again := s.order.set[d.Shard]
		if again || s.shards[d.Shard] != d {
			continue
		}
		for len(set) > 0 && before(set[0], d) < 0 {
			merged, set = append(merged, set[0]), set[1:]
		}
		merged = append(merged, d)
	}
	return append(merged, set...)
}

// checkOrder compares with a dumb twin.
func (s *State) checkOrder() error {
	if !slices.Equal(s.inOrder(), sortedLive(s.shards)) {
		return fmt.Errorf("the live shards are out of order")
	}
	return nil
}
