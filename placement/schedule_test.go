package placement

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// TestScheduleSettles plays the scheduler on the replicated state itself, with an
// owner that carries out at once what was begun, and looks at where it settles.
func TestScheduleSettles(t *testing.T) {
	const shards = 20
	in := &kvdpb.PlacementInit{ClusterId: 9}
	for i := range uint64(5) {
		in.Members = append(in.Members, &kvdpb.Member{Id: i + 1, Replica: i + 1, Name: fmt.Sprint("m", i+1), PeerUrls: []string{fmt.Sprint("http://p", i)}})
	}
	for i := range uint64(shards) {
		d := &kvdpb.Descriptor{Shard: FirstShard + i, Start: keyspace.Min(), End: keyspace.Max(), Generation: 1}
		if i > 0 {
			d.Start = keyspace.User([]byte(fmt.Sprintf("%03d", i)))
		}
		if i+1 < shards {
			d.End = keyspace.User([]byte(fmt.Sprintf("%03d", i+1)))
		}
		d.Replicas = []*kvdpb.Replica{{Member: 1, Replica: 1}}
		d.Initial = d.Replicas
		in.Shards = append(in.Shards, d)
	}
	s := NewState()
	require.Equal(t, kvdpb.PlacementResult_NONE, s.Apply(command(in)).Rejection)
	dead := map[uint64]bool{}
	settle := func() *View {
		t.Helper()
		for range 1000 {
			v := s.view(nil, 1)
			begun := Schedule(v, func(m uint64) bool { return !dead[m] })
			require.LessOrEqual(t, len(begun), defaultMaxChanges)
			if len(begun) == 0 {
				return v
			}
			for _, cmd := range begun {
				res, ok := s.applyElastic(cmd)
				require.True(t, ok)
				require.Equal(t, kvdpb.PlacementResult_NONE, res.Rejection, res.Reason)
				carryOut(s, res.Descriptor_)
			}
			require.NoError(t, s.check())
		}
		t.Fatal("the scheduler never settles")
		return nil
	}
	spread := func(v *View, replicas int, members ...uint64) {
		t.Helper()
		var loads []int
		for _, m := range members {
			loads = append(loads, replicasOn(v.Map.byID, m))
		}
		total := 0
		for _, l := range loads {
			total += l
		}
		require.Equal(t, shards*replicas, total)
		require.LessOrEqual(t, slices.Max(loads)-slices.Min(loads), 2)
	}
	spread(settle(), 3, 1, 2, 3, 4, 5)
	// A living member and then a dead one are removed.
	s.removeMember(&kvdpb.RemoveMember{Id: 1})
	spread(settle(), 3, 2, 3, 4, 5)
	dead[2] = true
	s.removeMember(&kvdpb.RemoveMember{Id: 2})
	spread(settle(), 3, 3, 4, 5)
	s.removeMember(&kvdpb.RemoveMember{Id: 3})
	spread(settle(), 2, 4, 5)
	for _, m := range []uint64{1, 2, 3} {
		require.Equal(t, kvdpb.PlacementResult_NONE, s.forgetMember(&kvdpb.ForgetMember{Id: m}).Rejection)
	}
}

// carryOut does what a shard's owner does, from phase to phase.
func carryOut(s *State, d *kvdpb.Descriptor) {
	for r := changing(d); r != nil; r = changing(s.shards[d.Shard]) {
		if r.Joining {
			s.promoteReplica(&kvdpb.PromoteReplica{Shard: d.Shard, Replica: r.Replica})
		} else {
			s.dropReplica(&kvdpb.DropReplica{Shard: d.Shard, Replica: r.Replica})
		}
	}
}
