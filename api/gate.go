package api

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
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

// unary refuses a request that wants a leader.
func (g *gate) unary(ctx context.Context) error {
	if g.cluster.SequencerMember() == 0 && wantsLeader(ctx) {
		return rpctypes.ErrGRPCNoLeader
	}
	return nil
}

func (g *gate) interceptUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := g.unary(ctx); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// requireLeader is a stream whose context ends with the leader.
type requireLeader struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (s *requireLeader) Context() context.Context { return s.ctx }

func (g *gate) interceptStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
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
