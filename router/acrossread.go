package router

import (
	"bytes"
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/eval"
)

// wants notes the keys that a transaction will look at, so that they come with
// the latches. What is not noted here is read when it is needed.
func (a *across) wants(req *pb.TxnRequest) {
	value := func(key []byte) {
		k := keyspace.User(key)
		if p := a.partOf(k); p != nil {
			p.reads = append(p.reads, k)
		}
	}
	head := func(key []byte) {
		k := keyspace.User(key)
		if p := a.partOf(k); p != nil {
			p.heads = append(p.heads, k)
		}
	}
	for _, c := range req.Compare {
		if len(c.RangeEnd) == 0 {
			value(c.Key)
		}
	}
	for _, ops := range [][]*pb.RequestOp{req.Success, req.Failure} {
		for _, o := range ops {
			switch m := o.Request.(type) {
			case *pb.RequestOp_RequestRange:
				if q := m.RequestRange; len(q.RangeEnd) == 0 && q.Revision == 0 {
					value(q.Key)
				}
			case *pb.RequestOp_RequestPut:
				if q := m.RequestPut; q.PrevKv || q.IgnoreValue {
					value(q.Key)
				} else {
					head(q.Key)
				}
				a.wantsLease(m.RequestPut)
			case *pb.RequestOp_RequestDeleteRange:
				if q := m.RequestDeleteRange; len(q.RangeEnd) == 0 {
					if q.PrevKv {
						value(q.Key)
					} else {
						head(q.Key)
					}
				}
			case *pb.RequestOp_RequestTxn:
				a.wants(m.RequestTxn)
			}
		}
	}
}

// wantsLease notes the lease that a put may attach its key to.
func (a *across) wantsLease(req *pb.PutRequest) {
	if p := a.partOf(keyspace.User(req.Key)); p != nil && req.Lease != 0 && !slices.Contains(p.leases, req.Lease) {
		p.leases = append(p.leases, req.Lease)
	}
}

// latchedParts reads what the latches of an attempt protect. It is an
// eval.Reader for one goroutine.
type latchedParts struct{ a *across }

// Attachable implements eval.Attacher.
func (l *latchedParts) Attachable(lease int64, key []byte) bool {
	p := l.a.partOf(key)
	return p != nil && slices.Contains(p.attachable, lease)
}

func (l *latchedParts) known(key []byte) (*shardPart, *kvdpb.PartValue, error) {
	p := l.a.partOf(key)
	if p == nil {
		return nil, nil, errNoRoute
	}
	p.used = true
	return p, p.values[string(key)], nil
}

// Head implements eval.Reader.
func (l *latchedParts) Head(key []byte) (mvcc.Head, error) {
	_, v, err := l.known(key)
	if err != nil {
		return mvcc.Head{}, err
	}
	if v == nil {
		kv, err := l.fetch(key, 0)
		if err != nil || kv == nil {
			return mvcc.Head{}, err
		}
		return headOf(kv), nil
	}
	return mvcc.Head{Create: v.GetCreate(), Mod: v.GetMod(), Version: v.GetVersion(), Lease: v.GetLease(), Exists: v.GetVersion() > 0}, nil
}

// Get implements eval.Reader.
func (l *latchedParts) Get(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	p, v, err := l.known(key)
	switch {
	case err != nil:
		return nil, err
	case rev != 0 || v == nil || (p.headOnly[string(key)] && v.GetVersion() > 0):
		return l.fetch(key, rev)
	case v.GetVersion() == 0:
		return nil, nil
	}
	return valueOf(key, v), nil
}

func headOf(kv *mvccpb.KeyValue) mvcc.Head {
	return mvcc.Head{Create: kv.CreateRevision, Mod: kv.ModRevision, Version: kv.Version, Lease: kv.Lease, Exists: true}
}

func valueOf(key []byte, v *kvdpb.PartValue) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: key, Value: v.GetValue(), CreateRevision: v.GetCreate(), ModRevision: v.GetMod(),
		Version: v.GetVersion(), Lease: v.GetLease(),
	}
}

// fetch reads one key from its owner.
func (l *latchedParts) fetch(key []byte, rev int64) (kv *mvccpb.KeyValue, err error) {
	err = l.Range(context.Background(), keyspace.Key(key), mvcc.RangeOptions{Rev: rev, Limit: 1}, func(found *mvccpb.KeyValue) bool {
		kv = found
		return false
	})
	return kv, err
}

