package api

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/version"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// maintenanceServer serves etcd's Maintenance service.
type maintenanceServer struct {
	pb.UnimplementedMaintenanceServer
	headers
	router    Router
	storage   func() Storage
	snapshots Snapshots
	guard     Guard
	// timeout bounds changes of the cluster.
	timeout time.Duration
	// index is the largest raft index that was reported. What is reported adds up
	// the shards of this member, and must not fall when one leaves.
	index atomic.Uint64
}

// Status implements pb.MaintenanceServer. It asks nobody, so that it works
// without a quorum.
func (s *maintenanceServer) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	st := s.storage()
	index := s.raise(st.Applied)
	resp := &pb.StatusResponse{
		Header:           s.header(st.Revision),
		Version:          version.Etcd(),
		StorageVersion:   version.Cluster(),
		DbSize:           st.DiskBytes,
		DbSizeInUse:      st.LiveBytes,
		DbSizeQuota:      s.guard.Quota(),
		Leader:           s.cluster.SequencerMember(),
		RaftIndex:        index,
		RaftAppliedIndex: index,
		RaftTerm:         s.cluster.Term(),
		DowngradeInfo:    &pb.DowngradeInfo{},
	}
	for _, m := range s.cluster.Members() {
		if m.Id == s.member {
			resp.IsLearner = m.Learner
		}
	}
	if target := s.cluster.Downgrade(); target != "" {
		resp.DowngradeInfo = &pb.DowngradeInfo{Enabled: true, TargetVersion: target}
	}
	if resp.Leader == 0 {
		resp.Errors = append(resp.Errors, rpctypes.ErrNoLeader.Error())
	}
	for _, a := range AlarmMembers(s.cluster.StandingAlarms()) {
		resp.Errors = append(resp.Errors, a.String())
	}
	return resp, nil
}

func (s *maintenanceServer) raise(index uint64) uint64 {
	for {
		old := s.index.Load()
		if index <= old {
			return old
		}
		if s.index.CompareAndSwap(old, index) {
			return index
		}
	}
}

// Defragment implements pb.MaintenanceServer: there is nothing to defragment.
func (s *maintenanceServer) Defragment(context.Context, *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	return &pb.DefragmentResponse{Header: s.header(0)}, nil
}

// HashKV implements pb.MaintenanceServer.
func (s *maintenanceServer) HashKV(ctx context.Context, req *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	h, err := s.router.HashKV(ctx, req.Revision)
	if err != nil {
		return nil, err
	}
	return &pb.HashKVResponse{
		Header: s.header(h.Current), Hash: h.Sum, CompactRevision: h.CompactRevision, HashRevision: h.Revision,
	}, nil
}

// Hash implements pb.MaintenanceServer. etcd hashes the whole backend file; kvd's
// replicas differ in what they have collected, so it hashes the newest state.
func (s *maintenanceServer) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	h, err := s.router.HashKV(ctx, 0)
	if err != nil {
		return nil, err
	}
	return &pb.HashResponse{Header: s.header(h.Current), Hash: h.Sum}, nil
}
