package api

import (
	"context"

	"github.com/kvd-io/kvd/proto/kvdpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// clusterServer serves etcd's Cluster service.
type clusterServer struct {
	pb.UnimplementedClusterServer
	headers
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

var errMemberChange = status.Error(codes.Unimplemented, "kvd: changes of members are not supported yet")

// MemberAdd implements pb.ClusterServer.
func (s *clusterServer) MemberAdd(context.Context, *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	return nil, errMemberChange
}

// MemberRemove implements pb.ClusterServer.
func (s *clusterServer) MemberRemove(context.Context, *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	return nil, errMemberChange
}

// MemberUpdate implements pb.ClusterServer.
func (s *clusterServer) MemberUpdate(context.Context, *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	return nil, errMemberChange
}

// MemberPromote implements pb.ClusterServer.
func (s *clusterServer) MemberPromote(context.Context, *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	return nil, errMemberChange
}
