package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Metadata that every call among members carries. TLS is what authenticates; these catch wrong clusters and stale peer URLs.
const (
	metaCluster = "kvd-cluster"
	metaFrom    = "kvd-from"
	metaTo      = "kvd-to"

	bulkWindow     = 4 << 20
	bulkConnWindow = 16 << 20
)

type memberKey struct{}

// MemberFrom returns which member sent the gRPC call that ctx belongs to.
func MemberFrom(ctx context.Context) (member uint64, ok bool) {
	member, ok = ctx.Value(memberKey{}).(uint64)
	return member, ok
}

// bulk is the gRPC half of the peer port: a server that is handed connections, and one client connection per member.
type bulk struct {
	m        *Mesh
	server   *grpc.Server
	listener *handedListener

	mu struct {
		sync.Mutex
		serving bool
		closed  bool
		conns   map[uint64]*grpc.ClientConn
	}
}

func newBulk(m *Mesh) *bulk {
	b := &bulk{m: m, listener: &handedListener{conns: make(chan net.Conn), done: make(chan struct{})}}
	b.mu.conns = make(map[uint64]*grpc.ClientConn)
	b.server = grpc.NewServer(
		grpc.MaxRecvMsgSize(MaxFrame), grpc.MaxSendMsgSize(MaxFrame),
		grpc.InitialWindowSize(bulkWindow), grpc.InitialConnWindowSize(bulkConnWindow),
		grpc.ChainUnaryInterceptor(b.checkUnary), grpc.ChainStreamInterceptor(b.checkStream),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 10 * time.Second}),
		grpc.ConnectionTimeout(handshakeTimeout),
	)
	return b
}

func (b *bulk) start() {
	b.mu.Lock()
	b.mu.serving = true
	b.mu.Unlock()
	b.m.wg.Add(1)
	go func() {
		defer b.m.wg.Done()
		// Serve returns only when the server is stopped: the listener's Accept fails for no other reason.
		_ = b.server.Serve(b.listener)
	}()
}

func (b *bulk) hand(c net.Conn) {
	if err := c.SetDeadline(time.Time{}); err != nil {
		_ = c.Close()
		return
	}
	select {
	case b.listener.conns <- c:
	case <-b.listener.done:
		_ = c.Close()
	}
}

func (b *bulk) close() {
	b.mu.Lock()
	b.mu.closed = true
	conns := b.mu.conns
	b.mu.conns = nil
	b.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	_ = b.listener.Close()
	b.server.Stop()
}

func (b *bulk) conn(to uint64) (*grpc.ClientConn, error) {
	if to == b.m.cfg.MemberID {
		return nil, ErrSelf
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.closed {
		return nil, ErrClosed
	}
	if c := b.mu.conns[to]; c != nil {
		return c, nil
	}
	id := [...]string{
		metaCluster, formatID(b.m.cfg.ClusterID), metaFrom, formatID(b.m.cfg.MemberID), metaTo, formatID(to),
	}
	c, err := grpc.NewClient("passthrough:///member-"+formatID(to),
		// The connection is secured by dial itself, with the same configuration as the mesh.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return b.m.dial(ctx, to) }),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxFrame), grpc.MaxCallSendMsgSize(MaxFrame)),
		grpc.WithInitialWindowSize(bulkWindow), grpc.WithInitialConnWindowSize(bulkConnWindow),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: handshakeTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
			invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(metadata.AppendToOutgoingContext(ctx, id[:]...), method, req, reply, cc, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
			stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(metadata.AppendToOutgoingContext(ctx, id[:]...), desc, cc, method, opts...)
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("peer: gRPC client of member %016x: %w", to, err)
	}
	b.mu.conns[to] = c
	return c, nil
}

func (b *bulk) disconnect(member uint64) {
	b.mu.Lock()
	c := b.mu.conns[member]
	delete(b.mu.conns, member)
	b.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
}

func (b *bulk) checkUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if slices.Contains(b.m.cfg.Open, info.FullMethod) {
		return handler(ctx, req)
	}
	from, err := b.check(ctx)
	if err != nil {
		return nil, err
	}
	return handler(context.WithValue(ctx, memberKey{}, from), req)
}

type memberStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *memberStream) Context() context.Context { return s.ctx }

func (b *bulk) checkStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	from, err := b.check(ss.Context())
	if err != nil {
		return err
	}
	return handler(srv, &memberStream{ServerStream: ss, ctx: context.WithValue(ss.Context(), memberKey{}, from)})
}

// check is the gRPC counterpart of judge.
func (b *bulk) check(ctx context.Context) (from uint64, err error) {
	md, _ := metadata.FromIncomingContext(ctx)
	cluster, err1 := parseID(md, metaCluster)
	from, err2 := parseID(md, metaFrom)
	to, err3 := parseID(md, metaTo)
	if err := errors.Join(err1, err2, err3); err != nil {
		return 0, status.Errorf(codes.Unauthenticated, "peer: %v", err)
	}
	h := hello{version: protocolVersion, cluster: cluster, from: from, to: to}
	switch code, reason := b.m.judge(h); code {
	case statusOK, statusNotReady:
		return from, nil
	default:
		b.m.logRefusal(from, "incoming", reason)
		return 0, status.Errorf(codes.PermissionDenied, "peer: %s", reason)
	}
}

func formatID(id uint64) string { return fmt.Sprintf("%016x", id) }

func parseID(md metadata.MD, key string) (uint64, error) {
	v := md.Get(key)
	if len(v) != 1 {
		return 0, fmt.Errorf("%d values of %s", len(v), key)
	}
	id, err := strconv.ParseUint(v[0], 16, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is not an id", key)
	}
	return id, nil
}

// handedListener is a listener whose connections are handed to it.
type handedListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *handedListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *handedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *handedListener) Addr() net.Addr { return handedAddr{} }

type handedAddr struct{}

func (handedAddr) Network() string { return "peer" }
func (handedAddr) String() string  { return "peer" }
