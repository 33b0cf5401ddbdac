package eval

import (
	"bytes"
	"cmp"
	"context"
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// Range evaluates a range at revision rev of r, zero meaning the newest; the
// revision that the request itself names is the caller's to check and to pass.
// The header's revision is the caller's to fill in.
func Range(ctx context.Context, r Reader, req *pb.RangeRequest, rev int64) (*pb.RangeResponse, error) {
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{}}
	if len(req.RangeEnd) == 0 && !req.CountOnly {
		kv, err := r.Get(keyspace.User(req.Key), rev)
		if err != nil || kv == nil {
			return resp, err
		}
		resp.Count = 1
		if Matches(req, kv) {
			if req.KeysOnly {
				kv.Value = nil
			}
			resp.Kvs = []*mvccpb.KeyValue{userKV(kv)}
		}
		return resp, nil
	}
	span := keyspace.UserSpan(req.Key, req.RangeEnd)
	if req.CountOnly {
		n, err := r.Count(ctx, span, rev)
		resp.Count = n
		return resp, err
	}
	o := mvcc.RangeOptions{
		Rev:      rev,
		Limit:    scanLimit(req),
		KeysOnly: req.KeysOnly && req.SortTarget != pb.RangeRequest_VALUE,
		Desc:     keyOrder(req) == pb.RangeRequest_DESCEND,
	}
	total := int64(0)
	err := r.Range(ctx, span, o, func(kv *mvccpb.KeyValue) bool {
		total++
		if Matches(req, kv) {
			resp.Kvs = append(resp.Kvs, userKV(kv))
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	if o.Limit > 0 && total >= o.Limit {
		if total, err = r.Count(ctx, span, rev); err != nil {
			return nil, err
		}
	}
	resp.Count = total
	Arrange(req, resp)
	return resp, nil
}

// scanLimit is how many keys a scan needs to read: one more than the limit, so
// that "more" is known, or all of them (zero) where the limit counts only what
// filters and sorting leave.
func scanLimit(req *pb.RangeRequest) int64 {
	if req.Limit <= 0 || req.Limit == math.MaxInt64 || req.SortTarget != pb.RangeRequest_KEY || HasRevisionFilters(req) {
		return 0
	}
	return req.Limit + 1
}

// keyOrder is the order in which to scan: the request's, if it is by key.
func keyOrder(req *pb.RangeRequest) pb.RangeRequest_SortOrder {
	if req.SortTarget != pb.RangeRequest_KEY {
		return pb.RangeRequest_ASCEND
	}
	return req.SortOrder
}

// HasRevisionFilters tells whether the request filters by revisions.
func HasRevisionFilters(req *pb.RangeRequest) bool {
	return req.MinModRevision != 0 || req.MaxModRevision != 0 || req.MinCreateRevision != 0 || req.MaxCreateRevision != 0
}

// Matches tells whether a value passes the request's revision filters.
func Matches(req *pb.RangeRequest, kv *mvccpb.KeyValue) bool {
	return (req.MaxModRevision == 0 || kv.ModRevision <= req.MaxModRevision) &&
		(req.MinModRevision == 0 || kv.ModRevision >= req.MinModRevision) &&
		(req.MaxCreateRevision == 0 || kv.CreateRevision <= req.MaxCreateRevision) &&
		(req.MinCreateRevision == 0 || kv.CreateRevision >= req.MinCreateRevision)
}

// Arrange sorts filtered values as the request asks, cuts them at its limit and
// drops values that were fetched for sorting only. The values must be sorted
// by key, in the order of the request where that is by key.
func Arrange(req *pb.RangeRequest, resp *pb.RangeResponse) {
	if order := valueOrder(req); order != nil {
		slices.SortStableFunc(resp.Kvs, order)
	}
	if req.Limit > 0 && int64(len(resp.Kvs)) > req.Limit {
		clear(resp.Kvs[req.Limit:])
		resp.Kvs = resp.Kvs[:req.Limit]
		resp.More = true
	}
	if req.KeysOnly {
		for _, kv := range resp.Kvs {
			kv.Value = nil
		}
	}
}

// valueOrder returns how to sort by something else than the key; nil if by key.
func valueOrder(req *pb.RangeRequest) func(a, b *mvccpb.KeyValue) int {
	var order func(a, b *mvccpb.KeyValue) int
	switch req.SortTarget {
	case pb.RangeRequest_VERSION:
		order = func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.Version, b.Version) }
	case pb.RangeRequest_CREATE:
		order = func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) }
	case pb.RangeRequest_MOD:
		order = func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) }
	case pb.RangeRequest_VALUE:
		order = func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) }
	default:
		return nil
	}
	if req.SortOrder == pb.RangeRequest_DESCEND {
		return func(a, b *mvccpb.KeyValue) int { return order(b, a) }
	}
	return order
}

