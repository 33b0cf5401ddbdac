package placement

import (
	"testing"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// found raises the alarm for a member's replicas.
func found(member uint64, shards ...uint64) *kvdpb.RaiseAlarm {
	a := alarm(member, kvdpb.Alarm_CORRUPT, kvdpb.Alarm_CHECK)
	a.Shards = shards
	return &kvdpb.RaiseAlarm{Alarm: a}
}

// elastically applies a command about replicas.
func elastically(s *State, cmd *kvdpb.PlacementCommand) *kvdpb.PlacementResult {
	cmd.Epoch = s.own.Epoch
	return s.Apply(cmd)
}

func letGo(d *kvdpb.Descriptor, replica uint64) *kvdpb.PlacementCommand {
	return removal(d, findReplica(d, replica))
}

func drop(shard, replica uint64) *kvdpb.PlacementCommand {
	return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_DropReplica{DropReplica: &kvdpb.DropReplica{Shard: shard, Replica: replica}}}
}

func promote(shard, replica uint64) *kvdpb.PlacementCommand {
	return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_PromoteReplica{PromoteReplica: &kvdpb.PromoteReplica{Shard: shard, Replica: replica}}}
}

// reloaded is the state as a member finds it that starts again.
func reloaded(t *testing.T, s *State) *State {
	t.Helper()
	require.NoError(t, s.check())
	again, err := StateFromProto(proto.CloneOf(s.Proto()))
	require.NoError(t, err)
	require.True(t, proto.Equal(s.Proto(), again.Proto()))
	return again
}

// TestRebuildGoesThroughItsPhases: each is kept, whoever starts again; the new replica has a new id; the alarm says what is still
// wrong, and ends with the last of it.
func TestRebuildGoesThroughItsPhases(t *testing.T) {
	s := servingState(t, 3, "m")
	first, second := uint64(FirstShard), uint64(FirstShard+1)
	want(t, none, do(s, found(3, second, first, first)))
	want(t, none, do(s, found(3, second)))
	require.Equal(t, []uint64{first, second}, s.alarms[0].Shards)
	want(t, none, do(s, &kvdpb.RaiseAlarm{Alarm: alarm(3, kvdpb.Alarm_CORRUPT, kvdpb.Alarm_REQUESTED)}))
	for n, shard := range []uint64{first, second} {
		d := s.shards[shard]
		old := replicaOn(d, 3).Replica
		other := replicaOn(d, 2).Replica
		require.True(t, s.View(nil, 1).Corrupt(shard, 3))
		require.False(t, s.View(nil, 1).Corrupt(shard, 2))
		want(t, none, do(s, &kvdpb.RebuildReplica{Shard: shard, Config: d.Config, Replica: old}))
		want(t, none, do(s, &kvdpb.RebuildReplica{Shard: shard, Config: d.Config, Replica: old})) // asked for again
		s = reloaded(t, s)
		d = s.shards[shard]
		require.Equal(t, Rebuilding, Doing(s.View(nil, 1).Map, d))
		want(t, busy, do(s, &kvdpb.RebuildReplica{Shard: shard, Config: d.Config, Replica: other}))

		want(t, none, elastically(s, letGo(d, old)))
		s = reloaded(t, s)
		d = s.shards[shard]
		require.True(t, findReplica(d, old).Leaving)
		require.Equal(t, Rebuilding, Doing(s.View(nil, 1).Map, d))
		want(t, busy, do(s, &kvdpb.RebuildReplica{Shard: shard, Config: d.Config, Replica: old, Cancel: true}))
		require.True(t, s.View(nil, 1).Corrupt(shard, 3), "it is not out yet")

		want(t, none, elastically(s, drop(shard, old)))
		want(t, none, elastically(s, drop(shard, old))) // told again
		s = reloaded(t, s)
		d = s.shards[shard]
		require.Nil(t, findReplica(d, old))
		fresh := replicaOn(d, 3)
		require.EqualValues(t, 4, fresh.Replica, "an id that was never used")
		require.EqualValues(t, 5, d.NextReplica)
		require.True(t, fresh.Joining && fresh.NonVoting && fresh.Rebuild)
		want(t, none, do(s, found(3, shard)))
		_, going := Rebuilds(d, 3, old)
		require.True(t, going)

		want(t, none, elastically(s, promote(shard, 4)))
		s = reloaded(t, s)
		d = s.shards[shard]
		require.Empty(t, Doing(s.View(nil, 1).Map, d))
		fresh = replicaOn(d, 3)
		require.False(t, fresh.Joining || fresh.NonVoting || fresh.Rebuild)
		replica, going := Rebuilds(d, 3, old)
		require.EqualValues(t, 4, replica)
		require.False(t, going)
		require.False(t, s.View(nil, 1).Corrupt(shard, 3))
		require.Len(t, s.alarms, 2-n, "the alarm ends with the last replica that differs")
	}
	require.Equal(t, kvdpb.Alarm_REQUESTED, s.alarms[0].Cause, "what a client raised stands until it is disarmed")
}

