package api

import (
	"context"
	"errors"

	"github.com/kvd-io/kvd/proto/kvdpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"
)

// clusterServer serves etcd's Cluster service.
type clusterServer struct {
	pb.UnimplementedClusterServer
	headers
	membership Membership
}

// MemberList implements pb.ClusterServer.
func (s *clusterServer) MemberList(ctx context.Context, req *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if req.Linearizable {
		if err := s.cluster.Barrier(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if _, ok := status.FromError(err); ok {
				return nil, err
			}
			return nil, rpctypes.ErrGRPCTimeout
		}
	}
	resp := &pb.MemberListResponse{Header: s.header(0)}
	for _, m := range s.cluster.Members() {
		resp.Members = append(resp.Members, member(m))
	}
	return resp, nil
}

func member(m *kvdpb.Member) *pb.Member {
	return &pb.Member{ID: m.Id, Name: m.Name, PeerURLs: m.PeerUrls, ClientURLs: m.ClientUrls, IsLearner: m.Learner}
}

// MemberAdd implements pb.ClusterServer.
func (s *clusterServer) MemberAdd(ctx context.Context, req *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	added, all, err := s.membership.AddMember(ctx, req.PeerURLs, req.IsLearner)
	if err != nil {
		return nil, memberError(ctx, err)
	}
	return &pb.MemberAddResponse{
		Header: s.header(0), Members: members(all),
		Member: &pb.Member{ID: added.Id, PeerURLs: added.PeerUrls, IsLearner: added.Learner},
	}, nil
}

// MemberRemove implements pb.ClusterServer.
func (s *clusterServer) MemberRemove(ctx context.Context, req *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	all, err := s.membership.RemoveMember(ctx, req.ID)
	if err != nil {
		return nil, memberError(ctx, err)
	}
	return &pb.MemberRemoveResponse{Header: s.header(0), Members: members(all)}, nil
}

// MemberUpdate implements pb.ClusterServer.
func (s *clusterServer) MemberUpdate(ctx context.Context, req *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	all, err := s.membership.UpdateMember(ctx, req.ID, req.PeerURLs)
	if err != nil {
		return nil, memberError(ctx, err)
	}
	return &pb.MemberUpdateResponse{Header: s.header(0), Members: members(all)}, nil
}

// MemberPromote implements pb.ClusterServer.
func (s *clusterServer) MemberPromote(ctx context.Context, req *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	all, err := s.membership.PromoteMember(ctx, req.ID)
	if err != nil {
		return nil, memberError(ctx, err)
	}
	return &pb.MemberPromoteResponse{Header: s.header(0), Members: members(all)}, nil
}

func members(all []*kvdpb.Member) []*pb.Member {
	out := make([]*pb.Member, len(all))
	for i, m := range all {
		out[i] = member(m)
	}
	return out
}

// memberError answers a client whose change was not seen through.
func memberError(ctx context.Context, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return rpctypes.ErrGRPCTimeout
}
