package router

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// collectedPoll is how often a physical compaction looks whether it is done.
const collectedPoll = 20 * time.Millisecond

// Compact raises the compaction revision of the cluster. With Physical it waits
// until this member's replicas have removed what was compacted.
func (r *Router) Compact(ctx context.Context, req *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	m, err := r.compact(ctx, req)
	return m, clientError(err)
}

func (r *Router) compact(ctx context.Context, req *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	if req.Revision <= 0 {
		return r.compactNothing(ctx, req.Revision)
	}
	wait, cancel := context.WithTimeout(ctx, r.cfg.RequestTimeout)
	defer cancel()
	current, err := r.cfg.Placement.Compact(wait, req.Revision)
	if err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = errTimeout
		}
		return nil, fmt.Errorf("compact at revision %d: %w", req.Revision, err)
	}
	if req.Physical {
		if err := r.awaitCollected(ctx, req.Revision); err != nil {
			return nil, err
		}
	}
	return &pb.CompactionResponse{Header: &pb.ResponseHeader{Revision: current}}, nil
}

// compactNothing answers a compaction below all revisions: etcd says yes to zero
// as long as nothing was compacted.
func (r *Router) compactNothing(ctx context.Context, rev int64) (*pb.CompactionResponse, error) {
	g, err := r.current(ctx)
	if err != nil {
		return nil, err
	}
	if rev < 0 || g.Stamp.CompactRevision > 0 {
		return nil, rpctypes.ErrGRPCCompacted
	}
	return &pb.CompactionResponse{Header: &pb.ResponseHeader{Revision: g.First}}, nil
}

func (r *Router) awaitCollected(ctx context.Context, rev int64) error {
	tick := time.NewTicker(collectedPoll)
	defer tick.Stop()
	for r.cfg.Replicas.CollectedRevision() < rev {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-r.ctx.Done():
			return errClosed
		}
	}
	return nil
}
