package api

import (
	"context"
	"errors"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// watchServer serves etcd's Watch service on the hub.
type watchServer struct {
	pb.UnsafeWatchServer
	headers
	watcher Watcher
}

// Watch implements pb.WatchServer. The hub sends on its own; this goroutine
// waits for the end, since a stream's Recv does not return when the stream's
// context is ended from here.
func (s *watchServer) Watch(stream grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error {
	ws := s.watcher.NewStream(func(m *pb.WatchResponse) error {
		rev := m.GetHeader().GetRevision()
		m.Header = s.header(rev)
		return stream.Send(m)
	})
	received := make(chan error, 1)
	go func() { received <- receive(stream, ws) }()
	var err error
	select {
	case err = <-received:
	case <-stream.Context().Done():
		err = context.Cause(stream.Context())
	}
	ws.Close()
	if errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return err
}

// receive passes on what the client asks for, until the client ends the stream.
func receive(stream grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse], ws WatchStream) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if st, ok := status.FromError(err); ok && stream.Context().Err() != nil && st.Err() != nil {
				return context.Cause(stream.Context())
			}
			return err
		}
		switch r := req.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			if r.CreateRequest != nil {
				ws.Create(stream.Context(), r.CreateRequest)
			}
		case *pb.WatchRequest_CancelRequest:
			if r.CancelRequest != nil {
				ws.Cancel(r.CancelRequest.WatchId)
			}
		case *pb.WatchRequest_ProgressRequest:
			ws.Progress()
		}
	}
}