// txnRange evaluates a range inside a transaction: at the newest revision it
// sees the transaction's own writes.
func (ev *evaluation) txnRange(req *pb.RangeRequest) (*pb.RangeResponse, error) {
	var r Reader = ev.Reader
	if req.Revision == 0 && len(ev.res.Effects) > 0 {
		r = overlay{ev}
	}
	resp, err := Range(ev.context(), r, req, req.Revision)
	if err != nil {
		return nil, err
	}
	resp.Header = ev.res.header()
	return resp, nil
}

// overlay shows the state before a transaction with its effects laid over it.
type overlay struct{ ev *evaluation }

func (o overlay) Head(key []byte) (mvcc.Head, error) {
	e := o.ev.effectOn(key)
	switch {
	case e == nil:
		return o.ev.Head(key)
	case e.Tombstone:
		return mvcc.Head{}, nil
	}
	return mvcc.Head{Create: e.Create, Version: e.Version, Lease: e.Lease, Exists: true}, nil
}

func (o overlay) Get(key []byte, _ int64) (*mvccpb.KeyValue, error) { return o.ev.previous(key) }

func (o overlay) Range(ctx context.Context, span keyspace.Span, opts mvcc.RangeOptions, fn func(*mvccpb.KeyValue) bool) error {
	order := bytes.Compare
	if opts.Desc {
		order = func(a, b []byte) int { return bytes.Compare(b, a) }
	}
	var own []*mvcc.Effect
	for i := range o.ev.res.Effects {
		if e := &o.ev.res.Effects[i]; span.Contains(e.Key) {
			own = append(own, e)
		}
	}
	slices.SortFunc(own, func(a, b *mvcc.Effect) int { return order(a.Key, b.Key) })
	left := opts.Limit
	// emit passes a value on and tells whether to go on.
	emit := func(kv *mvccpb.KeyValue) bool {
		if !fn(kv) {
			return false
		}
		left--
		return left != 0
	}
	emitOwn := func(e *mvcc.Effect) bool {
		return e.Tombstone || emit(o.ev.ownValue(e, opts.KeysOnly))
	}
	stopped := false
	below := opts
	// The effects may hide as many values below as there are of them.
	if below.Limit > 0 {
		below.Limit += int64(len(own))
	}
	err := o.ev.Reader.Range(ctx, span, below, func(kv *mvccpb.KeyValue) bool {
		for len(own) > 0 && order(own[0].Key, kv.Key) <= 0 {
			e := own[0]
			own = own[1:]
			same := bytes.Equal(e.Key, kv.Key)
			if !emitOwn(e) {
				stopped = true
				return false
			}
			if same {
				return true
			}
		}
		if !emit(kv) {
			stopped = true
			return false
		}
		return true
	})
	if err != nil || stopped {
		return err
	}
	for _, e := range own {
		if !emitOwn(e) {
			break
		}
	}
	return nil
}

func (o overlay) Count(ctx context.Context, span keyspace.Span, _ int64) (int64, error) {
	n, err := o.ev.Reader.Count(ctx, span, 0)
	if err != nil {
		return 0, err
	}
	for i := range o.ev.res.Effects {
		e := &o.ev.res.Effects[i]
		switch {
		case !span.Contains(e.Key):
		case e.Tombstone:
			n--
		case e.Version == 1:
			n++
		}
	}
	return n, nil
}
