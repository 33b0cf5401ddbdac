package api

import (
	"context"
	"time"

	"github.com/kvd-io/kvd/api/check"
	"github.com/kvd-io/kvd/api/codec"
	"github.com/kvd-io/kvd/auth"
	"github.com/kvd-io/kvd/router"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// kvServer serves etcd's KV service.
type kvServer struct {
	headers
	guard           Guard
	router          Router
	gate            *gate
	permits         *permits
	stats           *callStats
	meters          *meters
	maxTxnOps       int
	maxRequestBytes int
}

// kvDesc is pb.KV_ServiceDesc with handlers that see the bytes of requests and
// answer with bytes where they have them. Its interceptor is not called: what it
// does for other services, serve does itself.
func kvDesc() *grpc.ServiceDesc {
	desc := pb.KV_ServiceDesc
	desc.HandlerType = (*kvService)(nil)
	desc.Methods = []grpc.MethodDesc{
		{MethodName: "Range", Handler: kvMethod(statRange, func() *kvCall[pb.RangeRequest] { return &kvCall[pb.RangeRequest]{} }, (*kvServer).checkRange)},
		{MethodName: "Put", Handler: kvMethod(statPut, func() *kvCall[pb.PutRequest] { return &kvCall[pb.PutRequest]{} }, (*kvServer).checkPut)},
		{MethodName: "DeleteRange", Handler: kvMethod(statDelete, func() *kvCall[pb.DeleteRangeRequest] { return &kvCall[pb.DeleteRangeRequest]{} }, (*kvServer).checkDelete)},
		{MethodName: "Txn", Handler: kvMethod(statTxn, func() *kvCall[pb.TxnRequest] { return &kvCall[pb.TxnRequest]{} }, (*kvServer).checkTxn)},
		{MethodName: "Compact", Handler: compactMethod},
	}
	desc.Streams = []grpc.StreamDesc{{StreamName: "RangeStream", Handler: rangeStreamMethod, ServerStreams: true}}
	return &desc
}

// kvService is what gRPC wants to know of the server's type.
type kvService interface{ serveKV() }

func (s *kvServer) serveKV() {}

// kvCall is a request's message with all that the call needs, in one piece of
// memory.
type kvCall[T any] struct {
	req   codec.Request
	msg   T
	reply codec.Reply
}

type methodHandler = func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error)

func kvMethod[T any, M interface {
	*T
	proto.Message
}](stat callStat, newCall func() *kvCall[T], check func(*kvServer, M, int) error) methodHandler {
	return func(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		s, began := srv.(*kvServer), time.Now()
		stats := s.stats.kv[stat]
		stats.started()
		c := newCall()
		m := M(&c.msg)
		c.req.Message = m
		err := dec(&c.req)
		if err == nil {
			err = check(s, m, len(c.req.Raw))
		}
		if err == nil {
			err = s.serve(ctx, m, c.req.Raw, &c.reply)
		}
		took := time.Since(began)
		stats.handled(err, took)
		s.meters.request(ctx, stat, took, err)
		s.stats.slow.done(ctx, slowCall{method: stats, began: began, took: took, req: m, requestBytes: len(c.req.Raw), responseBytes: c.reply.Size(), err: err})
		if err != nil {
			return nil, err
		}
		return &c.reply, nil
	}
}

func (s *kvServer) serve(ctx context.Context, m proto.Message, raw []byte, reply *codec.Reply) error {
	if err := s.gate.unary(ctx, m); err != nil {
		return err
	}
	if err := s.admit(ctx, m, len(raw)); err != nil {
		return err
	}
	var res router.Response
	var err error
	off := s.permits.off()
	if off {
		res, err = s.router.Do(ctx, m, raw)
	}
	// That auth was turned on may be news, told by whoever refused the request.
	if !off || (err != nil && auth.IsOld(err)) {
		err = s.permits.kv(ctx, m, func(ctx context.Context) error {
			var err error
			res, err = s.router.Do(ctx, m, raw)
			return err
		})
	}
	if err != nil {
		return err
	}
	s.fill(&reply.Header, res.Revision)
	reply.Message, reply.Body = res.Message, res.Body
	return nil
}

func (s *kvServer) checkRange(m *pb.RangeRequest, _ int) error { return check.Range(m) }

func (s *kvServer) checkPut(m *pb.PutRequest, size int) error {
	if err := check.Put(m); err != nil {
		return err
	}
	return s.checkSize(size)
}

func (s *kvServer) checkDelete(m *pb.DeleteRangeRequest, size int) error {
	if err := check.DeleteRange(m); err != nil {
		return err
	}
	return s.checkSize(size)
}

func (s *kvServer) checkTxn(m *pb.TxnRequest, size int) error {
	if err := check.Txn(m, s.maxTxnOps); err != nil {
		return err
	}
	if size > s.maxRequestBytes && !check.ReadOnly(m) {
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}

func (s *kvServer) checkSize(size int) error {
	if size > s.maxRequestBytes {
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}

func compactMethod(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	s, began := srv.(*kvServer), time.Now()
	stats, req := s.stats.kv[statCompact], &pb.CompactionRequest{}
	stats.started()
	resp, err := s.compact(ctx, req, dec)
	took := time.Since(began)
	stats.handled(err, took)
	s.meters.request(ctx, statCompact, took, err)
	s.stats.slow.done(ctx, slowCall{method: stats, began: began, took: took, req: req, err: err})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (s *kvServer) compact(ctx context.Context, req *pb.CompactionRequest, dec func(any) error) (*pb.CompactionResponse, error) {
	if err := dec(req); err != nil {
		return nil, err
	}
	if err := s.gate.unary(ctx, req); err != nil {
		return nil, err
	}
	if err := s.guard.Change(); err != nil {
		return nil, err
	}
	var resp *pb.CompactionResponse
	compact := func(ctx context.Context) (err error) {
		resp, err = s.router.Compact(ctx, req)
		return err
	}
	if err := s.permits.confirmed(ctx, (*auth.Caller).Root, compact); err != nil {
		return nil, err
	}
	s.fill(resp.Header, resp.Header.Revision)
	return resp, nil
}

func rangeStreamMethod(srv any, stream grpc.ServerStream) error {
	s := srv.(*kvServer)
	req := &pb.RangeRequest{}
	if err := stream.RecvMsg(req); err != nil {
		return err
	}
	if err := check.RangeStream(req); err != nil {
		return err
	}
	send := func(m *pb.RangeResponse) error {
		if m.Header != nil {
			s.fill(m.Header, m.Header.Revision)
		}
		return stream.SendMsg(&pb.RangeStreamResponse{RangeResponse: m})
	}
	off := s.permits.off()
	var err error
	if off {
		err = s.router.RangeStream(stream.Context(), req, send)
	}
	// The version of auth is compared before anything is sent, and not again: what
	// is sent is the state of that moment.
	if !off || (err != nil && auth.IsOld(err)) {
		err = s.permits.kv(stream.Context(), req, func(ctx context.Context) error { return s.router.RangeStream(ctx, req, send) })
	}
	return err
}
