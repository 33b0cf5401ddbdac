package api

import (
	"context"
	"strconv"
	"strings"

	"github.com/kvd-io/kvd/version"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// MoveLeader implements pb.MaintenanceServer: the leader of the cluster is the
// member that holds the sequencer.
func (s *maintenanceServer) MoveLeader(ctx context.Context, req *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if s.cluster.SequencerMember() != s.member {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	wait, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if req.TargetID != s.member {
		if err := s.cluster.MoveSequencer(wait, req.TargetID); err != nil {
			return nil, clusterError(ctx, err)
		}
	}
	return &pb.MoveLeaderResponse{Header: s.header(s.storage().Revision)}, nil
}

// Downgrade implements pb.MaintenanceServer. What kvd keeps on disk has a version
// of its own, so that nothing has to change for an older etcd's API: it checks
// and remembers what is asked for as etcd does, and shows it in Status.
func (s *maintenanceServer) Downgrade(ctx context.Context, req *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	wait, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := s.cluster.Barrier(wait); err != nil {
		return nil, clusterError(ctx, err)
	}
	standing := s.cluster.Downgrade()
	switch req.Action {
	case pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE:
		target, err := downgradeTarget(req.Version)
		switch {
		case err != nil:
			return nil, err
		case standing != "" && (req.Action == pb.DowngradeRequest_VALIDATE || standing != target):
			return nil, rpctypes.ErrGRPCDowngradeInProcess
		case req.Action == pb.DowngradeRequest_VALIDATE:
			break
		default:
			if err := s.cluster.SetDowngrade(wait, target); err != nil {
				return nil, clusterError(ctx, err)
			}
		}
	case pb.DowngradeRequest_CANCEL:
		if standing == "" {
			return nil, rpctypes.ErrGRPCNoInflightDowngrade
		}
		if err := s.cluster.SetDowngrade(wait, ""); err != nil {
			return nil, clusterError(ctx, err)
		}
	default:
		return nil, status.Errorf(codes.InvalidArgument, "kvd: unknown downgrade action %d", req.Action)
	}
	return &pb.DowngradeResponse{Header: s.header(s.storage().Revision), Version: majorMinor(version.Cluster())}, nil
}

// downgradeTarget checks a version to go back to, "3.6" or "3.6.0": only the one
// right before this is allowed, as in etcd. It answers the long form.
func downgradeTarget(v string) (string, error) {
	major, minor, ok := parseVersion(v)
	if !ok {
		return "", rpctypes.ErrGRPCWrongDowngradeVersionFormat
	}
	ownMajor, ownMinor, ok := parseVersion(version.Cluster())
	if !ok {
		return "", rpctypes.ErrGRPCClusterVersionUnavailable
	}
	if major != ownMajor || minor != ownMinor-1 {
		return "", rpctypes.ErrGRPCInvalidDowngradeTargetVersion
	}
	return strconv.FormatInt(major, 10) + "." + strconv.FormatInt(minor, 10) + ".0", nil
}

// parseVersion reads "major.minor" with or without a patch version.
func parseVersion(v string) (major, minor int64, ok bool) {
	parts := strings.Split(v, ".")
	if len(parts) != 2 && len(parts) != 3 {
		return 0, 0, false
	}
	numbers := make([]int64, len(parts))
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return 0, 0, false
		}
		numbers[i] = int64(n)
	}
	return numbers[0], numbers[1], true
}

func majorMinor(v string) string {
	if cut := strings.LastIndexByte(v, '.'); cut > 0 {
		return v[:cut]
	}
	return v
}
