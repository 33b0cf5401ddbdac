package router

import (
	"context"
	"math"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard/eval"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// emptyRevision is the revision of a cluster that was never written to. No write
// has it or a lower one, so every replica is exact at it, even where nothing was
// ever resolved: a member that lost the others right after its first start.
const emptyRevision = 1

// serializable answers a range from local replicas: the state at the smallest
// revision that all of them are known to be exact at. It asks nobody, except when it
// is the first for long that touches a shard (resolvedTable). Where some
// shard has no replica here, or where the revision that is known is too old,
// the error is errNotResolved.
func (r *Router) serializable(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	span := userSpan(req.Key, req.RangeEnd)
	if span.Empty() {
		return nil, errNotResolved
	}
	parts, ok := r.routes.split(span)
	if !ok {
		return nil, errNotResolved
	}
	r.warm(ctx, parts)
	views := make(patchwork, 0, len(parts))
	defer func() {
		for _, v := range views {
			v.view.Close()
		}
	}()
	exact, compacted := int64(math.MaxInt64), int64(0)
	for _, p := range parts {
		rep, ok := r.cfg.Replicas.Replica(p.desc.Shard)
		if !ok || r.cfg.Fenced(p.desc.Shard) {
			return nil, errNotResolved
		}
		view, err := rep.View(ctx, 0, 0, 0)
		if err != nil {
			return nil, errNotResolved
		}
		views = append(views, piece{span: p.span, view: view})
		if !view.Span().ContainsSpan(p.span) {
			return nil, errNotResolved
		}
		exact = min(exact, max(r.stale.at(p.desc.Shard, view), emptyRevision))
		compacted = max(compacted, view.CompactRevision())
	}
	at := exact
	if req.Revision > 0 {
		at = req.Revision
	}
	if at > exact || at < compacted || at <= 0 {
		return nil, errNotResolved
	}
	m, err := eval.Range(ctx, views, req, at)
	if err != nil {
		return nil, errNotResolved
	}
	m.Header = &pb.ResponseHeader{Revision: exact}
	return m, nil
}

// piece is the part of a span that one view shows.
type piece struct {
	span keyspace.Span
	view View
}

// patchwork shows adjacent views, in key order, as one.
type patchwork []piece

func (w patchwork) Range(ctx context.Context, span keyspace.Span, o mvcc.RangeOptions, fn func(*mvccpb.KeyValue) bool) error {
	// left is how many keys the limit still allows; below zero it allows all.
	left := o.Limit
	if left == 0 {
		left = -1
	}
	for i := range w {
		p := w[i]
		if o.Desc {
			p = w[len(w)-1-i]
		}
		in := p.span.Intersect(span)
		if in.Empty() {
			continue
		}
		o.Limit = max(left, 0)
		stopped := false
		err := p.view.Range(ctx, in, o, func(kv *mvccpb.KeyValue) bool {
			if left > 0 {
				left--
			}
			stopped = !fn(kv) || left == 0
			return !stopped
		})
		if err != nil || stopped {
			return err
		}
	}
	return nil
}

func (w patchwork) Count(ctx context.Context, span keyspace.Span, rev int64) (n int64, err error) {
	for _, p := range w {
		in := p.span.Intersect(span)
		if in.Empty() {
			continue
		}
		m, err := p.view.Count(ctx, in, rev)
		if err != nil {
			return 0, err
		}
		n += m
	}
	return n, nil
}

func (w patchwork) Get(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	for _, p := range w {
		if p.span.Contains(key) {
			return p.view.Get(key, rev)
		}
	}
	return nil, nil
}

func (w patchwork) Head(key []byte) (mvcc.Head, error) {
	for _, p := range w {
		if p.span.Contains(key) {
			return p.view.Head(key)
		}
	}
	return mvcc.Head{}, nil
}
