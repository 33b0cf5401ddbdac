package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestProblems(t *testing.T) {
	for _, row := range []struct {
		args string
		want string // "" if all is well
	}{
		{"--listen-peer-urls=http://example.com:2380", "--listen-peer-urls: expected IP in URL for binding (http://example.com:2380)"},
		{"--listen-client-urls=http://example.com:1 --advertise-client-urls=http://example.com:1", "--listen-client-urls: expected IP in URL for binding (http://example.com:1)"},
		{"--listen-metrics-urls=http://example.com:1", "--listen-metrics-urls: expected IP in URL for binding"},
		{"--listen-client-http-urls=http://h:1", "--listen-client-http-urls: expected IP in URL for binding"},
		{"--listen-peer-urls=http://localhost:2379", "--listen-peer-urls and --listen-client-urls both listen on localhost:2379"},
		{"--listen-peer-urls=http://[::1]:2380", ""},
		{"--listen-peer-urls=", "--listen-peer-urls must not be empty"},
		{"--listen-client-urls= --advertise-client-urls=", "--listen-client-urls must not be empty"},
		{"--initial-advertise-peer-urls=", "--initial-advertise-peer-urls must not be empty"},
		{"--initial-advertise-peer-urls=http://:2380", `--initial-advertise-peer-urls "http://:2380" must be "host:port" (unexpected empty host (http://:2380))`},
		{"--advertise-client-urls=http://:2379", `must be in the format "host:port", "unix:/path/to/socket"`},
		{"--listen-client-urls=http://127.0.0.1:2379", ErrUnsetAdvertiseClientURLs.Error()},
		{"--listen-client-urls=unix:///tmp/s --advertise-client-urls=unix:///tmp/s", ""},
		{"--name=", "--name must not be empty"},
		{"--name=a=b", "must not hold a comma or an equals sign"},
		{"--initial-cluster=", "initial cluster unset and no discovery endpoints found"},
		{"--initial-cluster=default", "error setting up initial cluster: URL scheme must be"},
		{"--initial-cluster==http://h:1", `"=http://h:1" has no name before the equals sign`},
		{"--initial-cluster=default=http://h", `URL address does not have the form "host:port": http://h`},
		{"--initial-cluster=a=http://h:1 --discovery-srv=d", ErrConflictBootstrapFlags.Error()},
		{"--discovery-srv=d", ""},
		{"--discovery=http://d", noDiscovery},
		{"--discovery-token=t", noDiscovery},
		{"--discovery-endpoints=e", noDiscovery},
		{"--discovery-fallback=proxy", `v2 proxy is deprecated, and --discovery-fallback can't be configured as "proxy"`},
		{"--force-new-cluster", ""},
		{"--force-new-cluster=false", ""},
		{"--max-learners=-1", "--max-learners must not be negative (set to -1)"},
		{"--heartbeat-interval=0", "--heartbeat-interval must be >0 (set to 0ms)"},
		{"--election-timeout=0", "--election-timeout must be >0 (set to 0ms)"},
		{"--heartbeat-interval=201", "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[201ms]"},
		{"--election-timeout=50000", ""},
		{"--election-timeout=50001", "--election-timeout[50001ms] is too long, and should be set less than 50000ms"},
		{"--grpc-keepalive-timeout=-1s", "--grpc-keepalive-timeout must not be negative (set to -1s)"},
		{"--max-request-bytes=67108865", "--max-request-bytes must be at most 67108864 (set to 67108865)"},
		{"--snapshot-count=0", "--snapshot-count must be >0"},
		{"--block-cache-bytes=1000", "--block-cache-bytes must be at least 1048576 (set to 1000)"},
		{"--memtable-bytes=-1", "--memtable-bytes must be at least 1048576 (set to -1)"},
		{"--auto-compaction-mode=", "undefined auto-compaction-mode"},
		{"--auto-compaction-mode=never", `unknown auto-compaction-mode "never"`},
		{"--auto-compaction-retention=5m", ""},
		{"--auto-compaction-retention=5m --auto-compaction-mode=revision", `error parsing CompactionRetention: invalid "5m"`},
		{"--auto-compaction-retention=500 --auto-compaction-mode=revision", ""},
		{"--auto-compaction-retention=-1", `error parsing CompactionRetention: invalid "-1"`},
		{"--metrics=all", `unknown metrics level "all", must be basic or extensive`},
		{"--bcrypt-cost=3", "--bcrypt-cost must be between 4 and 31 (set to 3)"},
		{"--feature-gates=LeaseCheckpointPersist=true", "requires enabling feature gate LeaseCheckpoint"},
		{"--feature-gates=LeaseCheckpointPersist=true,LeaseCheckpoint=true", ""},
		{"--listen-peer-urls=https://127.0.0.1:2380", "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided"},
		{"--listen-peer-urls=https://127.0.0.1:2380 --peer-auto-tls", ""},
		{"--listen-client-urls=https://127.0.0.1:1 --advertise-client-urls=https://127.0.0.1:1", "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme"},
		{"--listen-client-urls=https://127.0.0.1:1 --advertise-client-urls=https://127.0.0.1:1 --cert-file=c --key-file=k", ""},
		{"--listen-metrics-urls=https://127.0.0.1:1", ErrMissingTLSForMetrics.Error()},
		{"--cert-file=c", "--cert-file and --key-file must both be present[key: , cert: c]"},
		{"--peer-client-key-file=k", "--peer-client-cert-file and --peer-client-key-file must both be present or both absent"},
		{"--peer-cert-allowed-cn=a --peer-cert-allowed-hostname=b", "AllowedCNs and AllowedHostnames are mutually exclusive"},
		{"--self-signed-cert-validity=0", "--self-signed-cert-validity must be >0"},
		{"--tls-min-version=SSL3", `unexpected TLS version "SSL3" (must be one of: TLS1.2, TLS1.3)`},
		{"--tls-min-version=TLS1.3 --tls-max-version=TLS1.2", "min version (TLS1.3) is greater than max version (TLS1.2)"},
		{"--tls-min-version=TLS1.3 --cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "cipher suites cannot be configured when only TLS1.3 is enabled"},
		{"--cipher-suites=ROT13", `unexpected TLS cipher suite "ROT13"`},
		{"--logger=capnslog", "--logger=capnslog is removed in v3.5"},
		{"--logger=printf", `unknown logger option "printf"`},
		{"--log-level=loud", `unknown log level "loud"`},
		{"--log-format=xml", "unknown log format: xml, supported values json, console"},
		{"--log-outputs=default,/f", `multi logoutput for "default" is not supported yet`},
		{"--log-outputs=systemd/journal,/f", "running with systemd/journal but other '--log-outputs' values"},
		{"--log-outputs=", ""},
		{"--enable-log-rotation --log-outputs=f --log-rotation-config-json={", "improperly formatted log rotation config: unexpected end of JSON input"},
		{`--enable-log-rotation --log-outputs=f --log-rotation-config-json={"maxsize":"big"}`, "invalid log rotation config: json: cannot unmarshal string into Go struct field Logger.maxsize of type int"},
		{`--enable-log-rotation --log-outputs=f --log-rotation-config-json={"maxage":-1}`, "invalid log rotation config: maxsize, maxage and maxbackups must not be negative"},
		{"--enable-distributed-tracing --distributed-tracing-sampling-rate=-1", "distributed tracing configuration is not valid: (tracing sampling rate must be positive)"},
		{"--enable-distributed-tracing --distributed-tracing-sampling-rate=1000001", "distributed tracing configuration is not valid: (tracing sampling rate must be less than 1000000)"},
		{"--enable-distributed-tracing --distributed-tracing-address=nowhere", "--distributed-tracing-address: address nowhere: missing port in address"},
		{"--enable-log-rotation", ErrRotationNeedsOneFile.Error()},
		{"--enable-log-rotation --log-outputs=f,g", ErrRotationNeedsOneFile.Error()},
	} {
		_, err := Parse(strings.Fields(row.args), nil)
		if row.want == "" {
			require.NoError(t, err, row.args)
			continue
		}
		var invalid *InvalidError
		require.ErrorAs(t, err, &invalid, row.args)
		require.ErrorContains(t, err, row.want, row.args)
	}
}

func TestAllProblemsComeAtOnce(t *testing.T) {
	cfg := Default()
	cfg.Name, cfg.InitialClusterState, cfg.ReadMode = "", "old", "fast"
	cfg.ListenClientURLs[0].Host = "example.com:1"
	cfg.AdvertiseClientURLs = nil
	cfg.SnapshotCount = 0
	err := cfg.Validate()
	var invalid *InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Len(t, invalid.Problems, 6)
	require.ErrorIs(t, err, ErrUnsetAdvertiseClientURLs)
	require.NoError(t, Default().Validate())
}

func TestCompleteAdvertisesAReachableAddress(t *testing.T) {
	old := defaultHost
	t.Cleanup(func() { defaultHost = old })
	listen := []string{"--name=m1", "--listen-peer-urls=http://0.0.0.0:1380", "--listen-client-urls=http://0.0.0.0:1379",
		"--advertise-client-urls=http://localhost:2379"}

	defaultHost = func() (string, error) { return "10.1.2.3", nil }
	cfg := parse(t, listen...)
	require.Equal(t, "http://10.1.2.3:1380", cfg.AdvertisePeerURLs.String())
	require.Equal(t, "http://10.1.2.3:1379", cfg.AdvertiseClientURLs.String())
	require.Equal(t, "m1=http://10.1.2.3:1380", cfg.InitialCluster)
	require.Equal(t, "http://h:1", parse(t, append(listen, "--initial-advertise-peer-urls=http://h:1")...).AdvertisePeerURLs.String())

	defaultHost = func() (string, error) { return "", errors.New("no route") }
	require.Equal(t, "http://localhost:2380", parse(t, listen...).AdvertisePeerURLs.String())
}

func TestCompleteWarnsOfTheDefaultName(t *testing.T) {
	cfg := parse(t, "--initial-cluster=default=http://localhost:2380,b=http://localhost:2381")
	require.Len(t, cfg.Warnings, 1)
	require.Equal(t, "name", cfg.Warnings[0].Flag)
}
