package api

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/router"
)

func TestOperations(t *testing.T) {
	f := newFixture(t, nil)
	ctx := context.Background()
	admin := kvdpb.NewShardAdminClient(f.client.ActiveConnection())
	owner, err := admin.Transfer(ctx, &kvdpb.ShardTransferRequest{Id: 4, MemberId: 6})
	require.NoError(t, err)
	require.EqualValues(t, 6, owner.OwnerMemberId)
	require.Equal(t, "transfer 4 to 6", f.operations.asked)
	moved, err := admin.Move(ctx, &kvdpb.ShardMoveRequest{Id: 4, FromMemberId: 5, ToMemberId: 7, NoWait: true})
	require.NoError(t, err)
	require.EqualValues(t, 9, moved.ReplicaId)
	require.Equal(t, "move 4 from 5 to 7 false", f.operations.asked)
	_, err = admin.Move(ctx, &kvdpb.ShardMoveRequest{Id: 4, FromMemberId: 5, ToMemberId: 5})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	rebuilt, err := admin.Rebuild(ctx, &kvdpb.ShardRebuildRequest{Id: 4, NoWait: true})
	require.NoError(t, err)
	require.EqualValues(t, 6, rebuilt.MemberId)
	require.EqualValues(t, 10, rebuilt.ReplicaId)
	require.Equal(t, "rebuild 4 on 0 false", f.operations.asked)
	cancelled, err := admin.Cancel(ctx, &kvdpb.ShardCancelRequest{Id: 4})
	require.NoError(t, err)
	require.Equal(t, "a move", cancelled.Cancelled)
	decided, err := admin.Rebalance(ctx, &kvdpb.RebalanceRequest{})
	require.NoError(t, err)
	require.Equal(t, []string{"split shard 4"}, decided.Decisions)
	all, err := admin.Settings(ctx, &kvdpb.SettingsRequest{})
	require.NoError(t, err)
	require.Equal(t, "replicas", all.Settings[0].Name)
	require.Equal(t, all.Settings[0].Default, all.Settings[0].Value)
	changed, err := admin.ChangeSetting(ctx, &kvdpb.ChangeSettingRequest{Name: "replicas", Value: "5"})
	require.NoError(t, err)
	require.Equal(t, "5", changed.Setting.Value)
	require.True(t, changed.Setting.Set)

	f.operations.err = status.Error(codes.FailedPrecondition, "kvd: shard 4 is busy")
	for _, err := range []error{
		second(admin.Transfer(ctx, &kvdpb.ShardTransferRequest{Id: 4})),
		second(admin.Move(ctx, &kvdpb.ShardMoveRequest{Id: 4, ToMemberId: 1})),
		second(admin.Rebuild(ctx, &kvdpb.ShardRebuildRequest{Id: 4, MemberId: 6})),
		second(admin.Cancel(ctx, &kvdpb.ShardCancelRequest{Id: 4})),
		second(admin.Rebalance(ctx, &kvdpb.RebalanceRequest{})),
		second(admin.Settings(ctx, &kvdpb.SettingsRequest{})),
	} {
		require.Equal(t, f.operations.err.Error(), err.Error())
	}
}

func second[T any](_ T, err error) error { return err }

// TestOperationIsShown: how far a move is.
func TestOperationIsShown(t *testing.T) {
	s := &shardServer{cluster: &fakeCluster{}}
	d := &kvdpb.Descriptor{Shard: 4, Replicas: []*kvdpb.Replica{{Member: 5, Replica: 1}, {Member: 6, Replica: 2, NonVoting: true, Joining: true, Replaces: 1}}}
	i := s.info(router.ShardInfo{Descriptor: d, Operation: "move", Status: &kvdpb.ReplicaStatus{AppliedIndex: 340}, Joining: &kvdpb.ReplicaStatus{AppliedIndex: 12}})
	require.Equal(t, "move five to six: copying (12 of 340)", i.Operation)
	require.True(t, i.Replicas[1].Joining)
	require.EqualValues(t, 5, i.Replicas[1].ReplacesMemberId)
	child := &kvdpb.Descriptor{Shard: 9, Parent: 4, Replicas: []*kvdpb.Replica{{Member: 5, Replica: 1}, {Member: 6, Replica: 2}}, Seeded: []uint64{6}}
	split := &kvdpb.Descriptor{Shard: 4, Replicas: []*kvdpb.Replica{{Member: 5, Replica: 1}, {Member: 6, Replica: 2}}}
	require.Equal(t, "split: copying to shard 9 (1 of 2)", s.info(router.ShardInfo{Descriptor: split, Operation: "split", Child: child}).Operation)
	d.Replicas[1] = &kvdpb.Replica{Member: 6, Replica: 2}
	d.Replicas[0].Rebuild = true
	require.Equal(t, "rebuild five: checking the others", s.info(router.ShardInfo{Descriptor: d, Operation: "rebuild"}).Operation)
	d.Replicas[0].Rebuild = false
	d.Replicas[0].Leaving = true
	require.Equal(t, "remove five: leaving", s.info(router.ShardInfo{Descriptor: d, Operation: "remove"}).Operation)
}
