package api

import (
	"context"

	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Transfer implements kvdpb.ShardAdminServer.
func (s *shardServer) Transfer(ctx context.Context, req *kvdpb.ShardTransferRequest) (*kvdpb.ShardTransferResponse, error) {
	if err := s.operations.Transfer(ctx, req.Id, req.MemberId); err != nil {
		return nil, err
	}
	return &kvdpb.ShardTransferResponse{OwnerMemberId: req.MemberId}, nil
}

// Move implements kvdpb.ShardAdminServer.
func (s *shardServer) Move(ctx context.Context, req *kvdpb.ShardMoveRequest) (*kvdpb.ShardMoveResponse, error) {
	if req.FromMemberId == req.ToMemberId {
		return nil, status.Error(codes.InvalidArgument, "kvd: a move from a member to itself")
	}
	replica, err := s.operations.Move(ctx, req.Id, req.FromMemberId, req.ToMemberId, !req.NoWait)
	if err != nil {
		return nil, err
	}
	return &kvdpb.ShardMoveResponse{ReplicaId: replica}, nil
}

// Merge implements kvdpb.ShardAdminServer.
func (s *shardServer) Merge(ctx context.Context, req *kvdpb.ShardMergeRequest) (*kvdpb.ShardMergeResponse, error) {
	absorbed, err := s.operations.Merge(ctx, req.Id, req.RightId, !req.NoWait)
	if err != nil {
		return nil, err
	}
	i, err := s.router.Shard(ctx, req.Id)
	if err != nil {
		return nil, err
	}
	return &kvdpb.ShardMergeResponse{Shard: s.info(i), AbsorbedId: absorbed}, nil
}

// Rebuild implements kvdpb.ShardAdminServer.
func (s *shardServer) Rebuild(ctx context.Context, req *kvdpb.ShardRebuildRequest) (*kvdpb.ShardRebuildResponse, error) {
	member, replica, err := s.operations.Rebuild(ctx, req.Id, req.MemberId, !req.NoWait)
	if err != nil {
		return nil, err
	}
	return &kvdpb.ShardRebuildResponse{MemberId: member, ReplicaId: replica}, nil
}

// Cancel implements kvdpb.ShardAdminServer.
func (s *shardServer) Cancel(ctx context.Context, req *kvdpb.ShardCancelRequest) (*kvdpb.ShardCancelResponse, error) {
	what, err := s.operations.Cancel(ctx, req.Id)
	if err != nil {
		return nil, err
	}
	return &kvdpb.ShardCancelResponse{Cancelled: what}, nil
}

// Rebalance implements kvdpb.ShardAdminServer.
func (s *shardServer) Rebalance(ctx context.Context, _ *kvdpb.RebalanceRequest) (*kvdpb.RebalanceResponse, error) {
	decisions, err := s.operations.Rebalance(ctx)
	if err != nil {
		return nil, err
	}
	return &kvdpb.RebalanceResponse{Decisions: decisions}, nil
}

// Settings implements kvdpb.ShardAdminServer.
func (s *shardServer) Settings(ctx context.Context, _ *kvdpb.SettingsRequest) (*kvdpb.SettingsResponse, error) {
	all, err := s.operations.Settings(ctx)
	if err != nil {
		return nil, err
	}
	resp := &kvdpb.SettingsResponse{}
	for _, one := range all {
		resp.Settings = append(resp.Settings, setting(one))
	}
	return resp, nil
}

// ChangeSetting implements kvdpb.ShardAdminServer.
func (s *shardServer) ChangeSetting(ctx context.Context, req *kvdpb.ChangeSettingRequest) (*kvdpb.ChangeSettingResponse, error) {
	one, err := s.operations.ChangeSetting(ctx, req.Name, req.Value, req.Reset_)
	if err != nil {
		return nil, err
	}
	return &kvdpb.ChangeSettingResponse{Setting: setting(one)}, nil
}

func setting(s placement.Setting) *kvdpb.Setting {
	return &kvdpb.Setting{Name: s.Name, Value: s.Value, Default: s.Default, Set: s.Set, Description: s.Description}
}
