package api

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// leaderlessTicks is how many election timeouts a stream outlives the last
// leader; new requests are refused at once. As in etcd.
const leaderlessTicks = 3

// gate refuses requests that ask for a leader (clientv3.WithRequireLeader)
// while there is none, and ends the streams of those that did.
type gate struct {
	cluster Cluster
	mu      struct {
		sync.Mutex
		streams map[*requireLeader]struct{}
	}
}

func newGate(cluster Cluster) *gate {
	g := &gate{cluster: cluster}
	g.mu.streams = make(map[*requireLeader]struct{})
	return g
}

func wantsLeader(ctx context.Context) bool {
	v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey)
	return len(v) > 0 && v[0] == rpctypes.MetadataHasLeader
}

// unary refuses a request that a learner does not serve, or that wants a leader.
func (g *gate) unary(ctx context.Context, req any) error {
	if g.cluster.Learner() && !forLearner(req) {
		return rpctypes.ErrGRPCNotSupportedForLearner
	}
	if g.cluster.SequencerMember() == 0 && wantsLeader(ctx) {
		return rpctypes.ErrGRPCNoLeader
	}
	return nil
}

func (g *gate) interceptUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := g.unary(ctx, req); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// forLearner tells whether a learner serves a request, as in etcd.
func forLearner(req any) bool {
	switch r := req.(type) {
	case *pb.RangeRequest:
		return r.Serializable
	case *pb.StatusRequest, *healthpb.HealthCheckRequest:
		return true
	}
	return false
}

// snapshotMethod is the one stream of etcd's that a learner serves.
const snapshotMethod = "/etcdserverpb.Maintenance/Snapshot"

// requireLeader is a stream whose context ends with the leader.
type requireLeader struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (s *requireLeader) Context() context.Context { return s.ctx }

func (g *gate) interceptStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if g.cluster.Learner() && info.FullMethod != snapshotMethod && info.FullMethod != healthpb.Health_Watch_FullMethodName {
		return rpctypes.ErrGRPCNotSupportedForLearner
	}
	if !wantsLeader(ss.Context()) {
		return handler(srv, ss)
	}
	if g.cluster.SequencerMember() == 0 {
		return rpctypes.ErrGRPCNoLeader
	}
	s := &requireLeader{ServerStream: ss}
	s.ctx, s.cancel = context.WithCancelCause(ss.Context())
	g.mu.Lock()
	g.mu.streams[s] = struct{}{}
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.mu.streams, s)
		g.mu.Unlock()
		s.cancel(nil)
	}()
	return handler(srv, s)
}

// run looks for a leader every tick until ctx ends.
func (g *gate) run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	missing := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if g.cluster.SequencerMember() != 0 {
			missing = 0
			continue
		}
		if missing++; missing >= leaderlessTicks {
			g.endStreams()
		}
	}
}

func (g *gate) endStreams() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for s := range g.mu.streams {
		s.cancel(rpctypes.ErrGRPCNoLeader)
	}
}
