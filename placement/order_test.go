package placement

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// TestOrder splits, aborts and changes at random, and compares the order with one
// that is sorted anew; views that were given away stay as they were.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := evenState(t, 3, rapid.IntRange(1, 40).Draw(rt, "shards"))
		type given struct {
			view *View
			live []*kvdpb.Descriptor
		}
		var views []given
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			id := rapid.Uint64Range(FirstShard, s.nextShard).Draw(rt, "shard")
			d := s.shards[id]
			switch rapid.SampledFrom([]string{"split", "confirm", "abort", "prefer", "look"}).Draw(rt, "step") {
			case "split":
				key := keyspace.User(rapid.SliceOfN(rapid.Byte(), 1, 5).Draw(rt, "key"))
				s.beginSplit(&kvdpb.BeginSplit{Parent: id, Generation: d.GetGeneration(), Key: key})
			case "confirm":
				s.confirmSeed(&kvdpb.ConfirmSeed{Child: id, Member: rapid.Uint64Range(1, 3).Draw(rt, "member")})
			case "abort":
				s.abortSplit(&kvdpb.AbortSplit{Child: id})
			case "prefer":
				s.preferOwner(&kvdpb.PreferOwner{Shard: id, Member: 2})
			case "look":
				v := s.View(nil, 1)
				views = append(views, given{v, append([]*kvdpb.Descriptor{}, v.Map.Live()...)})
				require.NoError(rt, s.checkOrder())
			}
		}
		require.NoError(rt, s.check())
		for _, g := range views {
			require.Equal(rt, g.live, g.view.Map.Live())
		}
	})
}
