package server

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zapcore"

	"github.com/kvd-io/kvd/api"
	"github.com/kvd-io/kvd/server/config"
	"github.com/kvd-io/kvd/server/metrics"
)

// openAPI opens the ports of clients and makes what serves them.
func (m *Member) openAPI(ctx context.Context) error {
	ports, err := m.openClientPorts()
	if err != nil {
		return err
	}
	tlsConfig, err := m.cfg.ClientServerTLS()
	if err != nil {
		return fmt.Errorf("TLS of the client port: %w", err)
	}
	calls, err := m.openTracing(ctx)
	if err != nil {
		return err
	}
	m.api, err = api.New(api.Config{
		Member: m.id.member, Router: m.router, Watcher: m.hub, Leases: m.leases, Cluster: m.placement, Membership: membership{m}, Operations: operations{m}, Storage: m.storage, Snapshots: m.backup,
		Ports: ports, TLS: tlsConfig, Logger: m.log.Named("api"),
		MaxRequestBytes: m.cfg.MaxRequestBytes, MaxTxnOps: m.cfg.MaxTxnOps, MaxConcurrentStreams: m.cfg.MaxConcurrentStreams,
		KeepAliveMinTime: m.cfg.GRPCKeepAliveMinTime, KeepAliveInterval: m.cfg.GRPCKeepAliveInterval, KeepAliveTimeout: m.cfg.GRPCKeepAliveTimeout,
		Guard: m.space, ElectionTimeout: m.cfg.ElectionTimeout, RequestTimeout: m.cfg.RequestTimeout(),
		EnablePprof: m.cfg.EnablePprof, SlowRequest: m.cfg.WarningUnaryRequestDuration,
		Auth:    m.auth,
		Gateway: m.cfg.EnableGRPCGateway, CORS: m.cfg.CORS, HostWhitelist: m.cfg.HostWhitelist,
		LogLevel: m.cfg.LogLevelNow, Debug: m.log.Core().Enabled(zapcore.DebugLevel), Histograms: m.cfg.Metrics == "extensive",
		// Users by the common names of certificates exist once users do.
		CertificateNames: func() bool { return m.cfg.ClientTLS.ClientCertAuth && m.placement.Auth().Enabled() },
		Calls:            calls,
		Collectors:       []prometheus.Collector{metrics.New(m.metricSources())},
	})
	if err != nil {
		return err
	}
	m.onClose(func() { m.api.Stop(0) })
	return nil
}

func (m *Member) metricSources() metrics.Sources {
	return metrics.Sources{
		Member: m.id.member, Raft: m.host.Stats, Stores: m.engine.Stats, Peers: m.mesh.Peers, Links: m.router.Stats, Watches: m.hub.Stats,
		View: m.placement.View, Counters: m.placement.Counters(), Replicas: m.manager.Each, LeaderChanges: m.leaderChanges.Load, Leases: m.leaseStats,
		Integrity: func() (compared, differed uint64) { s := m.integrity.Stats(); return s.Compared, s.Differed },
	}
}

// openClientPorts opens all ports that clients, browsers and monitoring use.
func (m *Member) openClientPorts() ([]api.Port, error) {
	split := len(m.cfg.ListenClientHTTPURLs) > 0
	var ports []api.Port
	for _, kind := range []struct {
		open func() ([]config.Listener, error)
		port api.Port
	}{
		{m.cfg.ListenClients, api.Port{GRPC: true, HTTP: !split}},
		{m.cfg.ListenClientHTTP, api.Port{HTTP: true}},
		{m.cfg.ListenMetrics, api.Port{Metrics: true}},
	} {
		opened, err := kind.open()
		if err != nil {
			return nil, err
		}
		for i := range opened {
			l := &opened[i]
			m.onClose(func() { _ = l.Close() }) // the API closes it first where it came to serve
			port := kind.port
			port.Listener, port.Secure = l.Listener, l.Secure()
			ports = append(ports, port)
		}
	}
	return ports, nil
}
