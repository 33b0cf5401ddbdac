package inner

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/kvd-io/kvd/api/codec"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeServer tells who called it.
type fakeServer struct {
	pb.UnimplementedLeaseServer
	pb.UnimplementedWatchServer
	err  error
	seen *pb.LeaseRevokeRequest
}

func callerOf(ctx context.Context) string {
	token := metadata.ValueFromIncomingContext(ctx, "token")
	p, ok := peer.FromContext(ctx)
	if len(token) == 0 || !ok || p.Addr == nil {
		return "nobody"
	}
	return token[0] + " at " + p.Addr.String()
}

func (s *fakeServer) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	s.seen = r
	if s.err != nil {
		return nil, s.err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return &pb.LeaseRevokeResponse{Header: &pb.ResponseHeader{Revision: r.ID}}, nil
}

// Watch answers each request with the caller's name, until the requests end.
func (s *fakeServer) Watch(stream pb.Watch_WatchServer) error {
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return s.err
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.WatchResponse{CancelReason: callerOf(stream.Context())}); err != nil {
			return err
		}
	}
}

// world is a connection as one caller, and what its interceptors saw.
type world struct {
	server *fakeServer
	conn   *Conn
	mu     sync.Mutex
	seen   []string
}

func (w *world) saw(interceptor, method string, ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, interceptor+" "+method+" by "+callerOf(ctx))
}

func newWorld() *world {
	w := &world{server: &fakeServer{}}
	unary := func(name string) grpc.UnaryServerInterceptor {
		return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			w.saw(name, info.FullMethod, ctx)
			return next(ctx, req)
		}
	}
	stream := func(name string) grpc.StreamServerInterceptor {
		return func(server any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			w.saw(name, info.FullMethod, s.Context())
			return next(server, s)
		}
	}
	services := New(codec.Codec{}, []grpc.UnaryServerInterceptor{unary("first"), unary("second")}, []grpc.StreamServerInterceptor{stream("first"), stream("second")})
	pb.RegisterLeaseServer(services, w.server)
	pb.RegisterWatchServer(services, w.server)
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("token", "alice"))
	w.conn = services.As(peer.NewContext(ctx, &peer.Peer{Addr: &net.UnixAddr{Name: "home"}}))
	return w
}

func TestCallsComeFromTheCaller(t *testing.T) {
	w := newWorld()
	// A context with another identity does not help.
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("token", "root"))
	req := &pb.LeaseRevokeRequest{ID: 7}
	resp, err := pb.NewLeaseClient(w.conn).LeaseRevoke(ctx, req)
	require.NoError(t, err)
	require.EqualValues(t, 7, resp.Header.Revision)
	require.NotSame(t, req, w.server.seen)
	stream, err := pb.NewWatchClient(w.conn).Watch(ctx)
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, stream.Send(&pb.WatchRequest{}))
		r, err := stream.Recv()
		require.NoError(t, err)
		require.Equal(t, "alice at home", r.CancelReason)
	}
	require.NoError(t, stream.CloseSend())
	_, err = stream.Recv()
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, []string{
		"first /etcdserverpb.Lease/LeaseRevoke by alice at home", "second /etcdserverpb.Lease/LeaseRevoke by alice at home",
		"first /etcdserverpb.Watch/Watch by alice at home", "second /etcdserverpb.Watch/Watch by alice at home",
	}, w.seen)
	// A caller without identity gives none.
	_, err = pb.NewLeaseClient(w.conn.services.As(context.Background())).LeaseRevoke(ctx, req)
	require.NoError(t, err)
	require.Contains(t, w.seen[len(w.seen)-1], "by nobody")
}

func TestErrorsAreThoseOfTheNetwork(t *testing.T) {
	w := newWorld()
	leases := pb.NewLeaseClient(w.conn)
	for _, c := range []struct {
		err  error
		code codes.Code
	}{
		{rpctypes.ErrGRPCLeaseNotFound, codes.NotFound}, {errors.New("broken"), codes.Unknown}, {context.DeadlineExceeded, codes.DeadlineExceeded},
	} {
		w.server.err = c.err
		_, err := leases.LeaseRevoke(context.Background(), &pb.LeaseRevokeRequest{})
		require.Equal(t, c.code, status.Code(err))
		stream, err := pb.NewWatchClient(w.conn).Watch(context.Background())
		require.NoError(t, err)
		require.NoError(t, stream.CloseSend())
		_, err = stream.Recv()
		require.Equal(t, c.code, status.Code(err))
		require.ErrorIs(t, stream.Send(&pb.WatchRequest{}), io.EOF, "the stream has ended")
		_, err = stream.Recv()
		require.Equal(t, c.code, status.Code(err), "and goes on to say why")
	}
	_, err := pb.NewKVClient(w.conn).Put(context.Background(), &pb.PutRequest{})
	require.Equal(t, codes.Unimplemented, status.Code(err))
	_, err = pb.NewKVClient(w.conn).RangeStream(context.Background(), &pb.RangeRequest{})
	require.Equal(t, codes.Unimplemented, status.Code(err))
}

func TestStreamsEndWithTheirContext(t *testing.T) {
	w := newWorld()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := pb.NewWatchClient(w.conn).Watch(ctx)
	require.NoError(t, err)
	cancel()
	_, err = stream.Recv()
	require.Equal(t, codes.Canceled, status.Code(err))
	// Nobody receives: the server waits until the context ends.
	ctx, cancel = context.WithCancel(context.Background())
	stream, err = pb.NewWatchClient(w.conn).Watch(ctx)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&pb.WatchRequest{}))
	cancel()
	<-stream.Context().Done()
}
