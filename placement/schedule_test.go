package placement

import (
	"fmt"
	"slices"
	"testing"
	"time"

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
			v := s.View(nil, 1)
			begun := Schedule(v, func(m uint64) bool { return !dead[m] }, nobody)
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

func nobody(uint64) bool { return false }

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

// TestGiveUps: a replica that can never join does not hold its shard up, and one
// that votes is never given up.
func TestGiveUps(t *testing.T) {
	s := NewState()
	in := &kvdpb.PlacementInit{ClusterId: 9}
	for i := range uint64(4) {
		in.Members = append(in.Members, &kvdpb.Member{Id: i + 1, Replica: i + 1, Name: fmt.Sprint("m", i+1), PeerUrls: []string{fmt.Sprint("http://p", i)}})
	}
	d := &kvdpb.Descriptor{Shard: FirstShard, Start: keyspace.Min(), End: keyspace.Max(), Generation: 1,
		Replicas: []*kvdpb.Replica{{Member: 1, Replica: 1}, {Member: 2, Replica: 2}, {Member: 3, Replica: 3}}}
	d.Initial = d.Replicas
	in.Shards = []*kvdpb.Descriptor{d}
	require.Equal(t, kvdpb.PlacementResult_NONE, s.Apply(command(in)).Rejection)
	lost := map[uint64]bool{}
	decide := func() []*kvdpb.PlacementCommand {
		return GiveUps(s.View(nil, 1), func(m uint64) bool { return lost[m] })
	}
	require.Equal(t, kvdpb.PlacementResult_NONE, s.addReplica(&kvdpb.AddReplica{Shard: FirstShard, Member: 4, Replaces: 3}).Rejection)
	require.Empty(t, decide())
	lost[3] = true
	require.Empty(t, decide(), "the replica that it replaces may be dead")
	lost[4] = true
	given := decide()
	require.Len(t, given, 1)
	require.Equal(t, kvdpb.PlacementResult_NONE, s.removeReplica(given[0].GetRemoveReplica()).Rejection)
	require.Empty(t, decide(), "it leaves by now")
	require.Equal(t, kvdpb.PlacementResult_NONE, s.dropReplica(&kvdpb.DropReplica{Shard: FirstShard, Replica: 4}).Rejection)
	require.Len(t, s.shards[FirstShard].Replicas, 3, "the one that was to be replaced stays")
	require.False(t, findReplica(s.shards[FirstShard], 3).Leaving)

	lost[4] = false
	require.Equal(t, kvdpb.PlacementResult_NONE, s.addReplica(&kvdpb.AddReplica{Shard: FirstShard, Config: s.shards[FirstShard].Config, Member: 4, Replaces: 3}).Rejection)
	joined := s.shards[FirstShard].Replicas[3].Replica
	require.Greater(t, joined, uint64(4), "ids never come back")
	require.Equal(t, kvdpb.PlacementResult_NONE, s.promoteReplica(&kvdpb.PromoteReplica{Shard: FirstShard, Replica: joined}).Rejection)
	lost[4] = true
	require.Empty(t, decide(), "past the point of no return")

	a, now := absences{}, time.Unix(100, 0)
	alive := false
	look := func(at time.Time) bool {
		a.look(in.Members[:1], func(uint64) bool { return alive }, at)
		return a.lost(1, at)
	}
	require.False(t, look(now))
	require.False(t, look(now.Add(lostAfter-1)))
	require.True(t, look(now.Add(lostAfter)))
	alive = true
	require.False(t, look(now.Add(lostAfter)))
	alive = false
	require.False(t, look(now.Add(2*lostAfter)), "counted anew")
}
