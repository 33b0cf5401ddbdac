package router

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/eval"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"
)

const (
	// maxParallel bounds the shards that one range asks at a time.
	maxParallel = 16
	// compactedRetries is how often a read of the newest state starts anew because
	// its revision was compacted under way.
	compactedRetries = 3
)

func userSpan(key, rangeEnd []byte) keyspace.Span { return keyspace.UserSpan(key, rangeEnd) }

func (r *Router) doRange(ctx context.Context, req *pb.RangeRequest, raw []byte) (Response, error) {
	if req.Serializable {
		m, err := r.serializable(ctx, req)
		if err == nil {
			return Response{Message: m, Revision: m.Header.Revision}, nil
		}
		if !errors.Is(err, errNotResolved) {
			return Response{}, err
		}
	}
	if len(req.RangeEnd) == 0 {
		f := r.takeFlight()
		q := op{kind: opRange, rng: req, raw: raw}
		q.span, f.buf = pointSpan(f.buf, req.Key)
		res, err := r.fly(ctx, f, &q)
		r.putFlight(f)
		if errors.Is(err, errTooLarge) {
			return r.wide(ctx, req)
		}
		return res.response(), err
	}
	q := op{kind: opRange, rng: req, raw: raw, span: userSpan(req.Key, req.RangeEnd)}
	if q.span.Empty() {
		return r.emptyRange(ctx, req)
	}
	if r.splits(q.span) {
		return r.wide(ctx, req)
	}
	res, err := r.readPart(ctx, &q)
	if errors.Is(err, errSplit) || errors.Is(err, errTooLarge) {
		return r.wide(ctx, req)
	}
	return res.response(), err
}

// splits tells whether a span lies in several shards, as far as is known.
func (r *Router) splits(span keyspace.Span) bool {
	d := r.routes.lookup(span.Start)
	return d != nil && bytes.Compare(span.End, d.End) > 0
}

func (r *Router) wide(ctx context.Context, req *pb.RangeRequest) (Response, error) {
	m, err := r.rangeAcross(ctx, req)
	if err != nil {
		return Response{}, err
	}
	return Response{Message: m, Revision: m.Header.Revision}, nil
}

// emptyRange answers a range that can hold no key.
func (r *Router) emptyRange(ctx context.Context, req *pb.RangeRequest) (Response, error) {
	_, g, err := r.readAt(ctx, req.Revision)
	if err != nil {
		return Response{}, err
	}
	m := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: g.First}}
	return Response{Message: m, Revision: g.First}, nil
}

// current asks the sequencer, within the time of a request, and compares the
// version of auth.
func (r *Router) current(ctx context.Context) (shard.Grant, error) {
	if g, ok := r.cfg.Placement.TryCurrent(); ok {
		return g, r.checked(ctx, g)
	}
	f := r.takeFlight()
	defer r.putFlight(f)
	for attempt := 0; ; attempt++ {
		wait, cancel := context.WithDeadline(ctx, f.began.Add(r.cfg.RequestTimeout))
		g, err := r.cfg.Placement.Current(wait)
		cancel()
		if err == nil {
			return g, r.checked(ctx, g)
		}
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			return g, errTimeout
		}
		if judge(err) == final {
			return g, err
		}
		if err := r.pause(ctx, f, nil, attempt, err); err != nil {
			return g, err
		}
	}
}

// readAt obtains the current revision and the one to read at: the client's, or
// the current one where the client names none.
func (r *Router) readAt(ctx context.Context, revision int64) (at int64, g shard.Grant, err error) {
	g, err = r.current(ctx)
	switch {
	case err != nil:
		return 0, g, err
	case revision <= 0:
		return g.First, g, nil
	case revision > g.First:
		return 0, g, rpctypes.ErrGRPCFutureRev
	case revision < g.Stamp.CompactRevision:
		return 0, g, rpctypes.ErrGRPCCompacted
	}
	return revision, g, nil
}

// rangeAcross answers a range over several shards: the state at one revision
// that was current after the request arrived.
//
// A limit in key order is met shard by shard, so that nothing is read that the
// limit drops, while the other shards only count. Else every shard answers at
// once with what it has, limited where that is allowed, and the answers are
// sorted together.
func (r *Router) rangeAcross(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	for try := 0; ; try++ {
		at, g, err := r.readAt(ctx, req.Revision)
		if err != nil {
			return nil, err
		}
		m, err := r.rangeAt(ctx, req, readPoint{at: at, stamp: g.Stamp})
		if err == nil {
			m.Header = &pb.ResponseHeader{Revision: g.First}
			return m, nil
		}
		if req.Revision > 0 || try == compactedRetries || !isCompacted(err) {
			return nil, err
		}
	}
}

func isCompacted(err error) bool {
	return errors.Is(clientError(err), rpctypes.ErrGRPCCompacted)
}

// readPoint is the revision that all parts of a read share.
type readPoint struct {
	at    int64
	stamp stamp
}

