package config

import (
	"bufio"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// parse reads a command line that must be good.
func parse(t testing.TB, args ...string) *Config {
	t.Helper()
	invocation, err := Parse(args, nil)
	require.NoError(t, err)
	require.NotNil(t, invocation.Config)
	return invocation.Config
}

func TestNoFlagsMeanOneMemberOnLocalhost(t *testing.T) {
	cfg := parse(t)
	require.Equal(t, "default", cfg.Name)
	require.Equal(t, "default.etcd", cfg.DataDir)
	require.Equal(t, "http://localhost:2379", cfg.ListenClientURLs.String())
	require.Equal(t, "http://localhost:2379", cfg.AdvertiseClientURLs.String())
	require.Equal(t, "http://localhost:2380", cfg.ListenPeerURLs.String())
	require.Equal(t, "http://localhost:2380", cfg.AdvertisePeerURLs.String())
	require.Equal(t, "default=http://localhost:2380", cfg.InitialCluster)
	require.Equal(t, ReadModeLease, cfg.ReadMode)
	require.Equal(t, uint32(math.MaxUint32), cfg.MaxConcurrentStreams)
	require.Empty(t, cfg.Warnings)
}

func TestEveryFlagOfEtcdIsThereWithItsDefault(t *testing.T) {
	file, err := os.Open("testdata/etcd-flags.txt")
	require.NoError(t, err)
	defer file.Close()
	table := named(Default().options())
	count := 0
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		name, want, ok := strings.Cut(scanner.Text(), "\t")
		if !ok {
			continue
		}
		count++
		option := table[name]
		if option == nil || option.fileOnly {
			t.Errorf("--%s is missing", name)
			continue
		}
		if want != "-" && option.defaultText() != want {
			t.Errorf("--%s: default %q, etcd's is %q", name, option.defaultText(), want)
		}
	}
	require.Greater(t, count, 100)
}

func TestTableIsSound(t *testing.T) {
	seen := make(map[string]bool)
	for _, option := range Default().options() {
		require.False(t, seen[option.name], "--%s is there twice", option.name)
		seen[option.name] = true
		require.Contains(t, groups, option.group, option.name)
		require.NotEmpty(t, option.usage, option.name)
		// A default can be given explicitly: nothing may depend on a flag's being left out.
		if written := option.value.String(); option.name != featureGatesFlag {
			require.NoError(t, option.value.Set(written), "--%s=%s", option.name, written)
			require.Equal(t, written, option.value.String(), option.name)
		}
	}
	for _, inner := range nested {
		for key, flag := range inner {
			require.True(t, seen[flag], "%s of the configuration file means --%s, which does not exist", key, flag)
		}
	}
}

func TestFlagsAreWrittenAsForEtcd(t *testing.T) {
	for _, args := range [][]string{
		{"--name", "a", "--pre-vote=false"},
		{"--name=a", "--pre-vote=0"},
		{"-name", "a", "-pre-vote=false"},
		{"-name=a", "--pre-vote=F"},
		{"--name", "x", "--name", "y", "--name=a", "--pre-vote", "--pre-vote=false"},
	} {
		cfg := parse(t, args...)
		require.Equal(t, "a", cfg.Name, args)
		require.False(t, cfg.PreVote, args)
		require.Equal(t, "a=http://localhost:2380", cfg.InitialCluster, args)
		require.True(t, cfg.Explicit("name"))
		require.False(t, cfg.Explicit("data-dir"))
	}
	require.Equal(t, "-x", parse(t, "--name", "-x").Name, "a value may begin with a dash")
}

