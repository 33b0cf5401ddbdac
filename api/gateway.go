package api

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	wsproxy "github.com/tmc/grpc-websocket-proxy/wsproxy"
	etcdgw "go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	electiongw "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb/gw"
	lockgw "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb/gw"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protojson"
)

// gatewayBuffer is how many bytes lie between gateway and gRPC server at most,
// in each direction.
const gatewayBuffer = 256 << 10

// gateway translates JSON into calls of the gRPC server. It calls it over a
// connection in memory, so that a request by JSON takes the same way, through
// the same checks and counters, as any other, without a detour over the network.
type gateway struct {
	mux  *runtime.ServeMux
	conn *grpc.ClientConn
	pipe *bufconn.Listener
}

func newGateway() (*gateway, error) {
	g := &gateway{pipe: bufconn.Listen(gatewayBuffer)}
	var err error
	g.conn, err = grpc.NewClient("passthrough:///gateway",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return g.pipe.DialContext(ctx) }),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
	)
	if err != nil {
		return nil, fmt.Errorf("api: JSON gateway: %w", err)
	}
	// etcd's settings: names as in the .proto files, unknown fields ignored. Numbers
	// of 64 bits are strings and bytes are base64 as protobuf's JSON has it.
	g.mux = runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.HTTPBodyMarshaler{
		Marshaler: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		},
	}))
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		etcdgw.RegisterKVHandler, etcdgw.RegisterWatchHandler, etcdgw.RegisterLeaseHandler, etcdgw.RegisterClusterHandler,
		etcdgw.RegisterMaintenanceHandler, etcdgw.RegisterAuthHandler, lockgw.RegisterLockHandler, electiongw.RegisterElectionHandler,
	} {
		if err := register(context.Background(), g.mux, g.conn); err != nil {
			_ = g.conn.Close()
			return nil, fmt.Errorf("api: JSON gateway: %w", err)
		}
	}
	return g, nil
}

// close ends the gateway's calls.
func (g *gateway) close() {
	// Both only fail when they are closed twice.
	_ = g.conn.Close()
	_ = g.pipe.Close()
}

// handler serves JSON, and streams over websockets too: there each message of
// either direction is a JSON value.
func (g *gateway) handler(log *zap.Logger) http.Handler {
	return wsproxy.WebsocketProxy(g.mux,
		wsproxy.WithRequestMutator(func(_, outgoing *http.Request) *http.Request {
			outgoing.Method = http.MethodPost // whatever opened the websocket
			return outgoing
		}),
		// The largest response that there is; the buffer grows as far as it must.
		wsproxy.WithMaxRespBodyBufferSize(math.MaxInt32),
		wsproxy.WithLogger(websocketLog{log}),
	)
}

// websocketLog takes what the websocket proxy has to say, which is of clients
// that went away.
type websocketLog struct{ log *zap.Logger }

func (l websocketLog) Warnln(parts ...any) {
	l.log.Debug("websocket", zap.String("warning", fmt.Sprint(parts...)))
}
func (l websocketLog) Debugln(parts ...any) {
	l.log.Debug("websocket", zap.String("message", fmt.Sprint(parts...)))
}
