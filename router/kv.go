package router

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Response is an answer on its way to the client: a message whose header has
// its revision and nothing else, or the protobuf of a message without a header.
type Response struct {
	// Message is nil where Body is set.
	Message proto.Message
	// Body is the caller's to free.
	Body mem.Buffer
	// Revision is the header's.
	Revision int64
}

func (res result) response() Response {
	return Response{Message: res.msg, Body: res.body, Revision: res.revision}
}

// Do carries out a Range, Put, DeleteRange or Txn. The request must be valid
// (package api/check) and must not change until Do returns; raw is the client's
// own encoding of it, or nil. Errors are those that an etcd client knows.
func (r *Router) Do(ctx context.Context, req proto.Message, raw []byte) (Response, error) {
	var res Response
	var err error
	switch m := req.(type) {
	case *pb.RangeRequest:
		res, err = r.doRange(ctx, m, raw)
	case *pb.PutRequest:
		res, err = r.doPut(ctx, m, raw)
	case *pb.DeleteRangeRequest:
		res, err = r.doDelete(ctx, m, raw)
	case *pb.TxnRequest:
		res, err = r.doTxn(ctx, m, raw)
	default:
		err = errors.New("no KV request")
	}
	return res, clientError(err)
}

// Range reads keys: the state at one revision, whatever shards it spans.
func (r *Router) Range(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	return typed(ctx, r, req, &pb.RangeResponse{})
}

// Put writes one key.
func (r *Router) Put(ctx context.Context, req *pb.PutRequest) (*pb.PutResponse, error) {
	return typed(ctx, r, req, &pb.PutResponse{})
}

// DeleteRange deletes keys, whatever shards they lie in, in one revision.
func (r *Router) DeleteRange(ctx context.Context, req *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	return typed(ctx, r, req, &pb.DeleteRangeResponse{})
}

// Txn carries out a transaction, whatever shards its keys lie in.
func (r *Router) Txn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	return typed(ctx, r, req, &pb.TxnResponse{})
}

func typed[M proto.Message](ctx context.Context, r *Router, req proto.Message, into M) (M, error) {
	var none M
	res, err := r.Do(ctx, req, nil)
	if err != nil {
		return none, err
	}
	if m, ok := res.Message.(M); ok {
		return m, nil
	}
	raw := result{body: res.Body, revision: res.Revision}
	if err := raw.decode(into); err != nil {
		return none, clientError(err)
	}
	return into, nil
}

func (r *Router) doPut(ctx context.Context, req *pb.PutRequest, raw []byte) (Response, error) {
	f := r.takeFlight()
	q := op{kind: opPut, put: req, raw: raw, write: true}
	q.span, f.buf = pointSpan(f.buf, req.Key)
	res, err := r.fly(ctx, f, &q)
	r.putFlight(f)
	return res.response(), err
}

func (r *Router) doDelete(ctx context.Context, req *pb.DeleteRangeRequest, raw []byte) (Response, error) {
	f := r.takeFlight()
	defer r.putFlight(f)
	q := op{kind: opDelete, del: req, raw: raw, write: true}
	if len(req.RangeEnd) == 0 {
		q.span, f.buf = pointSpan(f.buf, req.Key)
	} else {
		q.span = userSpan(req.Key, req.RangeEnd)
	}
	res, err := r.fly(ctx, f, &q)
	if errors.Is(err, errSplit) {
		return r.deleteAcross(ctx, req)
	}
	return res.response(), err
}

func (r *Router) doTxn(ctx context.Context, req *pb.TxnRequest, raw []byte) (Response, error) {
	var h hull
	h.txn(req)
	if !h.any {
		// It reads and writes nothing, and all of its no compares succeed.
		g, err := r.current(ctx)
		if err != nil {
			return Response{}, err
		}
		m := &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: g.First}, Succeeded: true}
		return Response{Message: m, Revision: g.First}, nil
	}
	f := r.takeFlight()
	defer r.putFlight(f)
	q := op{kind: opTxn, txn: req, raw: raw, write: h.writes}
	q.span, f.buf = h.span(f.buf)
	res, err := r.fly(ctx, f, &q)
	if errors.Is(err, errSplit) {
		return r.doAcross(ctx, req)
	}
	return res.response(), err
}
