package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/kvd-io/kvd/api/codec"
	"github.com/kvd-io/kvd/api/inner"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

const (
	// streamWorkers is how many goroutines stand ready for requests; their stacks
	// have grown already. Requests beyond get goroutines of their own.
	streamWorkers = 256
	// Flow control windows for what clients send.
	streamWindow = 1 << 20
	connWindow   = 4 << 20
	// readHeaderTimeout bounds how slowly an HTTP request may begin.
	readHeaderTimeout = 30 * time.Second
)

// Server is the client side of a member.
type Server struct {
	cfg      Config
	stats    callStats
	meters   meters
	registry *prometheus.Registry
	gate     *gate
	permits  *permits
	watches  *guardedStreams
	gateway  *gateway
	grpc     *grpc.Server
	// inner are the services that Lock and Election use.
	inner    *inner.Services
	health   *health.Server
	pagesSrv *http.Server
	metrics  *http.Server

	grpcConns, httpConns, metricsConns *handed
	ports                              []*port

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   sync.Once
}

// New makes a server. It owns the ports from here on, also if it fails.
func New(cfg Config) (*Server, error) {
	if err := cfg.fill(); err != nil {
		for _, p := range cfg.Ports {
			err = errors.Join(err, p.Listener.Close())
		}
		return nil, err
	}
	s := &Server{cfg: cfg, registry: prometheus.NewRegistry(), gate: newGate(cfg.Cluster), permits: &permits{auth: cfg.Auth}, health: health.NewServer()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.stats.slow = &slowLog{log: cfg.Logger, after: cfg.SlowRequest}
	s.meters.prepare()
	s.grpc = grpc.NewServer(s.options()...)
	s.register()
	s.stats.prepare(s.grpc.GetServiceInfo(), cfg.Histograms)
	if err := s.registerMetrics(); err != nil {
		return nil, errors.Join(err, s.abandon())
	}
	if cfg.Gateway {
		var err error
		if s.gateway, err = newGateway(); err != nil {
			return nil, errors.Join(err, s.abandon())
		}
	}
	s.pagesSrv, s.metrics = newHTTPServer(s.pages(false)), newHTTPServer(s.pages(true))
	if len(cfg.Ports) > 0 {
		addr := cfg.Ports[0].Addr()
		s.grpcConns, s.httpConns, s.metricsConns = newHanded(addr), newHanded(addr), newHanded(addr)
	}
	for _, p := range cfg.Ports {
		var toGRPC, toHTTP *handed
		if p.GRPC {
			toGRPC = s.grpcConns
		}
		switch {
		case p.HTTP:
			toHTTP = s.httpConns
		case p.Metrics:
			toHTTP = s.metricsConns
		}
		s.ports = append(s.ports, newPort(p, cfg.TLS, toGRPC, toHTTP, cfg.Logger))
	}
	return s, nil
}

func newHTTPServer(pages http.Handler) *http.Server {
	// Errors of clients are no news.
	quiet := zap.NewStdLog(zap.NewNop())
	return &http.Server{Handler: pages, ReadHeaderTimeout: readHeaderTimeout, ErrorLog: quiet, ConnContext: withTLSState}
}

// abandon closes what New was given.
func (s *Server) abandon() error {
	s.cancel()
	var errs []error
	for _, p := range s.cfg.Ports {
		errs = append(errs, p.Listener.Close())
	}
	return errors.Join(errs...)
}

func (s *Server) options() []grpc.ServerOption {
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec.Codec{Bytes: &s.meters.bytes}),
		grpc.Creds(doneHandshakes{}),
		grpc.MaxRecvMsgSize(int(min(uint64(s.cfg.MaxRequestBytes)+overheadBytes, math.MaxInt32))),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(s.cfg.MaxConcurrentStreams),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.ChainUnaryInterceptor(s.unaryInterceptors()...),
		grpc.ChainStreamInterceptor(s.streamInterceptors()...),
		grpc.UnknownServiceHandler(unimplemented),
	}
	if s.cfg.Calls != nil {
		opts = append(opts, grpc.StatsHandler(s.cfg.Calls))
	}
	if s.cfg.KeepAliveMinTime > 0 {
		opts = append(opts, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: s.cfg.KeepAliveMinTime}))
	}
	if s.cfg.KeepAliveInterval > 0 && s.cfg.KeepAliveTimeout > 0 {
		opts = append(opts, grpc.KeepaliveParams(keepalive.ServerParameters{Time: s.cfg.KeepAliveInterval, Timeout: s.cfg.KeepAliveTimeout}))
	}
	return opts
}

