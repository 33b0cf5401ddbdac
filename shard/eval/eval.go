package eval

import (
	"context"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// Reader is a consistent view of a shard's keys. Keys are encoded (package
// keyspace); a revision of zero means the newest. *mvcc.Snapshot is one.
type Reader interface {
	Head(key []byte) (mvcc.Head, error)
	Get(key []byte, rev int64) (*mvccpb.KeyValue, error)
	Range(ctx context.Context, span keyspace.Span, o mvcc.RangeOptions, fn func(*mvccpb.KeyValue) bool) error
	Count(ctx context.Context, span keyspace.Span, rev int64) (int64, error)
}

// Attacher is a Reader that knows the leases that keys can be attached to now.
// Without it there are none.
type Attacher interface {
	// Attachable tells whether a put may attach key to the lease.
	Attachable(lease int64, key []byte) bool
}

// Bounds are the revisions that a transaction's ranges may name. They matter
// only where NeedsBounds says so.
type Bounds struct {
	// Current is the newest revision of the store.
	Current int64
	// Compact is the compaction revision: older states are gone.
	Compact int64
}

func (b Bounds) check(rev int64) error {
	switch {
	case rev == 0:
		return nil
	case rev > b.Current:
		return rpctypes.ErrGRPCFutureRev
	case rev < b.Compact:
		return rpctypes.ErrGRPCCompacted
	}
	return nil
}

// Result is an evaluated request: what it does and what it answers.
type Result struct {
	// Effects in the order in which the request makes them; none means that
	// the request is a read.
	Effects []mvcc.Effect

	// Exactly one response is set.
	Range  *pb.RangeResponse
	Put    *pb.PutResponse
	Delete *pb.DeleteRangeResponse
	Txn    *pb.TxnResponse

	// before and after are headers of operations that ran before and after the
	// first effect: they show the revision before the request and its own.
	before, after []*pb.ResponseHeader
	// own are values written by this request and shown in its response.
	own []*mvccpb.KeyValue
}

// pending stands for the revision that the request will get, in values that it
// wrote itself. It is larger than any, as that revision is larger than those of
// all other values that the request sees, so filters and sorting come out right.
const pending = math.MaxInt64

// Finish fills in the revisions: rev is the one allotted to the effects or,
// without effects, the one the state was read at.
func (res *Result) Finish(rev int64) {
	before := rev
	if len(res.Effects) > 0 {
		before = rev - 1
	}
	for _, h := range res.before {
		h.Revision = before
	}
	for _, h := range res.after {
		h.Revision = rev
	}
	for _, kv := range res.own {
		kv.ModRevision = rev
		if kv.CreateRevision == pending {
			kv.CreateRevision = rev
		}
	}
}

// header makes a header whose revision Finish fills in.
func (res *Result) header() *pb.ResponseHeader {
	h := &pb.ResponseHeader{}
	if len(res.Effects) > 0 {
		res.after = append(res.after, h)
	} else {
		res.before = append(res.before, h)
	}
	return h
}

// headerOfWhole makes the header that shows the revision of the whole request.
func (res *Result) headerOfWhole() *pb.ResponseHeader {
	h := &pb.ResponseHeader{}
	res.after = append(res.after, h)
	return h
}

// Put evaluates a put against the newest state of r.
func Put(r Reader, req *pb.PutRequest) (*Result, error) {
	res := &Result{}
	ev := evaluation{Reader: r, res: res}
	if err := ev.checkPut(req); err != nil {
		return nil, err
	}
	resp, err := ev.put(req)
	if err != nil {
		return nil, err
	}
	res.Put = resp
	return res, nil
}

// DeleteRange evaluates a delete against the newest state of r.
func DeleteRange(ctx context.Context, r Reader, req *pb.DeleteRangeRequest) (*Result, error) {
	res := &Result{}
	ev := evaluation{ctx: ctx, Reader: r, res: res}
	resp, err := ev.deleteRange(req)
	if err != nil {
		return nil, err
	}
	res.Delete = resp
	return res, nil
}

// NeedsBounds tells whether a transaction names revisions, so that its
// evaluation depends on the current and the compaction revision.
func NeedsBounds(req *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{req.Success, req.Failure} {
		for _, op := range ops {
			if op.GetRequestRange().GetRevision() != 0 {
				return true
			}
			if t := op.GetRequestTxn(); t != nil && NeedsBounds(t) {
				return true
			}
		}
	}
	return false
}

// Txn evaluates a transaction against the newest state of r.
func Txn(ctx context.Context, r Reader, req *pb.TxnRequest, b Bounds) (*Result, error) {
	res := &Result{}
	ev := evaluation{ctx: ctx, Reader: r, res: res, bounds: b}
	path, err := ev.choose(req)
	if err != nil {
		return nil, err
	}
	if err := path.check(&ev); err != nil {
		return nil, err
	}
	resp := &pb.TxnResponse{Header: res.headerOfWhole()}
	if err := path.run(&ev, resp); err != nil {
		return nil, err
	}
	res.Txn = resp
	return res, nil
}
