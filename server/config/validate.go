package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/tlsutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
)

// Errors that callers may look for; their texts are etcd's.
var (
	ErrUnsetAdvertiseClientURLs = errors.New("--advertise-client-urls is required when --listen-client-urls is set explicitly")
	ErrConflictBootstrapFlags   = errors.New("multiple discovery or bootstrap flags are set. " +
		"Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"")
	ErrMissingTLSForMetrics = errors.New("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url")
)

const (
	maxElectionTimeout = 50 * time.Second
	// maxRequestBytes leaves room for a request in the largest frame that members exchange.
	maxRequestBytes = 64 << 20
	// minCacheBytes is what the smallest useful store needs.
	minCacheBytes = 1 << 20
)

// Validate reports every problem at once, as an *InvalidError, or nil. It reads nothing outside of c.
func (c *Config) Validate() error { return c.problems().err() }

func (c *Config) problems() problems {
	var wrong problems
	c.checkURLs(&wrong)
	c.checkCluster(&wrong)
	c.checkTimes(&wrong)
	c.checkLimits(&wrong)
	c.checkSecurity(&wrong)
	c.checkLogging(&wrong)
	c.checkTracing(&wrong)
	return wrong
}

func (c *Config) checkURLs(wrong *problems) {
	bound := make(map[string]string)
	for _, listening := range []struct {
		flag string
		urls types.URLs
	}{
		{"listen-peer-urls", c.ListenPeerURLs},
		{"listen-client-urls", c.ListenClientURLs},
		{"listen-client-http-urls", c.ListenClientHTTPURLs},
		{"listen-metrics-urls", c.ListenMetricsURLs},
	} {
		for _, url := range listening.urls {
			if err := checkBindable(url.Scheme, url.Host, url.String()); err != nil {
				wrong.addf("--%s: %w", listening.flag, err)
				continue
			}
			place := url.Host + url.Path
			if other, taken := bound[place]; taken && other != listening.flag && url.Port() != "0" {
				wrong.addf("--%s and --%s both listen on %s", other, listening.flag, place)
			}
			bound[place] = listening.flag
		}
	}
	if len(c.ListenPeerURLs) == 0 {
		wrong.addf("--listen-peer-urls must not be empty")
	}
	if len(c.ListenClientURLs) == 0 {
		wrong.addf("--listen-client-urls must not be empty")
	}
	if err := checkHosts(c.AdvertisePeerURLs); err != nil {
		wrong.addf(`--initial-advertise-peer-urls %q must be "host:port" (%w)`, c.AdvertisePeerURLs.String(), err)
	}
	if len(c.AdvertisePeerURLs) == 0 {
		wrong.addf("--initial-advertise-peer-urls must not be empty")
	}
	if err := checkHosts(c.AdvertiseClientURLs); err != nil {
		wrong.addf(`--advertise-client-urls %q must be in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket" (%w)`, c.AdvertiseClientURLs.String(), err)
	}
	if len(c.ListenClientURLs) > 0 && len(c.AdvertiseClientURLs) == 0 {
		wrong.add(ErrUnsetAdvertiseClientURLs)
	}
}

// checkBindable wants an address that can be listened on: a name may resolve to somebody else's machine.
func checkBindable(scheme, hostport, whole string) error {
	if scheme == "unix" || scheme == "unixs" {
		return nil
	}
	host, _, err := net.SplitHostPort(hostport)
	switch {
	case err != nil:
		return err
	case host != "localhost" && net.ParseIP(host) == nil:
		return fmt.Errorf("expected IP in URL for binding (%s)", whole)
	}
	return nil
}

func checkHosts(urls types.URLs) error {
	for _, url := range urls {
		if url.Scheme == "unix" || url.Scheme == "unixs" {
			continue
		}
		host, _, err := net.SplitHostPort(url.Host)
		switch {
		case err != nil:
			return err
		case host == "":
			return fmt.Errorf("unexpected empty host (%s)", url.String())
		}
	}
	return nil
}

func (c *Config) checkCluster(wrong *problems) {
	if c.Name == "" {
		wrong.addf("--name must not be empty")
	}
	if strings.ContainsAny(c.Name, ",=") {
		wrong.addf("--name %q must not hold a comma or an equals sign: --initial-cluster could not name it", c.Name)
	}
	if c.InitialClusterState != StateNew && c.InitialClusterState != StateExisting {
		wrong.addf("unexpected clusterState %q", c.InitialClusterState)
	}
	if c.discoveryURL != "" || c.discoveryToken != "" || len(c.discoveryEndpoints) > 0 {
		wrong.addf("--discovery, --discovery-token and --discovery-endpoints: %s: use --initial-cluster or --discovery-srv", noDiscovery)
	}
	if c.discoveryFallback == "proxy" {
		wrong.addf("v2 proxy is deprecated, and --discovery-fallback can't be configured as %q", c.discoveryFallback)
	}
	if c.InitialCluster != "" && c.DiscoverySRV != "" {
		wrong.add(ErrConflictBootstrapFlags)
	}
	if c.InitialCluster == "" && c.DiscoverySRV == "" {
		wrong.addf("initial cluster unset and no discovery endpoints found")
	}
	if _, err := parseCluster(c.InitialCluster); err != nil {
		wrong.addf("error setting up initial cluster: %w", err)
	}
	if c.MaxLearners < 0 {
		wrong.addf("--max-learners must not be negative (set to %d)", c.MaxLearners)
	}
}

func (c *Config) checkTimes(wrong *problems) {
	heartbeat, election := c.HeartbeatInterval.Milliseconds(), c.ElectionTimeout.Milliseconds()
	if heartbeat <= 0 {
		wrong.addf("--heartbeat-interval must be >0 (set to %dms)", heartbeat)
	}
	if election <= 0 {
		wrong.addf("--election-timeout must be >0 (set to %dms)", election)
	}
	if 5*heartbeat > election {
		wrong.addf("--election-timeout[%vms] should be at least as 5 times as --heartbeat-interval[%vms]", election, heartbeat)
	}
	if c.ElectionTimeout > maxElectionTimeout {
		wrong.addf("--election-timeout[%vms] is too long, and should be set less than %vms", election, maxElectionTimeout.Milliseconds())
	}
	for _, positive := range []struct {
		flag  string
		value time.Duration
	}{
		{"grpc-keepalive-min-time", c.GRPCKeepAliveMinTime},
		{"grpc-keepalive-interval", c.GRPCKeepAliveInterval},
		{"grpc-keepalive-timeout", c.GRPCKeepAliveTimeout},
		{"watch-progress-notify-interval", c.WatchProgressNotifyInterval},
		{"warning-unary-request-duration", c.WarningUnaryRequestDuration},
	} {
		if positive.value < 0 {
			wrong.addf("--%s must not be negative (set to %v)", positive.flag, positive.value)
		}
	}
}

func (c *Config) checkLimits(wrong *problems) {
	if c.MaxRequestBytes > maxRequestBytes {
		wrong.addf("--max-request-bytes must be at most %d (set to %d)", maxRequestBytes, c.MaxRequestBytes)
	}
	if c.SnapshotCount == 0 {
		wrong.addf("--snapshot-count must be >0")
	}
	if c.ReadMode != ReadModeLease && c.ReadMode != ReadModeQuorum {
		wrong.addf("--read-mode %q must be one of: %s, %s", c.ReadMode, ReadModeLease, ReadModeQuorum)
	}
	if c.BlockCacheBytes < minCacheBytes {
		wrong.addf("--block-cache-bytes must be at least %d (set to %d)", minCacheBytes, c.BlockCacheBytes)
	}
	if c.MemtableBytes < minCacheBytes {
		wrong.addf("--memtable-bytes must be at least %d (set to %d)", minCacheBytes, c.MemtableBytes)
	}
	switch c.AutoCompactionMode {
	case "periodic", "revision":
	case "":
		wrong.addf("undefined auto-compaction-mode")
	default:
		wrong.addf("unknown auto-compaction-mode %q", c.AutoCompactionMode)
	}
	if _, _, err := c.AutoCompaction(); err != nil {
		wrong.add(err)
	}
	if c.Metrics != "basic" && c.Metrics != "extensive" {
		wrong.addf("unknown metrics level %q, must be basic or extensive", c.Metrics)
	}
	if c.BcryptCost < 4 || c.BcryptCost > 31 {
		wrong.addf("--bcrypt-cost must be between 4 and 31 (set to %d)", c.BcryptCost)
	}
	if c.Features.Enabled(leaseCheckpointPersist) && !c.Features.Enabled(leaseCheckpoint) {
		wrong.addf("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint")
	}
}

func (c *Config) checkSecurity(wrong *problems) {
	if secure(c.ListenPeerURLs) && c.PeerTLS.Empty() && !c.PeerAutoTLS {
		wrong.addf("TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer urls %s with HTTPS scheme", c.ListenPeerURLs)
	}
	clientReady := !c.ClientTLS.Empty() || c.ClientAutoTLS
	if (secure(c.ListenClientURLs) || secure(c.ListenClientHTTPURLs)) && !clientReady {
		wrong.addf("TLS key/cert (--cert-file, --key-file) must be provided for client url %s with HTTPS scheme", c.ListenClientURLs)
	}
	if secure(c.ListenMetricsURLs) && !clientReady {
		wrong.add(ErrMissingTLSForMetrics)
	}
	for _, port := range []struct {
		prefix string
		info   *transport.TLSInfo
	}{{"", &c.ClientTLS}, {"peer-", &c.PeerTLS}} {
		info := port.info
		if (info.CertFile == "") != (info.KeyFile == "") {
			wrong.addf("--%scert-file and --%skey-file must both be present[key: %v, cert: %v]", port.prefix, port.prefix, info.KeyFile, info.CertFile)
		}
		if (info.ClientCertFile == "") != (info.ClientKeyFile == "") {
			wrong.addf("--%sclient-cert-file and --%sclient-key-file must both be present or both absent", port.prefix, port.prefix)
		}
		if len(info.AllowedCNs) > 0 && len(info.AllowedHostnames) > 0 {
			wrong.addf("AllowedCNs and AllowedHostnames are mutually exclusive (cns=%q, hostnames=%q)", info.AllowedCNs, info.AllowedHostnames)
		}
	}
	if c.SelfSignedCertValidity == 0 {
		wrong.addf("--self-signed-cert-validity must be >0")
	}

	lowest, err := tlsutil.GetTLSVersion(c.TLSMinVersion)
	wrong.add(err)
	highest, err := tlsutil.GetTLSVersion(c.TLSMaxVersion)
	wrong.add(err)
	if highest != 0 && lowest > highest {
		wrong.addf("min version (%s) is greater than max version (%s)", c.TLSMinVersion, c.TLSMaxVersion)
	}
	if lowest == tls.VersionTLS13 && len(c.CipherSuites) > 0 {
		wrong.addf("cipher suites cannot be configured when only TLS1.3 is enabled")
	}
	_, err = tlsutil.GetCipherSuites(c.CipherSuites)
	wrong.add(err)
}

func secure(urls types.URLs) bool {
	for _, url := range urls {
		if url.Scheme == "https" || url.Scheme == "unixs" {
			return true
		}
	}
	return false
}

// maxPerMillion is every span.
const maxPerMillion = 1_000_000

func (c *Config) checkTracing(wrong *problems) {
	switch {
	case !c.Tracing.Enabled:
		return
	case c.Tracing.PerMillion < 0:
		wrong.addf("distributed tracing configuration is not valid: (tracing sampling rate must be positive)")
	case c.Tracing.PerMillion > maxPerMillion:
		wrong.addf("distributed tracing configuration is not valid: (tracing sampling rate must be less than %d)", maxPerMillion)
	}
	if _, _, err := net.SplitHostPort(c.Tracing.Address); err != nil {
		wrong.addf("--distributed-tracing-address: %w", err)
	}
}

func (c *Config) checkLogging(wrong *problems) {
	switch c.logger {
	case "zap":
	case "capnslog":
		wrong.addf("--logger=capnslog is removed in v3.5")
	default:
		wrong.addf("unknown logger option %q", c.logger)
	}
	_, _, err := c.encoding()
	wrong.add(err)
	wrong.add(c.checkOutputs())
	if c.enableLogRotation {
		_, err := c.rotation()
		wrong.add(err)
	}
}