func (r *Router) rangeAt(ctx context.Context, req *pb.RangeRequest, p readPoint) (*pb.RangeResponse, error) {
	span := userSpan(req.Key, req.RangeEnd)
	desc := req.SortTarget == pb.RangeRequest_KEY && req.SortOrder == pb.RangeRequest_DESCEND
	if req.Limit > 0 && req.Limit < math.MaxInt64 && !req.CountOnly && req.SortTarget == pb.RangeRequest_KEY && !eval.HasRevisionFilters(req) {
		return r.limited(ctx, req, span, p, desc)
	}
	each := req
	if req.KeysOnly && req.SortTarget == pb.RangeRequest_VALUE {
		each = shallow(req)
		each.KeysOnly = false
	}
	answers, err := r.gather(ctx, each, span, p)
	if err != nil {
		return nil, err
	}
	if desc {
		slices.Reverse(answers)
	}
	m := &pb.RangeResponse{}
	for _, a := range answers {
		m.Kvs = append(m.Kvs, a.Kvs...)
		m.Count += a.Count
		m.More = m.More || a.More
	}
	eval.Arrange(req, m)
	return m, nil
}

// shallow copies the fields of a request.
func shallow(req *pb.RangeRequest) *pb.RangeRequest {
	return &pb.RangeRequest{
		Key: req.Key, RangeEnd: req.RangeEnd, Limit: req.Limit, Revision: req.Revision, SortOrder: req.SortOrder,
		SortTarget: req.SortTarget, Serializable: req.Serializable, KeysOnly: req.KeysOnly, CountOnly: req.CountOnly,
		MinModRevision: req.MinModRevision, MaxModRevision: req.MaxModRevision,
		MinCreateRevision: req.MinCreateRevision, MaxCreateRevision: req.MaxCreateRevision,
	}
}

// limited answers a limited range in key order.
func (r *Router) limited(ctx context.Context, req *pb.RangeRequest, span keyspace.Span, p readPoint, desc bool) (*pb.RangeResponse, error) {
	parts, ok := r.routes.split(span)
	if !ok {
		return nil, errNoRoute
	}
	if desc {
		slices.Reverse(parts)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rest := make(chan counted, 1)
	go func() { rest <- r.countParts(ctx, parts[1:], p) }()
	m := &pb.RangeResponse{}
	each := shallow(req)
	var err error
	for i := 0; i < len(parts) && int64(len(m.Kvs)) < req.Limit; i++ {
		each.Limit = req.Limit - int64(len(m.Kvs))
		var answers []*pb.RangeResponse
		if answers, err = r.gather(ctx, each, parts[i].span, p); err != nil {
			break
		}
		if desc {
			slices.Reverse(answers)
		}
		for _, a := range answers {
			m.Kvs = append(m.Kvs, a.Kvs...)
			if i == 0 {
				m.Count += a.Count
			}
		}
		m.Kvs = m.Kvs[:min(int64(len(m.Kvs)), req.Limit)]
	}
	if err != nil {
		cancel()
	}
	others := <-rest
	if err == nil {
		err = others.err
	}
	if err != nil {
		return nil, err
	}
	m.Count += others.n
	m.More = m.Count > int64(len(m.Kvs))
	return m, nil
}

type counted struct {
	n   int64
	err error
}

// countParts counts the keys of all parts.
func (r *Router) countParts(ctx context.Context, parts []part, p readPoint) (c counted) {
	counts := make([]int64, len(parts))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxParallel)
	for i := range parts {
		group.Go(func() (err error) {
			counts[i], err = r.count(ctx, parts[i].span, p)
			return err
		})
	}
	c.err = group.Wait()
	for _, n := range counts {
		c.n += n
	}
	return c
}

// count counts the keys of a span.
func (r *Router) count(ctx context.Context, span keyspace.Span, p readPoint) (n int64, err error) {
	answers, err := r.gather(ctx, &pb.RangeRequest{CountOnly: true}, span, p)
	for _, a := range answers {
		n += a.Count
	}
	return n, err
}

// gather reads a span at a revision, in all of its shards at once, and returns
// their answers in key order.
func (r *Router) gather(ctx context.Context, req *pb.RangeRequest, span keyspace.Span, p readPoint) ([]*pb.RangeResponse, error) {
	parts, ok := r.routes.split(span)
	if !ok {
		return nil, errNoRoute
	}
	if len(parts) == 1 {
		return r.gatherPart(ctx, req, span, p)
	}
	answers := make([][]*pb.RangeResponse, len(parts))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxParallel)
	for i := range parts {
		group.Go(func() (err error) {
			answers[i], err = r.gatherPart(ctx, req, parts[i].span, p)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(answers...), nil
}

// gatherPart reads what was one shard when its caller looked. If it was split
// meanwhile, its pieces are gathered.
func (r *Router) gatherPart(ctx context.Context, req *pb.RangeRequest, span keyspace.Span, p readPoint) ([]*pb.RangeResponse, error) {
	sub := subRange(req, span)
	q := op{kind: opRange, rng: sub, span: span, readRev: p.at, stamp: p.stamp}
	res, err := r.readPart(ctx, &q)
	switch {
	case errors.Is(err, errSplit):
		return r.gather(ctx, req, span, p)
	case errors.Is(err, errTooLarge):
		m, err := r.readBulk(ctx, sub, span, p)
		return []*pb.RangeResponse{m}, err
	case err != nil:
		return nil, err
	}
	m, err := res.rangeResponse()
	return []*pb.RangeResponse{m}, err
}
