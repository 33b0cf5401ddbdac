package placement

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// threeMembers is the state of a cluster of three members with two shards.
func threeMembers(t *testing.T) (*State, []*kvdpb.Member) {
	t.Helper()
	c, err := Bootstrap("a=http://127.0.0.1:1,b=http://127.0.0.1:2,c=http://127.0.0.1:3", "t", [][]byte{[]byte("m")})
	require.NoError(t, err)
	s := NewState()
	res := s.Apply(&kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_Init{Init: c.Init}})
	require.Equal(t, kvdpb.PlacementResult_NONE, res.Rejection, res.Reason)
	return s, c.Members
}

func forced(s *State, c *kvdpb.ForceNewCluster) *kvdpb.PlacementResult {
	return s.Apply(&kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_ForceNewCluster{ForceNewCluster: c}})
}

// A forced cluster is one member with one replica of each shard, at revisions that nobody can have seen, and grows under
// new ids.
func TestForceNewCluster(t *testing.T) {
	s, members := threeMembers(t)
	me, other := members[1], members[0]
	require.Equal(t, kvdpb.PlacementResult_NONE, s.addMember(&kvdpb.AddMember{Member: &kvdpb.Member{Id: 99, PeerUrls: []string{"http://127.0.0.1:9"}}}).Rejection)
	for _, id := range []uint64{other.Id, me.Id} {
		s.raiseAlarm(&kvdpb.RaiseAlarm{Alarm: &kvdpb.Alarm{Member: id, Type: kvdpb.Alarm_NO_SPACE}})
	}
	require.Equal(t, kvdpb.PlacementResult_NONE, s.preferOwner(&kvdpb.PreferOwner{Shard: FirstShard, Member: other.Id}).Rejection)

	c := &kvdpb.ForceNewCluster{Member: me.Id, Revision: 1000, CompactRevision: 700}
	res := forced(s, c)
	require.Equal(t, kvdpb.PlacementResult_NONE, res.Rejection, res.Reason)
	require.NoError(t, s.check())
	require.Len(t, s.members, 1)
	require.True(t, s.members[me.Id].Votes)
	require.Len(t, s.elastic.removed, 3)
	require.Len(t, s.alarms, 1)
	require.EqualValues(t, 700, s.compactRevision)
	require.Greater(t, s.windowEnd, int64(1000+minWindow))
	highest := uint64(0)
	for id, d := range s.shards {
		require.Len(t, d.Replicas, 1, "shard %d", id)
		require.Equal(t, me.Id, d.Replicas[0].Member)
		require.Len(t, d.Initial, 1)
		require.EqualValues(t, 4, d.NextReplica, "ids of replicas are not given twice")
		require.Zero(t, d.PreferredOwner)
		highest = max(highest, d.Replicas[0].Replica)
	}
	require.Positive(t, highest)

	// What is kept on disk is what was applied.
	again, err := StateFromProto(s.Proto())
	require.NoError(t, err)
	require.True(t, proto.Equal(s.Proto(), again.Proto()))

	// It grows again, but not by those who are gone.
	require.Equal(t, kvdpb.PlacementResult_NOT_FOUND, s.addMember(&kvdpb.AddMember{Member: other}).Rejection)
	require.Equal(t, kvdpb.PlacementResult_NONE, s.addMember(&kvdpb.AddMember{Member: &kvdpb.Member{Id: 100, PeerUrls: other.PeerUrls}}).Rejection)
	require.EqualValues(t, 5, s.members[100].Replica, "after those of four members")

	// Once more, it takes the new one out again.
	require.Equal(t, kvdpb.PlacementResult_NONE, forced(s, c).Rejection)
	require.Len(t, s.members, 1)
}

// Splits that were under way go on if this member has a seed, or wait for one.
func TestForceNewClusterDuringASplit(t *testing.T) {
	for _, seeded := range []bool{true, false} {
		s, members := threeMembers(t)
		me := members[2].Id
		parent := s.shards[FirstShard]
		res := s.beginSplit(&kvdpb.BeginSplit{Parent: FirstShard, Generation: parent.Generation, Key: keyspace.User([]byte("d"))})
		require.Equal(t, kvdpb.PlacementResult_NONE, res.Rejection, res.Reason)
		child := res.Descriptor_.Shard
		who := members[0].Id
		if seeded {
			who = me
		}
		require.Equal(t, kvdpb.PlacementResult_NONE, s.confirmSeed(&kvdpb.ConfirmSeed{Child: child, Member: who}).Rejection)
		require.Equal(t, kvdpb.Descriptor_SEEDING, s.shards[child].Phase)

		require.Equal(t, kvdpb.PlacementResult_NONE, forced(s, &kvdpb.ForceNewCluster{Member: me}).Rejection)
		require.NoError(t, s.check())
		if seeded {
			require.Equal(t, kvdpb.Descriptor_LIVE, s.shards[child].Phase)
			require.Equal(t, s.shards[child].Start, s.shards[FirstShard].End)
			continue
		}
		require.Equal(t, kvdpb.Descriptor_SEEDING, s.shards[child].Phase)
		require.Empty(t, s.shards[child].Seeded, "nobody who is left has one")
		require.Equal(t, kvdpb.PlacementResult_NONE, s.confirmSeed(&kvdpb.ConfirmSeed{Child: child, Member: me}).Rejection)
		require.Equal(t, kvdpb.Descriptor_LIVE, s.shards[child].Phase)
	}
}

func TestForceNewClusterIsRefused(t *testing.T) {
	s, members := threeMembers(t)
	me := members[0].Id
	before := proto.CloneOf(s.Proto())
	for _, c := range []*kvdpb.ForceNewCluster{
		{Member: 5}, {Member: me, Revision: -1}, {Member: me, Revision: math.MaxInt64}, {Member: me, Revision: 5, CompactRevision: 6},
	} {
		require.NotEqual(t, kvdpb.PlacementResult_NONE, forced(s, c).Rejection, "%v", c)
	}
	d := proto.CloneOf(s.shards[FirstShard])
	d.Replicas = d.Replicas[1:]
	if d.Replicas[0].Member == me {
		d.Replicas = d.Replicas[1:]
	}
	lacks := 0
	for _, m := range members {
		if replicaOn(d, m.Id) == nil {
			lacks++
			with, _ := threeMembers(t)
			with.setShard(d)
			require.Equal(t, kvdpb.PlacementResult_NOT_FOUND, forced(with, &kvdpb.ForceNewCluster{Member: m.Id}).Rejection)
			require.Len(t, with.members, 3)
		}
	}
	require.Positive(t, lacks)
	require.True(t, proto.Equal(before, s.Proto()), "a refusal changes nothing")
	require.Equal(t, kvdpb.PlacementResult_NOT_FOUND, forced(NewState(), &kvdpb.ForceNewCluster{Member: me}).Rejection)

	// Nobody can ask for it.
	cmd := &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_ForceNewCluster{ForceNewCluster: &kvdpb.ForceNewCluster{Member: me}}}
	require.Error(t, updatable(cmd))
}
