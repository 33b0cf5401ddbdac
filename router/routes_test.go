package router

import (
	"bytes"
	"testing"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestRoutesAgainstHistory splits shards, lets the base lag behind, teaches news
// in any order, and compares the routes of single keys with the newest that was
// told of each.
func TestRoutesAgainstHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		live := map[uint64]*kvdpb.Descriptor{1: {Shard: 1, Start: keyspace.Min(), End: keyspace.Max(), Generation: 1}}
		var history []*kvdpb.Descriptor
		base := placement.NewMap(1, live)
		routes := newRoutes(func() *placement.Map { return base })
		told := make(map[*kvdpb.Descriptor]bool)
		best := func(key []byte) uint64 {
			g := base.Lookup(key).Generation
			for d := range told {
				if bytes.Compare(d.Start, key) <= 0 && bytes.Compare(key, d.End) < 0 {
					g = max(g, d.Generation)
				}
			}
			return g
		}
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				key := keyspace.User(rapid.SliceOfN(rapid.ByteRange('a', 'f'), 1, 2).Draw(t, "cut"))
				for id, d := range live {
					if bytes.Compare(d.Start, key) < 0 && bytes.Compare(key, d.End) < 0 {
						next := make(map[uint64]*kvdpb.Descriptor)
						for k, v := range live {
							next[k] = v
						}
						next[id] = &kvdpb.Descriptor{Shard: id, Start: d.Start, End: key, Generation: d.Generation + 1}
						child := uint64(len(live) + 1)
						next[child] = &kvdpb.Descriptor{Shard: child, Start: key, End: d.End, Generation: d.Generation + 1}
						history = append(history, next[id], next[child])
						live = next
						break
					}
				}
			case 1:
				if len(history) > 0 {
					d := rapid.SampledFrom(history).Draw(t, "news")
					wasNews := d.Generation > best(d.Start)
					if routes.learn([]*kvdpb.Descriptor{d}) && !wasNews {
						t.Fatalf("%v is taken for news", d)
					}
					told[d] = true
				}
			case 2:
				if rapid.Bool().Draw(t, "catch up") {
					base = placement.NewMap(base.Version()+1, live)
					routes.forget()
					clear(told)
				}
			}
			// What is learned never overlaps, and parts tile any span.
			learned := *routes.learned.Load()
			for i := 1; i < len(learned); i++ {
				if bytes.Compare(learned[i-1].End, learned[i].Start) > 0 {
					t.Fatalf("%v overlaps %v", learned[i-1], learned[i])
				}
			}
			span := keyspace.Users()
			parts, ok := routes.split(span)
			if !ok {
				t.Fatal("no route")
			}
			at := span.Start
			for _, p := range parts {
				if !bytes.Equal(p.span.Start, at) || p.span.Empty() || routes.lookup(p.span.Start) != p.desc {
					t.Fatalf("parts %v", parts)
				}
				at = p.span.End
			}
			if !bytes.Equal(at, span.End) {
				t.Fatalf("parts end at %q", at)
			}
			for _, k := range [][]byte{{1, 'a'}, {1, 'b', 'c'}, {1, 'd'}, {1, 'f', 'f'}} {
				if got := routes.lookup(k).Generation; got > best(k) || got < base.Lookup(k).Generation {
					t.Fatalf("key %q has generation %d, best told is %d", k, got, best(k))
				}
			}
		}
	})
}

func TestOwnersByEpoch(t *testing.T) {
	m := placement.NewMap(1, map[uint64]*kvdpb.Descriptor{1: {Shard: 1, Start: keyspace.Min(), End: keyspace.Max()}})
	routes := newRoutes(func() *placement.Map { return m })
	require.True(t, routes.learnOwner(1, 5, 3))
	require.False(t, routes.learnOwner(1, 6, 3))
	require.False(t, routes.learnOwner(1, 6, 2))
	require.True(t, routes.learnOwner(1, 6, 4))
	require.True(t, routes.learnOwner(9, 6, 4))
	require.False(t, routes.learnOwner(0, 6, 4))
	routes.forget()
	require.Equal(t, ownerNews{member: 6, epoch: 4}, routes.owner(1))
	require.Zero(t, routes.owner(9), "the shard is not in the map")
}
