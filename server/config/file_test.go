package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// etcdSample is etcd's own etcd.conf.yml.sample in its essentials, old keys included.
const etcdSample = `
name: 'm1'
data-dir:
wal-dir:
snapshot-count: 10000
heartbeat-interval: 100
election-timeout: 1000
quota-backend-bytes: 0
listen-peer-urls: http://127.0.0.1:2380
listen-client-urls: http://127.0.0.1:2379
max-snapshots: 5
max-wals: 5
cors:
initial-advertise-peer-urls: http://127.0.0.1:2380
advertise-client-urls: http://127.0.0.1:2379
discovery-srv:
initial-cluster: m1=http://127.0.0.1:2380
initial-cluster-token: 'etcd-cluster'
initial-cluster-state: 'new'
strict-reconfig-check: false
enable-pprof: true
proxy: 'off'
client-transport-security:
  cert-file:
  key-file:
  client-cert-auth: false
  trusted-ca-file:
  auto-tls: false
peer-transport-security:
  cert-file:
  key-file:
  client-cert-auth: false
  trusted-ca-file:
  auto-tls: false
  allowed-cn:
  allowed-hostname:
self-signed-cert-validity: 1
log-level: debug
logger: zap
log-outputs: [stderr]
force-new-cluster: false
auto-compaction-mode: periodic
auto-compaction-retention: "1"
cipher-suites: [
  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
  TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
]
tls-min-version: 'TLS1.2'
tls-max-version: 'TLS1.3'
`

func fromText(t *testing.T, text string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kvd.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return FromFile(path)
}

func TestEtcdsSampleFile(t *testing.T) {
	cfg, err := fromText(t, etcdSample)
	require.NoError(t, err)
	require.Equal(t, "m1", cfg.Name)
	require.Equal(t, "m1.etcd", cfg.DataDir)
	require.Equal(t, "m1=http://127.0.0.1:2380", cfg.InitialCluster)
	require.Equal(t, "debug", cfg.LogLevel)
	require.Equal(t, []string{"stderr"}, cfg.LogOutputs)
	require.Len(t, cfg.CipherSuites, 2)
	require.False(t, cfg.StrictReconfigCheck)
	require.Equal(t, []string{"*"}, cfg.CORS, "an empty key keeps its default")
	var warned []string
	for _, warning := range cfg.Warnings {
		warned = append(warned, warning.Flag)
	}
	require.Equal(t, []string{"proxy", "max-snapshots", "max-wals"}, warned)
}

func TestFileValues(t *testing.T) {
	cfg, err := fromText(t, `
name: a
grpc-keepalive-interval: 3000000000   # nanoseconds, as etcd reads it
grpc-keepalive-timeout: 4s            # beyond etcd
max-request-bytes: 2097152
pre-vote: false
initial-split-keys: ["a,b", '\x00']
feature-gates: InitialCorruptCheck=true
socket-options: {reuse-port: true, reuse-address: true}
client-transport-security:
  cert-file: c
  key-file: k
  client-cert-auth: true
  trusted-ca-file: ca
  crl-file: crl
  allowed-cn: [x, z]
  skip-client-san-verification: true
peer-transport-security:
  cert-file: pc
  key-file: pk
  allowed-hostname: [h]
  auto-tls: true
read-mode: quorum
`)
	require.NoError(t, err)
	require.Equal(t, 3*time.Second, cfg.GRPCKeepAliveInterval)
	require.Equal(t, 4*time.Second, cfg.GRPCKeepAliveTimeout)
	require.Equal(t, uint(2097152), cfg.MaxRequestBytes)
	require.False(t, cfg.PreVote)
	require.Equal(t, [][]byte{{0}, []byte("a,b")}, cfg.InitialSplitKeys)
	require.True(t, cfg.Features.Enabled("InitialCorruptCheck"))
	require.True(t, cfg.Socket.ReusePort && cfg.Socket.ReuseAddress)
	require.Equal(t, "c", cfg.ClientTLS.CertFile)
	require.True(t, cfg.ClientTLS.ClientCertAuth)
	require.Equal(t, "crl", cfg.ClientTLS.CRLFile)
	require.Equal(t, []string{"x", "z"}, cfg.ClientTLS.AllowedCNs)
	require.True(t, cfg.ClientTLS.SkipClientSANVerify)
	require.Equal(t, "pk", cfg.PeerTLS.KeyFile)
	require.Equal(t, []string{"h"}, cfg.PeerTLS.AllowedHostnames)
	require.True(t, cfg.PeerAutoTLS)
	require.Equal(t, ReadModeQuorum, cfg.ReadMode)
	require.True(t, cfg.Explicit("peer-cert-file"))
}

func TestFileErrorsComeTogether(t *testing.T) {
	_, err := fromText(t, `
name: [a, 3]
snapshot-count: many
peer-transport-security: yes please
client-transport-security: {auto-tls: perhaps}
heartbeat-interval: {a: b}
log-outputs: ["a,b"]
discovery-config: {token: x}
election-timeout: 60000
`)
	var invalid *InvalidError
	require.ErrorAs(t, err, &invalid)
	for _, want := range []string{
		"invalid value for name in the configuration file: element 2 is not a string",
		"invalid value for snapshot-count in the configuration file: invalid syntax",
		"invalid peer-transport-security",
		"invalid value for client-transport-security.auto-tls in the configuration file: invalid syntax",
		"invalid value for heartbeat-interval in the configuration file: a table where a value is expected",
		`invalid value for log-outputs in the configuration file: element "a,b" holds a comma`,
		"discovery-config: kvd has no discovery service",
		"--election-timeout[60000ms] is too long, and should be set less than 50000ms",
	} {
		require.ErrorContains(t, err, want)
	}
	require.Len(t, invalid.Problems, 8)
}

func TestFilesThatAreNone(t *testing.T) {
	for text, want := range map[string]string{
		"- a\n- b":                            "it is not a table of keys and values",
		"just words":                          "it is not a table of keys and values",
		"a: b: c":                             "parsing the configuration file: yaml",
		"name: a\nname: b":                    "already",
		"\x00":                                "parsing the configuration file: yaml",
		strings.Repeat("#", maxFileBytes+1):   "more than the 1048576 of any configuration",
		"a: &a [*a]":                          "parsing the configuration file",
		"name: !!binary aGFsbG8=\nwal-dir: 1": "",
		"":                                    "",
	} {
		_, err := fromText(t, text)
		if want == "" {
			require.NoError(t, err, "%.30q", text)
			continue
		}
		require.ErrorContains(t, err, want, "%.30q", text)
	}
	_, err := FromFile(t.TempDir())
	require.Error(t, err)
}

func FuzzConfigFile(f *testing.F) {
	f.Add([]byte(etcdSample))
	f.Add([]byte("name: a\ninitial-cluster: a=http://h:1,b=http://h:2\nsocket-options: {reuse-port: 1}"))
	f.Add([]byte("client-transport-security: [1]\n? {a: b}\n: c"))
	f.Fuzz(func(t *testing.T, content []byte) {
		cfg, wrong := fromYAML(content)
		invocation, err := finish(&Invocation{}, cfg, wrong)
		if err != nil {
			var invalid *InvalidError
			if !errors.As(err, &invalid) || len(invalid.Problems) == 0 {
				t.Fatalf("not an InvalidError: %v", err)
			}
			return
		}
		if err := invocation.Config.Validate(); err != nil {
			t.Fatalf("let pass what Validate refuses: %v", err)
		}
	})
}
