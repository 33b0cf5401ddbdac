package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// etcdFlags are the flags of etcd 3.7 with a value each that is not the default; an empty value is one that cannot be
// given alone. The list is etcd's `--help`, not kvd's table, so that a flag that is lost there is missed here.
var etcdFlags = map[string]string{
	"name": "m", "data-dir": "d", "wal-dir": "w", "snapshot-count": "5", "heartbeat-interval": "50", "election-timeout": "900",
	"initial-election-tick-advance": "false", "listen-peer-urls": "http://127.0.0.1:1", "listen-client-urls": "",
	"listen-client-http-urls": "http://127.0.0.1:2", "max-snapshots": "3", "max-wals": "3", "memory-mlock": "true",
	"quota-backend-bytes": "1000", "backend-bbolt-freelist-type": "array", "backend-batch-interval": "1s", "backend-batch-limit": "9",
	"max-txn-ops": "9", "max-request-bytes": "9999", "max-concurrent-streams": "9", "grpc-keepalive-min-time": "1s",
	"grpc-keepalive-interval": "1h", "grpc-keepalive-timeout": "1s", "socket-reuse-port": "true", "socket-reuse-address": "true",
	"enable-grpc-gateway": "false", "raft-read-timeout": "1s", "raft-write-timeout": "1s", "feature-gates": "FastLeaseKeepAlive=false",

	"initial-advertise-peer-urls": "", "initial-cluster": "", "initial-cluster-state": "existing", "initial-cluster-token": "t",
	"advertise-client-urls": "http://127.0.0.1:9", "discovery": "", "discovery-token": "", "discovery-endpoints": "",
	"discovery-dial-timeout": "1s", "discovery-request-timeout": "1s", "discovery-keepalive-time": "1s",
	"discovery-keepalive-timeout": "1s", "discovery-insecure-transport": "false", "discovery-insecure-skip-tls-verify": "true",
	"discovery-cert": "c", "discovery-key": "k", "discovery-cacert": "c", "discovery-user": "u", "discovery-password": "p",
	"discovery-fallback": "exit", "discovery-proxy": "x", "discovery-srv": "", "discovery-srv-name": "n",
	"strict-reconfig-check": "false", "pre-vote": "false", "auto-compaction-retention": "1h", "auto-compaction-mode": "revision",
	"v2-deprecation": "not-yet",

	"cert-file": "", "key-file": "", "client-cert-auth": "", "client-cert-file": "", "client-key-file": "",
	"client-crl-file": "r", "client-cert-allowed-hostname": "h", "trusted-ca-file": "", "auto-tls": "", "peer-cert-file": "",
	"peer-key-file": "", "peer-client-cert-auth": "", "peer-client-cert-file": "", "peer-client-key-file": "",
	"peer-trusted-ca-file": "", "peer-cert-allowed-cn": "", "peer-cert-allowed-hostname": "", "peer-auto-tls": "",
	"self-signed-cert-validity": "2", "peer-crl-file": "r", "cipher-suites": "", "cors": "http://x", "host-whitelist": "x",
	"tls-min-version": "TLS1.3", "tls-max-version": "TLS1.3",

	"auth-token": "", "bcrypt-cost": "5", "auth-token-ttl": "9",
	"enable-pprof": "true", "metrics": "extensive", "listen-metrics-urls": "http://127.0.0.1:3",
	"logger": "zap", "log-outputs": "stderr", "log-level": "warn", "log-format": "console", "enable-log-rotation": "",
	"log-rotation-config-json": `{"maxsize": 1}`, "warning-unary-request-duration": "1s",
	"enable-distributed-tracing": "", "distributed-tracing-address": "a:1", "distributed-tracing-service-name": "s",
	"distributed-tracing-instance-id": "i", "distributed-tracing-sampling-rate": "5",
	"corrupt-check-time": "1m", "compact-hash-check-time": "2m", "compaction-batch-limit": "9",
	"peer-skip-client-san-verification": "true", "watch-progress-notify-interval": "1m", "warning-apply-duration": "1s",
	"bootstrap-defrag-threshold-megabytes": "1", "max-learners": "2", "compaction-sleep-interval": "1s",
	"downgrade-check-time": "1s", "snapshot-catchup-entries": "9", "force-new-cluster": "true", "unsafe-no-fsync": "true",
}

// TestEveryFlagOfEtcd gives each flag by each way that etcd knows, and wants it taken, and one warning where it has no
// effect.
func TestEveryFlagOfEtcd(t *testing.T) {
	table := named(Default().options())
	for name, value := range etcdFlags {
		option := table[name]
		if option == nil || option.fileOnly {
			t.Errorf("--%s is unknown", name)
			continue
		}
		if value == "" {
			continue // other tests give it together with what it needs
		}
		variable := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		for way, read := range map[string]func() (*Invocation, error){
			"flag": func() (*Invocation, error) { return Parse([]string{"--" + name + "=" + value}, nil) },
			"two words": func() (*Invocation, error) {
				if value == "true" || value == "false" {
					return Parse([]string{"-" + name + "=" + value}, nil) // as in etcd, booleans take no second word
				}
				return Parse([]string{"--" + name, value}, nil)
			},
			"ETCD_": func() (*Invocation, error) { return Parse(nil, []string{"ETCD_" + variable + "=" + value}) },
			"KVD_":  func() (*Invocation, error) { return Parse(nil, []string{"KVD_" + variable + "=" + value}) },
			"file": func() (*Invocation, error) {
				path := filepath.Join(t.TempDir(), "kvd.yaml")
				require.NoError(t, os.WriteFile(path, []byte(name+": '"+value+"'\n"), 0o600))
				return Parse([]string{"--config-file", path}, nil)
			},
		} {
			got, err := read()
			if err != nil {
				t.Errorf("--%s by %s: %v", name, way, err)
				continue
			}
			warnings := 0
			for _, w := range got.Config.Warnings {
				if w.Flag == name {
					warnings++
				}
			}
			if option.without != "" && warnings != 1 {
				t.Errorf("--%s by %s: %d warnings, want one: %q", name, way, warnings, option.without)
			}
		}
	}
}
