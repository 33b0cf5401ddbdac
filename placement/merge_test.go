package placement

import (
	"testing"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

const busy = kvdpb.PlacementResult_BUSY

// doMerge applies a command of merges under the standing epoch.
func doMerge(s *State, c any) *kvdpb.PlacementResult {
	cmd := &kvdpb.PlacementCommand{Epoch: s.own.Epoch}
	switch c := c.(type) {
	case *kvdpb.BeginMerge:
		cmd.Command = &kvdpb.PlacementCommand_BeginMerge{BeginMerge: c}
	case *kvdpb.AbortMerge:
		cmd.Command = &kvdpb.PlacementCommand_AbortMerge{AbortMerge: c}
	case *kvdpb.MergeAborted:
		cmd.Command = &kvdpb.PlacementCommand_MergeAborted{MergeAborted: c}
	case *kvdpb.MergeSurrendered:
		cmd.Command = &kvdpb.PlacementCommand_MergeSurrendered{MergeSurrendered: c}
	case *kvdpb.MergeDone:
		cmd.Command = &kvdpb.PlacementCommand_MergeDone{MergeDone: c}
	case *kvdpb.AddReplica:
		cmd.Command = &kvdpb.PlacementCommand_AddReplica{AddReplica: c}
	case *kvdpb.RemoveReplica:
		cmd.Command = &kvdpb.PlacementCommand_RemoveReplica{RemoveReplica: c}
	}
	return s.Apply(cmd)
}

func mergeOf(left, right uint64) *kvdpb.BeginMerge {
	return &kvdpb.BeginMerge{Left: left, LeftGeneration: 1, Right: right, RightGeneration: 1}
}

// sound checks every invariant after each command, also on a state that was
// written down and read back.
func sound(t *testing.T, s *State) {
	t.Helper()
	require.NoError(t, s.check())
	require.NoError(t, s.checkCheap())
	back, err := StateFromProto(proto.CloneOf(s.Proto()))
	require.NoError(t, err)
	require.True(t, proto.Equal(s.Proto(), back.Proto()))
}

func TestMerge(t *testing.T) {
	s := servingState(t, 3, "c", "m") // shards 2, 3, 4
	want(t, notFound, doMerge(s, mergeOf(2, 9)))
	want(t, invalid, doMerge(s, mergeOf(2, 4)))
	want(t, invalid, doMerge(s, mergeOf(3, 2)))
	want(t, stale, doMerge(s, &kvdpb.BeginMerge{Left: 2, LeftGeneration: 1, Right: 3, RightGeneration: 2}))
	d := want(t, none, doMerge(s, mergeOf(2, 3))).Descriptor_
	m := d.Merge
	require.Equal(t, s.version, m.Attempt)
	require.EqualValues(t, 2, m.Generation)
	sound(t, s)
	v := s.version
	require.True(t, proto.Equal(d, want(t, none, doMerge(s, mergeOf(2, 3))).Descriptor_), "asked for again, the same merge")
	require.Equal(t, v, s.version)

	want(t, busy, doMerge(s, mergeOf(3, 4)))
	want(t, busy, do(s, &kvdpb.BeginSplit{Parent: 2, Generation: 1, Key: keyspace.User([]byte("a"))}))
	want(t, busy, do(s, &kvdpb.BeginSplit{Parent: 3, Generation: 1, Key: keyspace.User([]byte("d"))}))
	want(t, busy, doMerge(s, &kvdpb.RemoveReplica{Shard: 3, Replica: 1}))
	require.Equal(t, Merging, Doing(s.View(nil, 1).Map, s.shards[3]))
	require.Equal(t, "merge into shard 2: copying", Merging.Words(s.shards[3], nil))

	want(t, invalid, doMerge(s, &kvdpb.MergeDone{Left: 2, Attempt: m.Attempt}))
	want(t, invalid, doMerge(s, &kvdpb.MergeAborted{Left: 2, Attempt: m.Attempt}))
	want(t, stale, doMerge(s, &kvdpb.MergeSurrendered{Left: 2, Attempt: m.Attempt - 1}))
	want(t, stale, doMerge(s, &kvdpb.MergeSurrendered{Left: 3, Attempt: m.Attempt}))
	want(t, none, doMerge(s, &kvdpb.MergeSurrendered{Left: 2, Attempt: m.Attempt, Spared: true}))
	want(t, none, doMerge(s, &kvdpb.MergeSurrendered{Left: 2, Attempt: m.Attempt}))
	require.True(t, s.shards[2].Merge.Spared)
	want(t, busy, doMerge(s, &kvdpb.AbortMerge{Left: 2, Attempt: m.Attempt}))
	sound(t, s)

	want(t, none, doMerge(s, &kvdpb.MergeDone{Left: 2, Attempt: m.Attempt}))
	sound(t, s)
	require.Nil(t, s.shards[3])
	require.Contains(t, s.dead, uint64(3))
	require.EqualValues(t, 2, s.shards[2].Generation)
	require.Equal(t, keyspace.User([]byte("m")), s.shards[2].End)
	require.Nil(t, s.shards[2].Merge)
	want(t, stale, doMerge(s, &kvdpb.MergeDone{Left: 2, Attempt: m.Attempt}))
	want(t, notFound, doMerge(s, mergeOf(3, 4)))
	child := want(t, none, do(s, &kvdpb.BeginSplit{Parent: 2, Generation: 2, Key: keyspace.User([]byte("b"))})).Descriptor_
	require.EqualValues(t, 5, child.Shard, "dead ids are not used again")
	want(t, busy, doMerge(s, &kvdpb.BeginMerge{Left: 2, LeftGeneration: 2, Right: 4, RightGeneration: 1}))
}

func TestAbortedMerge(t *testing.T) {
	s := servingState(t, 3, "c")
	first := want(t, none, doMerge(s, mergeOf(2, 3))).Descriptor_.Merge
	want(t, none, doMerge(s, &kvdpb.AbortMerge{Left: 2, Attempt: first.Attempt, Reason: "too large"}))
	want(t, none, doMerge(s, &kvdpb.AbortMerge{Left: 2, Attempt: first.Attempt, Reason: "another"}))
	require.Equal(t, "too large", s.shards[3].Merge.Reason)
	want(t, busy, doMerge(s, mergeOf(2, 3)))
	sound(t, s)
	want(t, none, doMerge(s, &kvdpb.MergeAborted{Left: 2, Attempt: first.Attempt}))
	sound(t, s)
	require.Nil(t, s.shards[2].Merge)
	require.Nil(t, s.shards[3].Merge)
	require.Equal(t, "too large", s.shards[2].MergeFailure.Reason)
	want(t, stale, doMerge(s, &kvdpb.MergeSurrendered{Left: 2, Attempt: first.Attempt}))

	// The right shard had surrendered before it heard that it need not.
	second := want(t, none, doMerge(s, mergeOf(2, 3))).Descriptor_.Merge
	require.Greater(t, second.Attempt, first.Attempt)
	require.Nil(t, s.shards[2].MergeFailure)
	want(t, none, doMerge(s, &kvdpb.AbortMerge{Left: 2, Attempt: second.Attempt}))
	want(t, none, doMerge(s, &kvdpb.MergeSurrendered{Left: 2, Attempt: second.Attempt}))
	want(t, none, doMerge(s, &kvdpb.MergeDone{Left: 2, Attempt: second.Attempt}))
	sound(t, s)
	require.Len(t, s.shards, 1)
}

func TestMergeNeedsTheSameMembers(t *testing.T) {
	s := servingState(t, 3, "c")
	d := proto.CloneOf(s.shards[3])
	d.Replicas = d.Replicas[:2]
	s.setShard(d)
	res := want(t, invalid, doMerge(s, mergeOf(2, 3)))
	require.Contains(t, res.Reason, "Move a replica first")
}
