package api

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/kvd-io/kvd/api/codec"
	"github.com/kvd-io/kvd/auth"
	"github.com/kvd-io/kvd/watch"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// watchServer serves etcd's Watch service on the hub.
type watchServer struct {
	pb.UnsafeWatchServer
	headers
	watcher Watcher
	meters  *watchMeters
	permits *permits
	// streams is nil where permits checks nothing.
	streams *guardedStreams
}

// Watch implements pb.WatchServer. This goroutine sends, another receives, since
// a stream's Recv does not return before the call has ended.
func (s *watchServer) Watch(stream grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	ws := s.watcher.NewStream()
	defer ws.Close()
	guarded := &guardedStream{stream: ws, ctx: ctx, end: cancel}
	if s.streams != nil {
		s.streams.add(guarded)
		defer s.streams.remove(guarded)
	}
	go func() {
		// A client that has nothing more to ask for still wants its events.
		if err := s.receive(ctx, stream, guarded); !errors.Is(err, io.EOF) {
			cancel(err)
		}
	}()
	out := sender{stream: stream, headers: s.headers, meters: s.meters}
	err := ws.Run(ctx, out.send)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	switch {
	case err == nil:
		// The hub was closed.
		return rpctypes.ErrGRPCStopped
	case errors.Is(err, context.Canceled), status.Code(err) == codes.Canceled:
		return rpctypes.ErrGRPCWatchCanceled
	}
	return err
}

// sender sends the responses of one stream. It is used by one goroutine.
type sender struct {
	headers
	stream grpc.ServerStream
	msg    codec.Watch
	meters *watchMeters
}

func (s *sender) send(r *watch.Response) error {
	began := time.Now()
	h := watch.Header{ClusterID: s.cluster.ClusterID(), MemberID: s.member, RaftTerm: s.cluster.Term()}
	// gRPC has encoded the message when SendMsg returns.
	s.msg.Envelope = r.AppendEnvelope(s.msg.Envelope[:0], h)
	s.msg.Events = s.msg.Events[:0]
	for _, b := range r.Batches {
		s.msg.Events = append(s.msg.Events, b.Encoded())
	}
	if err := s.stream.SendMsg(&s.msg); err != nil {
		return err
	}
	s.meters.sent(r, time.Since(began))
	return nil
}

// receive passes on what the client asks for and returns why it ended.
func (s *watchServer) receive(ctx context.Context, stream grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse], guarded *guardedStream) error {
	ws := guarded.stream
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		switch r := req.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			if r.CreateRequest != nil {
				err = s.create(ctx, guarded, r.CreateRequest)
			}
		case *pb.WatchRequest_CancelRequest:
			if r.CancelRequest != nil {
				err = ws.Cancel(ctx, r.CancelRequest.WatchId)
			}
		case *pb.WatchRequest_ProgressRequest:
			err = ws.Progress(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// create begins a watch, or tells the client why it may not have it.
func (s *watchServer) create(ctx context.Context, guarded *guardedStream, req *pb.WatchCreateRequest) error {
	off := s.permits.off()
	if off {
		if err := guarded.stream.Create(ctx, req); s.permits.auth == nil || !auth.IsOld(err) {
			return err
		}
	}
	begun := false
	check := func(c *auth.Caller) error {
		if err := c.Watch(req.Key, req.RangeEnd); err != nil {
			return err
		}
		guarded.user(c.Name())
		return nil
	}
	err := s.permits.auth.Run(ctx, check, func(ctx context.Context) error {
		err := s.permits.auth.Fresh()
		if err == nil {
			begun = true
			err = guarded.stream.Create(ctx, req)
		}
		return err
	})
	if err != nil && !begun && refusal(err) {
		return guarded.stream.Refuse(ctx, err.Error())
	}
	return err
}
