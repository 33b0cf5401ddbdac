package api

import (
	"context"
	"errors"
	"time"

	"github.com/kvd-io/kvd/api/inner"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// concurrencyServer serves etcd's Lock and Election services by etcd's own code,
// which puts, watches and deletes keys through a client as any program could.
//
// Each call has a client of its own, whose requests come from the call's caller:
// a shared one would let a caller's watch run on a stream that another one opened.
// It ends with the call.
type concurrencyServer struct {
	v3lockpb.UnsafeLockServer
	v3electionpb.UnsafeElectionServer
	inner *inner.Services
	// stopping ends with the server.
	stopping context.Context
	// grace is how long a call whose caller went away may clean up, which is to
	// delete the key that waits for the lock.
	grace time.Duration
}

// client returns a client for a call, the context that it waits with, and what must
// be called at its end.
func (s *concurrencyServer) client(ctx context.Context) (*clientv3.Client, context.Context, func()) {
	wait, cancel := context.WithCancelCause(ctx)
	stopping := context.AfterFunc(s.stopping, func() { cancel(rpctypes.ErrGRPCStopped) })
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	leaving := context.AfterFunc(wait, func() {
		timer := time.AfterFunc(s.grace, end)
		context.AfterFunc(life, func() { timer.Stop() })
	})
	conn := s.inner.As(ctx)
	c := clientv3.NewCtxClient(life, clientv3.WithZapLogger(zap.NewNop()))
	c.KV = clientv3.NewKVFromKVClient(pb.NewKVClient(conn), c)
	c.Lease = clientv3.NewLeaseFromLeaseClient(pb.NewLeaseClient(conn), c, s.grace)
	c.Watcher = clientv3.NewWatchFromWatchClient(pb.NewWatchClient(conn), c)
	return c, wait, func() {
		leaving()
		stopping()
		// It only says that its context has ended.
		_ = c.Close()
		end()
		cancel(nil)
	}
}

// call carries out a method of etcd's servers.
func call[Req, Resp any](ctx context.Context, s *concurrencyServer, req Req, do func(context.Context, *clientv3.Client, Req) (Resp, error)) (Resp, error) {
	c, wait, done := s.client(ctx)
	defer done()
	resp, err := do(wait, c, req)
	return resp, outward(wait, err)
}

// outward gives an error of the client the code that it had before.
func outward(wait context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(wait); errors.Is(cause, rpctypes.ErrGRPCStopped) {
		return cause
	}
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return status.Error(e.Code(), e.Error())
	}
	return err
}

// Lock implements v3lockpb.LockServer.
func (s *concurrencyServer) Lock(ctx context.Context, req *v3lockpb.LockRequest) (*v3lockpb.LockResponse, error) {
	return call(ctx, s, req, func(ctx context.Context, c *clientv3.Client, req *v3lockpb.LockRequest) (*v3lockpb.LockResponse, error) {
		return v3lock.NewLockServer(c).Lock(ctx, req)
	})
}

// Unlock implements v3lockpb.LockServer.
func (s *concurrencyServer) Unlock(ctx context.Context, req *v3lockpb.UnlockRequest) (*v3lockpb.UnlockResponse, error) {
	return call(ctx, s, req, func(ctx context.Context, c *clientv3.Client, req *v3lockpb.UnlockRequest) (*v3lockpb.UnlockResponse, error) {
		return v3lock.NewLockServer(c).Unlock(ctx, req)
	})
}

// Campaign implements v3electionpb.ElectionServer.
func (s *concurrencyServer) Campaign(ctx context.Context, req *v3electionpb.CampaignRequest) (*v3electionpb.CampaignResponse, error) {
	return call(ctx, s, req, func(ctx context.Context, c *clientv3.Client, req *v3electionpb.CampaignRequest) (*v3electionpb.CampaignResponse, error) {
		return v3election.NewElectionServer(c).Campaign(ctx, req)
	})
}

// Proclaim implements v3electionpb.ElectionServer.
func (s *concurrencyServer) Proclaim(ctx context.Context, req *v3electionpb.ProclaimRequest) (*v3electionpb.ProclaimResponse, error) {
	return call(ctx, s, req, func(ctx context.Context, c *clientv3.Client, req *v3electionpb.ProclaimRequest) (*v3electionpb.ProclaimResponse, error) {
		return v3election.NewElectionServer(c).Proclaim(ctx, req)
	})
}

// Leader implements v3electionpb.ElectionServer.
func (s *concurrencyServer) Leader(ctx context.Context, req *v3electionpb.LeaderRequest) (*v3electionpb.LeaderResponse, error) {
	return call(ctx, s, req, func(ctx context.Context, c *clientv3.Client, req *v3electionpb.LeaderRequest) (*v3electionpb.LeaderResponse, error) {
		return v3election.NewElectionServer(c).Leader(ctx, req)
	})
}

// Resign implements v3electionpb.ElectionServer.
func (s *concurrencyServer) Resign(ctx context.Context, req *v3electionpb.ResignRequest) (*v3electionpb.ResignResponse, error) {
	return call(ctx, s, req, func(ctx context.Context, c *clientv3.Client, req *v3electionpb.ResignRequest) (*v3electionpb.ResignResponse, error) {
		return v3election.NewElectionServer(c).Resign(ctx, req)
	})
}

// Observe implements v3electionpb.ElectionServer.
func (s *concurrencyServer) Observe(req *v3electionpb.LeaderRequest, stream grpc.ServerStreamingServer[v3electionpb.LeaderResponse]) error {
	c, wait, done := s.client(stream.Context())
	defer done()
	// etcd's code ends the stream without a word if it may not read.
	if _, err := c.Get(wait, string(req.Name)+"/", clientv3.WithFirstCreate()...); err != nil {
		return outward(wait, err)
	}
	err := v3election.NewElectionServer(c).Observe(req, observeStream{ServerStreamingServer: stream, ctx: wait})
	if err == nil {
		// etcd's code has none where it finds that the watch has ended before it finds
		// that the context has, which both end with the server.
		err = wait.Err()
	}
	return outward(wait, err)
}

// observeStream is a stream that also ends with the server.
type observeStream struct {
	grpc.ServerStreamingServer[v3electionpb.LeaderResponse]
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s observeStream) Context() context.Context { return s.ctx }