// Range implements eval.Reader. Of the options it knows those that package eval
// uses: revision, limit, keys only and order.
func (l *latchedParts) Range(ctx context.Context, span keyspace.Span, o mvcc.RangeOptions, fn func(*mvccpb.KeyValue) bool) error {
	left := o.Limit
	for i := range l.a.parts {
		p := l.a.parts[i]
		if o.Desc {
			p = l.a.parts[len(l.a.parts)-1-i]
		}
		piece := span.Intersect(p.hull)
		if piece.Empty() {
			continue
		}
		p.used = true
		for more := true; more; {
			reply, err := l.scan(ctx, p, piece, o, left)
			if err != nil {
				return err
			}
			for _, v := range reply.GetValues() {
				if !fn(valueOf(v.GetKey(), v)) {
					return nil
				}
			}
			n := len(reply.GetValues())
			if left > 0 {
				if left -= int64(n); left <= 0 {
					return nil
				}
			}
			if more = reply.GetMore() && n > 0; more {
				last := reply.GetValues()[n-1].GetKey()
				if o.Desc {
					piece.End = last
				} else {
					piece.Start = append(bytes.Clone(last), 0)
				}
			}
		}
	}
	return nil
}

func (l *latchedParts) scan(ctx context.Context, p *shardPart, piece keyspace.Span, o mvcc.RangeOptions, limit int64) (*kvdpb.PartReply, error) {
	m := l.a.request(p)
	m.Step = &kvdpb.PartRequest_Scan{Scan: &kvdpb.PartScan{
		Start: piece.Start, End: piece.End, Revision: o.Rev, Limit: limit, KeysOnly: o.KeysOnly, Descending: o.Desc,
	}}
	return l.a.r.part(ctx, piece, m, false)
}

// Count implements eval.Reader.
func (l *latchedParts) Count(ctx context.Context, span keyspace.Span, rev int64) (int64, error) {
	total := int64(0)
	for _, p := range l.a.parts {
		piece := span.Intersect(p.hull)
		if piece.Empty() {
			continue
		}
		p.used = true
		m := l.a.request(p)
		m.Step = &kvdpb.PartRequest_Scan{Scan: &kvdpb.PartScan{Start: piece.Start, End: piece.End, Revision: rev, CountOnly: true}}
		reply, err := l.a.r.part(ctx, piece, m, false)
		if err != nil {
			return 0, err
		}
		total += reply.GetCount()
	}
	return total, nil
}

// isReadOnly tells whether a transaction can have no effects.
func isReadOnly(req *pb.TxnRequest) bool {
	var h hull
	h.txn(req)
	return !h.writes
}

// readAcross evaluates a transaction that only reads, on the state at one
// revision that was current after it arrived. It needs no latches.
func (r *Router) readAcross(ctx context.Context, req *pb.TxnRequest) (Response, error) {
	for try := 0; ; try++ {
		g, err := r.current(ctx)
		if err != nil {
			return Response{}, err
		}
		reader := &pointInTime{r: r, ctx: ctx, p: readPoint{at: g.First, stamp: g.Stamp}}
		res, err := eval.Txn(ctx, reader, req, eval.Bounds{Current: g.First, Compact: g.Stamp.CompactRevision})
		if err == nil {
			res.Finish(g.First)
			return Response{Message: res.Txn, Revision: g.First}, nil
		}
		if try == compactedRetries || !isCompacted(err) || eval.NeedsBounds(req) {
			return Response{}, err
		}
	}
}

// pointInTime reads the state at one revision, whatever shards hold it.
type pointInTime struct {
	r   *Router
	ctx context.Context
	p   readPoint
}

// point is where to read: at an older revision if one is given.
func (t *pointInTime) point(rev int64) readPoint {
	if rev == 0 {
		return t.p
	}
	return readPoint{at: rev, stamp: t.p.stamp}
}

// Head implements eval.Reader.
func (t *pointInTime) Head(key []byte) (mvcc.Head, error) {
	kv, err := t.Get(key, 0)
	if err != nil || kv == nil {
		return mvcc.Head{}, err
	}
	return headOf(kv), nil
}

// Get implements eval.Reader.
func (t *pointInTime) Get(key []byte, rev int64) (kv *mvccpb.KeyValue, err error) {
	err = t.Range(t.ctx, keyspace.Key(key), mvcc.RangeOptions{Rev: rev}, func(found *mvccpb.KeyValue) bool {
		kv = found
		return false
	})
	return kv, err
}

// Range implements eval.Reader.
func (t *pointInTime) Range(ctx context.Context, span keyspace.Span, o mvcc.RangeOptions, fn func(*mvccpb.KeyValue) bool) error {
	req := &pb.RangeRequest{Limit: o.Limit, KeysOnly: o.KeysOnly}
	if o.Desc {
		req.SortOrder = pb.RangeRequest_DESCEND
	}
	answers, err := t.r.gather(ctx, req, span, t.point(o.Rev))
	if err != nil {
		return err
	}
	left := o.Limit
	for i := range answers {
		m := answers[i]
		if o.Desc {
			m = answers[len(answers)-1-i]
		}
		for _, kv := range m.Kvs {
			kv.Key = keyspace.User(kv.Key)
			if !fn(kv) {
				return nil
			}
			if left--; left == 0 {
				return nil
			}
		}
	}
	return nil
}

// Count implements eval.Reader.
func (t *pointInTime) Count(ctx context.Context, span keyspace.Span, rev int64) (int64, error) {
	return t.r.count(ctx, span, t.point(rev))
}
