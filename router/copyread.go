package router

import (
	"context"
	"errors"
	"time"

	"github.com/kvd-io/kvd/shard/eval"
	"github.com/kvd-io/kvd/shard/ownership"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
)

type stamp = ownership.Stamp

const (
	// copyThreshold is the limit of a range above which reading the gateway's own
	// copy pays.
	copyThreshold = 16
	// copyWait is how long a gateway waits for its replica to catch up before it
	// has the owner read.
	copyWait = 50 * time.Millisecond
)

// readPart reads a range inside one shard, from the gateway's own copy if it is
// worth while and another member owns the shard, else at the owner.
func (r *Router) readPart(ctx context.Context, q *op) (result, error) {
	if q.rng.CountOnly || len(q.rng.RangeEnd) == 0 || (q.rng.Limit > 0 && q.rng.Limit <= copyThreshold) {
		return r.one(ctx, q)
	}
	d := r.routes.lookup(q.span.Start)
	if d == nil {
		return r.one(ctx, q)
	}
	rep, ok := r.cfg.Replicas.Replica(d.Shard)
	if !ok || r.cfg.Fenced(d.Shard) {
		return r.one(ctx, q)
	}
	if owner, _ := rep.Owner(); owner == r.cfg.Member || owner == 0 {
		return r.one(ctx, q)
	}
	res, err := r.readCopy(ctx, q, rep)
	if err == nil || ctx.Err() != nil || !errors.Is(err, ErrStaleView) {
		return res, err
	}
	return r.one(ctx, q)
}

// readCopy has the owner confirm a revision and reads the gateway's own copy at
// it. Where the copy cannot serve, the error is an ErrStaleView.
func (r *Router) readCopy(ctx context.Context, q *op, rep Replica) (result, error) {
	confirm := *q
	confirm.confirm = true
	res, err := r.one(ctx, &confirm)
	if err != nil {
		return result{}, err
	}
	freeBody(res.body)
	at := q.readRev
	switch {
	case at > 0:
	case q.rng.Revision > 0:
		at = q.rng.Revision
	default:
		at = res.revision
	}
	wait, cancel := context.WithTimeout(ctx, copyWait)
	defer cancel()
	view, err := rep.View(wait, res.generation, res.applied, at)
	if err != nil {
		return result{}, errors.Join(ErrStaleView, err)
	}
	defer view.Close()
	if !view.Span().ContainsSpan(q.span) {
		return result{}, ErrStaleView
	}
	m, err := eval.Range(ctx, view, q.rng, at)
	if err != nil {
		return result{}, err
	}
	m.Header = &pb.ResponseHeader{Revision: res.revision}
	return result{msg: m, revision: res.revision}, nil
}

func freeBody(b mem.Buffer) {
	if b != nil {
		b.Free()
	}
}