func TestFlagsReachTheirFields(t *testing.T) {
	cfg := parse(t,
		"--name=m1", "--data-dir=/d", "--wal-dir=/w", "--snapshot-count=0x10", "--snapshot-catchup-entries=7",
		"--heartbeat-interval=20", "--election-timeout=200", "--initial-election-tick-advance=false",
		"--listen-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2", "--listen-client-urls=https://127.0.0.1:3,unix:///s",
		"--initial-advertise-peer-urls=http://a:1", "--advertise-client-urls=https://a:3",
		"--initial-cluster=m1=http://a:1,m2=http://b:1", "--initial-cluster-state=existing", "--initial-cluster-token=t",
		"--max-txn-ops=9", "--max-request-bytes=1000", "--max-concurrent-streams=5",
		"--grpc-keepalive-min-time=1s", "--grpc-keepalive-interval=2s", "--grpc-keepalive-timeout=3s",
		"--socket-reuse-port", "--socket-reuse-address=true", "--watch-progress-notify-interval=4s",
		"--warning-unary-request-duration=5s", "--cert-file=c", "--key-file=k", "--trusted-ca-file=ca", "--client-cert-auth",
		"--client-crl-file=crl", "--peer-cert-file=pc", "--peer-key-file=pk", "--peer-trusted-ca-file=pca",
		"--peer-client-cert-auth", "--peer-cert-allowed-cn=x, y,x", "--peer-skip-client-san-verification",
		"--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "--tls-max-version=TLS1.3", "--read-mode=quorum",
		`--initial-split-keys=m,b\x2cc,\x00\xff`, "--block-cache-bytes=2000000", "--memtable-bytes=3000000",
		"--unsafe-no-fsync", "--memory-mlock", "--log-level=debug", "--log-format=console", "--log-outputs=stderr,/f")
	require.Equal(t, "m1", cfg.Name)
	require.Equal(t, "/d", cfg.DataDir)
	require.Equal(t, "/w", cfg.WALDir)
	require.Equal(t, uint64(16), cfg.SnapshotCount)
	require.Equal(t, uint64(7), cfg.SnapshotCatchUpEntries)
	require.Equal(t, 20*time.Millisecond, cfg.HeartbeatInterval)
	require.Equal(t, 200*time.Millisecond, cfg.ElectionTimeout)
	require.Equal(t, 5400*time.Millisecond, cfg.RequestTimeout())
	require.False(t, cfg.InitialElectionTickAdvance)
	require.Equal(t, []string{"http://127.0.0.1:1", "http://127.0.0.1:2"}, cfg.ListenPeerURLs.StringSlice())
	require.Equal(t, []string{"https://127.0.0.1:3", "unix:///s"}, cfg.ListenClientURLs.StringSlice())
	require.Equal(t, "http://a:1", cfg.AdvertisePeerURLs.String())
	require.Equal(t, "https://a:3", cfg.AdvertiseClientURLs.String())
	require.Equal(t, "m1=http://a:1,m2=http://b:1", cfg.InitialCluster)
	require.Equal(t, StateExisting, cfg.InitialClusterState)
	require.Equal(t, "t", cfg.InitialClusterToken)
	require.Equal(t, uint(9), cfg.MaxTxnOps)
	require.Equal(t, uint(1000), cfg.MaxRequestBytes)
	require.Equal(t, uint32(5), cfg.MaxConcurrentStreams)
	require.Equal(t, time.Second, cfg.GRPCKeepAliveMinTime)
	require.Equal(t, 2*time.Second, cfg.GRPCKeepAliveInterval)
	require.Equal(t, 3*time.Second, cfg.GRPCKeepAliveTimeout)
	require.True(t, cfg.Socket.ReusePort)
	require.True(t, cfg.Socket.ReuseAddress)
	require.Equal(t, 4*time.Second, cfg.WatchProgressNotifyInterval)
	require.Equal(t, 5*time.Second, cfg.WarningUnaryRequestDuration)
	require.Equal(t, "c k ca crl", strings.Join([]string{cfg.ClientTLS.CertFile, cfg.ClientTLS.KeyFile, cfg.ClientTLS.TrustedCAFile, cfg.ClientTLS.CRLFile}, " "))
	require.True(t, cfg.ClientTLS.ClientCertAuth)
	require.Equal(t, "pc pk pca", strings.Join([]string{cfg.PeerTLS.CertFile, cfg.PeerTLS.KeyFile, cfg.PeerTLS.TrustedCAFile}, " "))
	require.True(t, cfg.PeerTLS.ClientCertAuth)
	require.Equal(t, []string{"x", "y"}, cfg.PeerTLS.AllowedCNs)
	require.True(t, cfg.PeerTLS.SkipClientSANVerify)
	require.Equal(t, []string{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}, cfg.CipherSuites)
	require.Equal(t, "TLS1.3", cfg.TLSMaxVersion)
	require.Equal(t, ReadModeQuorum, cfg.ReadMode)
	require.Equal(t, [][]byte{{0, 0xff}, []byte("b,c"), []byte("m")}, cfg.InitialSplitKeys)
	require.Equal(t, int64(2000000), cfg.BlockCacheBytes)
	require.Equal(t, int64(3000000), cfg.MemtableBytes)
	require.True(t, cfg.UnsafeNoFsync)
	require.True(t, cfg.MemoryLock)
	require.Equal(t, "debug console stderr,/f", strings.Join([]string{cfg.LogLevel, cfg.LogFormat, strings.Join(cfg.LogOutputs, ",")}, " "))
	require.Equal(t, []Warning{
		{"listen-peer-urls", "the scheme of http://127.0.0.1:1 is not secure: it ignores the certificates that are given"},
		{"listen-peer-urls", "the scheme of http://127.0.0.1:2 is not secure: it ignores the certificates that are given"},
		{"listen-client-urls", "the scheme of unix:///s is not secure: it ignores the certificates that are given"},
	}, cfg.Warnings)
}