// TestRebuildIsTakenBack until the replica leaves, and is given up with its member after that.
func TestRebuildIsTakenBack(t *testing.T) {
	s := servingState(t, 3)
	shard := uint64(FirstShard)
	want(t, none, do(s, found(3, shard)))
	want(t, none, do(s, &kvdpb.RebuildReplica{Shard: shard, Replica: 3}))
	d := s.shards[shard]
	want(t, stale, do(s, &kvdpb.RebuildReplica{Shard: shard, Config: d.Config - 1, Replica: 3, Cancel: true}))
	want(t, none, do(s, &kvdpb.RebuildReplica{Shard: shard, Config: d.Config, Replica: 3, Cancel: true}))
	want(t, stale, elastically(s, letGo(d, 3)))
	require.Empty(t, Doing(s.View(nil, 1).Map, s.shards[shard]))
	require.True(t, s.View(nil, 1).Corrupt(shard, 3), "its data is as wrong as before")
	_, going := Rebuilds(s.shards[shard], 3, 3)
	require.False(t, going)

	want(t, none, do(s, &kvdpb.RebuildReplica{Shard: shard, Config: s.shards[shard].Config, Replica: 3}))
	want(t, none, elastically(s, letGo(s.shards[shard], 3)))
	want(t, none, elastically(s, drop(shard, 3)))
	joining := replicaOn(s.shards[shard], 3).Replica
	require.Equal(t, uint64(4), joining)
	v := s.View(nil, 1)
	gone := GiveUps(v, func(m uint64) bool { return m == 3 })
	require.Len(t, gone, 1)
	want(t, none, elastically(s, gone[0]))
	replica, going := Rebuilds(s.shards[shard], 3, 3)
	require.False(t, going)
	require.Zero(t, replica)
	want(t, none, elastically(s, drop(shard, joining)))
	require.Nil(t, replicaOn(s.shards[shard], 3), "it does not come back by itself")
	require.Empty(t, s.alarms, "there is nothing left that differs")
	require.NoError(t, s.check())
}

func TestRebuildIsRefused(t *testing.T) {
	s := servingState(t, 3)
	shard := uint64(FirstShard)
	ask := func(replica uint64) *kvdpb.PlacementResult {
		return do(s, &kvdpb.RebuildReplica{Shard: shard, Config: s.shards[shard].Config, Replica: replica})
	}
	want(t, kvdpb.PlacementResult_NOT_FOUND, do(s, &kvdpb.RebuildReplica{Shard: 99, Replica: 1}))
	want(t, kvdpb.PlacementResult_NOT_FOUND, ask(9))
	want(t, stale, do(s, &kvdpb.RebuildReplica{Shard: shard, Config: 9, Replica: 1}))
	want(t, none, do(s, found(2, shard)))
	require.Contains(t, want(t, invalid, ask(3)).Reason, "sound")
	require.Contains(t, want(t, busy, do(s, &kvdpb.BeginSplit{Parent: shard, Generation: s.shards[shard].Generation, Key: keyspace.User([]byte("m"))})).Reason, "corrupt")
	want(t, none, do(s, &kvdpb.ClearAlarm{Alarm: alarm(2, kvdpb.Alarm_CORRUPT, kvdpb.Alarm_REQUESTED), AnyCause: true}))
	// A child waits for its seeds, which only the present replicas can make.
	split := want(t, none, do(s, &kvdpb.BeginSplit{Parent: shard, Generation: s.shards[shard].Generation, Key: keyspace.User([]byte("m"))}))
	require.Contains(t, want(t, busy, ask(3)).Reason, "split")
	want(t, none, do(s, &kvdpb.AbortSplit{Child: split.Descriptor_.Shard}))
	want(t, none, elastically(s, letGo(s.shards[shard], 3)))
	want(t, busy, ask(2))
	want(t, none, elastically(s, drop(shard, 3)))
	want(t, none, elastically(s, letGo(s.shards[shard], 2)))
	want(t, none, elastically(s, drop(shard, 2)))
	require.Contains(t, want(t, invalid, ask(1)).Reason, "only one")

	// What is said of replicas that are gone raises nothing.
	want(t, none, do(s, found(2, shard)))
	require.Empty(t, s.alarms)
}

// TestMergeWithWhatDiffers: nothing that differs is handed on by a merge, and what is said of a shard's replicas ends with the shard.
func TestMergeWithWhatDiffers(t *testing.T) {
	for _, shard := range []uint64{2, 3} {
		s := servingState(t, 3, "m")
		want(t, none, do(s, found(3, shard)))
		require.Contains(t, want(t, busy, doMerge(s, mergeOf(2, 3))).Reason, "corrupt")
	}
	s := servingState(t, 3, "m")
	attempt := want(t, none, doMerge(s, mergeOf(2, 3))).Descriptor_.Merge.Attempt
	want(t, busy, do(s, &kvdpb.RebuildReplica{Shard: 3, Config: s.shards[3].Config, Replica: 1}))
	want(t, none, do(s, found(3, 2, 3)))
	want(t, none, doMerge(s, &kvdpb.MergeSurrendered{Left: 2, Attempt: attempt}))
	want(t, none, doMerge(s, &kvdpb.MergeDone{Left: 2, Attempt: attempt}))
	require.Equal(t, []uint64{2}, s.alarms[0].Shards)
	sound(t, s)
}
