package api

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/kvd-io/kvd/lease"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// leaseServer serves etcd's Lease service.
type leaseServer struct {
	pb.UnimplementedLeaseServer
	headers
	leases Leases
	guard  Guard
	// stopping ends with the server.
	stopping context.Context
}

// leaseBytes is about what a lease takes on disk, as etcd counts it.
const leaseBytes = 64

// LeaseGrant implements pb.LeaseServer.
func (s *leaseServer) LeaseGrant(ctx context.Context, req *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if err := s.guard.Change(); err != nil {
		return nil, err
	}
	if err := s.guard.Grow(ctx, leaseBytes); err != nil {
		return nil, err
	}
	l, err := s.leases.Grant(ctx, req.ID, req.TTL)
	if err != nil {
		return nil, err
	}
	return &pb.LeaseGrantResponse{Header: s.header(l.Revision), ID: l.ID, TTL: l.TTL}, nil
}

// LeaseRevoke implements pb.LeaseServer.
func (s *leaseServer) LeaseRevoke(ctx context.Context, req *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if err := s.guard.Change(); err != nil {
		return nil, err
	}
	revision, err := s.leases.Revoke(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	return &pb.LeaseRevokeResponse{Header: s.header(revision)}, nil
}

// LeaseTimeToLive implements pb.LeaseServer. As in etcd, a lease that does not
// exist has -1 seconds to live.
func (s *leaseServer) LeaseTimeToLive(ctx context.Context, req *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	l, err := s.leases.Describe(ctx, req.ID)
	var keys [][]byte
	if err == nil && req.Keys {
		keys, err = s.leases.Keys(ctx, req.ID)
	}
	switch {
	case errors.Is(err, rpctypes.ErrGRPCLeaseNotFound):
		return &pb.LeaseTimeToLiveResponse{Header: s.header(l.Revision), ID: req.ID, TTL: -1}, nil
	case err != nil:
		return nil, err
	}
	return &pb.LeaseTimeToLiveResponse{
		Header: s.header(l.Revision), ID: req.ID, TTL: int64(l.Remaining.Seconds()), GrantedTTL: l.TTL, Keys: keys,
	}, nil
}

// LeaseLeases implements pb.LeaseServer.
func (s *leaseServer) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	all, revision, err := s.leases.List(ctx)
	if err != nil {
		return nil, err
	}
	resp := &pb.LeaseLeasesResponse{Header: s.header(revision), Leases: make([]*pb.LeaseStatus, len(all))}
	for i, l := range all {
		resp.Leases[i] = &pb.LeaseStatus{ID: l.ID}
	}
	return resp, nil
}

// keepAliveWidth is how many keep-alives of one stream are under way at a time:
// one whose owner cannot be reached does not hold up the others.
const keepAliveWidth = 64

// LeaseKeepAlive implements pb.LeaseServer. Answers come in any order, each names
// its lease.
func (s *leaseServer) LeaseKeepAlive(stream grpc.BidiStreamingServer[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(rpctypes.ErrGRPCStopped) })()
	var sending sync.Mutex
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, keepAliveWidth)
	requests := make(chan *pb.LeaseKeepAliveRequest)
	go func() {
		defer close(requests)
		for {
			req, err := stream.Recv()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					cancel(err)
				}
				return
			}
			select {
			case requests <- req:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case req, ok := <-requests:
			if !ok {
				wg.Wait()
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return nil
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			wg.Go(func() {
				defer func() { <-slots }()
				resp, err := s.keepAlive(ctx, req.ID)
				if err == nil {
					sending.Lock()
					err = stream.Send(resp)
					sending.Unlock()
				}
				if err != nil {
					cancel(err)
				}
			})
		}
	}
}

// keepAlive answers with no time to live where there is no such lease.
func (s *leaseServer) keepAlive(ctx context.Context, id int64) (*pb.LeaseKeepAliveResponse, error) {
	l, err := s.leases.KeepAlive(ctx, id)
	if errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		l, err = lease.Info{ID: id, Revision: l.Revision}, nil
	}
	if err != nil {
		return nil, err
	}
	return &pb.LeaseKeepAliveResponse{Header: s.header(l.Revision), ID: id, TTL: l.TTL}, nil
}