func TestHelpAndVersionAskForNoConfig(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"--help"}, {"--name", "a", "-help"}} {
		invocation, err := Parse(args, nil)
		require.NoError(t, err)
		require.True(t, invocation.Help, args)
		require.Nil(t, invocation.Config)
	}
	invocation, err := Parse([]string{"--version"}, []string{"ETCD_NAME=a"})
	require.NoError(t, err)
	require.True(t, invocation.Version)
	require.Nil(t, invocation.Config)
}

func TestUsageErrors(t *testing.T) {
	for _, row := range []struct {
		args string
		want string
	}{
		{"--no-such-flag", "flag provided but not defined: -no-such-flag"},
		{"--no-such-flag=3", "flag provided but not defined: -no-such-flag"},
		{"-x", "flag provided but not defined: -x"},
		{"--client-cert-allowed-cn=a", "flag provided but not defined: -client-cert-allowed-cn"},
		{"stray", `"stray" is not a valid flag`},
		{"--pre-vote false", `"false" is not a valid flag`},
		{"--name", "flag needs an argument: -name"},
		{"--pre-vote=maybe", `invalid boolean value "maybe" for -pre-vote: invalid syntax`},
		{"--snapshot-count=many", `invalid value "many" for flag -snapshot-count: invalid syntax`},
		{"--snapshot-count=-1", `invalid value "-1" for flag -snapshot-count: invalid syntax`},
		{"--max-concurrent-streams=4294967296", `invalid value "4294967296" for flag -max-concurrent-streams: value out of range`},
		{"--heartbeat-interval=99999999999", `invalid value "99999999999" for flag -heartbeat-interval: value out of range`},
		{"--grpc-keepalive-timeout=5", `time: missing unit in duration "5"`},
		{"--initial-cluster-state=old", `invalid value "old" for flag -initial-cluster-state: invalid value, must be one of: new, existing`},
		{"--read-mode=fast", `invalid value, must be one of: lease, quorum`},
		{"--listen-client-urls=127.0.0.1:2379", "first path segment in URL cannot contain colon"},
		{"--listen-client-urls=localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"},
		{"--listen-client-urls=http://", `URL address does not have the form "host:port": http://`},
		{"--listen-client-urls=http://1.2.3.4", `URL address does not have the form "host:port": http://1.2.3.4`},
		{"--listen-peer-urls=http://1.2.3.4:2/x", "URL must not contain a path: http://1.2.3.4:2/x"},
		{"--listen-peer-urls=ftp://1.2.3.4:2", "URL scheme must be http, https, unix, or unixs: ftp://1.2.3.4:2"},
		{"--listen-peer-urls=http://1.2.3.4:2,,", "URL scheme must be http, https, unix, or unixs: "},
		{"--feature-gates=Nonsense=true", "unrecognized feature gate: Nonsense"},
		{"--feature-gates=InitialCorruptCheck", "missing bool value for InitialCorruptCheck"},
		{"--initial-split-keys=a,,b", "an empty key cannot be a boundary"},
		{"--initial-split-keys=a,a", `key "a" is named twice`},
		{`--initial-split-keys=\xzz`, `is not the inside of a Go string`},
		{`--initial-split-keys="`, `is not the inside of a Go string`},
	} {
		_, err := Parse(strings.Fields(row.args), nil)
		var usage *UsageError
		require.ErrorAs(t, err, &usage, row.args)
		require.ErrorContains(t, err, row.want, row.args)
	}
}

func TestEnvironmentFillsWhatTheCommandLineLeft(t *testing.T) {
	invocation, err := Parse([]string{"--data-dir=/d"}, []string{
		"HOME=/root", "ETCD_NAME=a", "KVD_MAX_TXN_OPS=5", "ETCD_MAX_TXN_OPS=5", "KVD_READ_MODE=quorum", "ETCD_WAL_DIR=",
		"ETCD_UNSUPPORTED_ARCH=arm64", "KVD_SERVICE_HOST=10.0.0.1", "ETCD_LISTEN_CLIENT_URLS=http://127.0.0.1:9",
		"ETCD_ADVERTISE_CLIENT_URLS=http://127.0.0.1:9", "novalue"})
	require.NoError(t, err)
	cfg := invocation.Config
	require.Equal(t, "a", cfg.Name)
	require.Equal(t, "/d", cfg.DataDir)
	require.Equal(t, uint(5), cfg.MaxTxnOps)
	require.Equal(t, ReadModeQuorum, cfg.ReadMode)
	require.Empty(t, cfg.WALDir)
	require.True(t, cfg.Explicit("name"))
	require.Equal(t, []Warning{{"KVD_SERVICE_HOST", "unrecognized environment variable"}}, cfg.Warnings)
}