func (s *Server) register() {
	h := headers{member: s.cfg.Member, cluster: s.cfg.Cluster}
	s.inner = inner.New(codec.Codec{}, s.unaryInterceptors(), s.streamInterceptors())
	both := registrars{s.grpc, s.inner}
	both.RegisterService(kvDesc(), &kvServer{
		headers: h, router: s.cfg.Router, guard: s.cfg.Guard, gate: s.gate, permits: s.permits, stats: &s.stats, meters: &s.meters,
		maxTxnOps: int(s.cfg.MaxTxnOps), maxRequestBytes: int(s.cfg.MaxRequestBytes),
	})
	if s.cfg.Auth != nil {
		s.watches = newGuardedStreams(s.cfg.Auth)
		pb.RegisterAuthServer(s.grpc, &authServer{headers: h, auth: s.cfg.Auth, storage: s.cfg.Storage})
	}
	pb.RegisterWatchServer(both, &watchServer{headers: h, watcher: s.cfg.Watcher, meters: &s.meters.watches, permits: s.permits, streams: s.watches})
	pb.RegisterLeaseServer(both, &leaseServer{headers: h, leases: s.cfg.Leases, guard: s.cfg.Guard, stopping: s.ctx})
	pb.RegisterClusterServer(s.grpc, &clusterServer{headers: h, membership: s.cfg.Membership})
	pb.RegisterMaintenanceServer(s.grpc, &maintenanceServer{
		headers: h, router: s.cfg.Router, storage: s.cfg.Storage, snapshots: s.cfg.Snapshots, guard: s.cfg.Guard, timeout: s.cfg.RequestTimeout,
	})
	kvdpb.RegisterShardAdminServer(s.grpc, &shardServer{router: s.cfg.Router, cluster: s.cfg.Cluster, operations: s.cfg.Operations})
	concurrency := &concurrencyServer{inner: s.inner, stopping: s.ctx, grace: s.cfg.RequestTimeout}
	v3lockpb.RegisterLockServer(s.grpc, concurrency)
	v3electionpb.RegisterElectionServer(s.grpc, concurrency)
	healthpb.RegisterHealthServer(s.grpc, s.health)
}

// registrars registers services in several places.
type registrars []grpc.ServiceRegistrar

// RegisterService implements grpc.ServiceRegistrar.
func (all registrars) RegisterService(desc *grpc.ServiceDesc, server any) {
	for _, r := range all {
		r.RegisterService(desc, server)
	}
}

func (s *Server) unaryInterceptors() []grpc.UnaryServerInterceptor {
	return []grpc.UnaryServerInterceptor{s.stats.interceptUnary, s.meters.interceptUnary, s.gate.interceptUnary, s.permits.interceptUnary}
}

func (s *Server) streamInterceptors() []grpc.StreamServerInterceptor {
	return []grpc.StreamServerInterceptor{s.stats.interceptStream, s.meters.interceptStream, s.gate.interceptStream, s.permits.interceptStream}
}

// StartMetrics serves the ports for metrics and health alone, until Stop. It may
// be called before Start, when the member is not ready yet.
func (s *Server) StartMetrics() error {
	if s.ctx.Err() != nil {
		return errStopped
	}
	if len(s.ports) == 0 {
		return nil
	}
	s.spawn("metrics server", func() error { return ignoreClosed(s.metrics.Serve(s.metricsConns)) })
	for _, p := range s.ports {
		if p.Metrics {
			s.startPort(p)
		}
	}
	return nil
}

var errStopped = errors.New("api: server was stopped")

// Start serves clients until Stop.
func (s *Server) Start() error {
	if s.ctx.Err() != nil {
		return errStopped
	}
	s.spawn("watch on leaders", func() error { s.gate.run(s.ctx, s.cfg.ElectionTimeout); return nil })
	if s.watches != nil {
		s.spawn("watch on auth", func() error { s.watches.run(s.ctx); return nil })
	}
	if s.gateway != nil {
		s.spawn("JSON gateway", func() error { return s.grpc.Serve(s.gateway.pipe) })
	}
	if len(s.ports) > 0 {
		s.spawn("gRPC server", func() error { return s.grpc.Serve(s.grpcConns) })
		s.spawn("HTTP server", func() error { return ignoreClosed(s.pagesSrv.Serve(s.httpConns)) })
	}
	for _, p := range s.ports {
		if !p.Metrics {
			s.startPort(p)
		}
	}
	return nil
}

func (s *Server) startPort(p *port) {
	s.spawn(fmt.Sprintf("client port %s", p.Addr()), p.serve)
	message := "serving client traffic insecurely; this is strongly discouraged!"
	switch {
	case p.Metrics:
		message = "serving metrics"
	case p.Secure:
		message = "serving client traffic securely"
	}
	s.cfg.Logger.Info(message, zap.String("traffic", traffic(p.Port)), zap.String("address", p.Addr().String()))
}

func traffic(p Port) string {
	switch {
	case p.GRPC && p.HTTP:
		return "grpc+http"
	case p.GRPC:
		return "grpc"
	case p.HTTP:
		return "http"
	}
	return "metrics"
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *Server) spawn(what string, f func() error) {
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		if err := f(); err != nil && s.ctx.Err() == nil {
			s.cfg.Logger.Error("client side stopped serving", zap.String("part", what), zap.Error(err))
		}
	}()
}

// Stop refuses new connections and requests, lets those under way finish for at
// most grace, and returns when everything has ended.
func (s *Server) Stop(grace time.Duration) {
	s.stop.Do(func() {
		s.health.Shutdown()
		s.cancel()
		for _, p := range s.ports {
			if err := p.Close(); err != nil {
				s.cfg.Logger.Debug("close client port", zap.Error(err))
			}
		}
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			s.grpc.GracefulStop()
		}()
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-stopped:
		case <-timer.C:
			s.grpc.Stop()
			<-stopped
		}
		if s.gateway != nil {
			s.gateway.close()
		}
		for _, h := range []*http.Server{s.pagesSrv, s.metrics} {
			// Pages are not worth waiting for.
			_ = h.Close()
		}
		for _, h := range []*handed{s.grpcConns, s.httpConns, s.metricsConns} {
			if h != nil {
				_ = h.Close()
			}
		}
	})
	s.wg.Wait()
}