func TestEnvironmentErrorsComeTogether(t *testing.T) {
	_, err := Parse([]string{"--name=a"}, []string{
		"ETCD_NAME=b", "KVD_DATA_DIR=/x", "ETCD_DATA_DIR=/y", "ETCD_SNAPSHOT_COUNT=many", "ETCD_ELECTION_TIMEOUT=100"})
	var invalid *InvalidError
	require.ErrorAs(t, err, &invalid)
	texts := make([]string, len(invalid.Problems))
	for i, problem := range invalid.Problems {
		texts[i] = problem.Error()
	}
	require.Equal(t, []string{
		`conflicting environment variable "ETCD_NAME" is shadowed by corresponding command-line flag (either unset environment variable or disable flag)`,
		`environment variables KVD_DATA_DIR and ETCD_DATA_DIR contradict each other`,
		`invalid value "many" for ETCD_SNAPSHOT_COUNT: invalid syntax`,
		`--election-timeout[100ms] should be at least as 5 times as --heartbeat-interval[100ms]`,
	}, texts)
}

func TestSettingsWithoutEffectSayWhyOnce(t *testing.T) {
	cfg := parse(t, "--max-wals=3", "--max-wals=4", "--auth-token=jwt", "--quota-backend-bytes=1", "--vv", "--discovery-proxy=x",
		"--metrics=extensive")
	flags := make(map[string]string)
	for _, warning := range cfg.Warnings {
		require.NotContains(t, flags, warning.Flag)
		require.NotEmpty(t, warning.Reason)
		flags[warning.Flag] = warning.Reason
	}
	require.Len(t, flags, 3)
	require.NotContains(t, flags, "metrics")
	require.NotContains(t, flags, "auth-token")
	require.Equal(t, noDiscovery, flags["discovery-proxy"])
	require.Equal(t, int64(1), cfg.QuotaBackendBytes)
}

func TestConfigFileOverridesAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kvd.yaml")
	require.NoError(t, os.WriteFile(path, []byte("name: from-file\n"), 0o600))
	for _, row := range []struct{ args, environ []string }{
		{[]string{"--config-file", path, "--name=flag", "--max-txn-ops=7"}, []string{"ETCD_NAME=env"}},
		{nil, []string{"ETCD_CONFIG_FILE=" + path, "ETCD_MAX_TXN_OPS=7"}},
		{nil, []string{"KVD_CONFIG_FILE=" + path, "ETCD_MAX_TXN_OPS=nonsense"}},
	} {
		invocation, err := Parse(row.args, row.environ)
		require.NoError(t, err)
		require.Equal(t, "from-file", invocation.Config.Name)
		require.Equal(t, uint(128), invocation.Config.MaxTxnOps)
		require.Equal(t, "from-file.etcd", invocation.Config.DataDir)
		require.Equal(t, path, invocation.Config.File)
	}
	_, err := Parse([]string{"--config-file", filepath.Join(t.TempDir(), "none")}, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var help strings.Builder
	require.NoError(t, WriteHelp(&help))
	lines := strings.Split(help.String(), "\n")
	for _, option := range Default().options() {
		line := "  --" + option.name + " '" + option.defaultText() + "'"
		require.Equal(t, !option.fileOnly, slices.Contains(lines, line), line)
	}
	for _, group := range groups {
		require.Contains(t, lines, string(group)+":")
	}
	var short strings.Builder
	require.NoError(t, WriteUsage(&short))
	require.True(t, strings.HasPrefix(help.String(), short.String()))
}

func FuzzCommandLine(f *testing.F) {
	f.Add("--name=a\n-pre-vote\n--listen-peer-urls=http://1.2.3.4:5", "ETCD_WAL_DIR=/x")
	f.Add("--initial-split-keys=\\x00,b\n--feature-gates=AllAlpha=true", "KVD_INITIAL_CLUSTER=default=http://h:1")
	f.Add("--\n--name", "ETCD_=\nETCD")
	f.Fuzz(func(t *testing.T, args, environ string) {
		if strings.Contains(args+environ, "config") || strings.Contains(environ, "CONFIG") {
			t.Skip() // would read files of this machine
		}
		invocation, err := Parse(strings.Split(args, "\n"), strings.Split(environ, "\n"))
		if err != nil {
			var usage *UsageError
			var invalid *InvalidError
			if !errors.As(err, &usage) && !errors.As(err, &invalid) {
				t.Fatalf("an error of neither kind: %v", err)
			}
			return
		}
		if invocation.Config != nil {
			if err := invocation.Config.Validate(); err != nil {
				t.Fatalf("Parse let pass what Validate refuses: %v", err)
			}
		}
	})
}
