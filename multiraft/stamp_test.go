package multiraft

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/multiraft/peer"
)

// tryHost opens a host on a directory, closes it, and returns what NewHost said.
func tryHost(t *testing.T, dir string, adjust func(*Config)) error {
	t.Helper()
	cfg := Config{Dir: dir, MemberID: 1, DeploymentID: testClusterID, Logger: zap.NewNop()}
	if adjust != nil {
		adjust(&cfg)
	}
	mesh, err := peer.New(peer.Config{ClusterID: testClusterID, MemberID: 1, Addresses: func(uint64) []string { return nil }})
	require.NoError(t, err)
	defer mesh.Close()
	cfg.Mesh = mesh
	h, err := NewHost(cfg)
	if err == nil {
		h.Close()
	}
	return err
}

func TestForeignDirectoriesAreRefused(t *testing.T) {
	dir, wal := t.TempDir(), t.TempDir()
	require.NoError(t, tryHost(t, dir, nil))
	require.NoError(t, tryHost(t, dir, nil))
	require.ErrorContains(t, tryHost(t, dir, func(c *Config) { c.MemberID = 2 }), "member id is 0000000000000001 there, 0000000000000002 here")
	require.ErrorContains(t, tryHost(t, dir, func(c *Config) { c.DeploymentID = 2 }), "cluster id")
	require.ErrorContains(t, tryHost(t, dir, func(c *Config) { c.WALDir = wal }), "WAL")
	path := filepath.Join(dir, stampFile)
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(`{"format": 99}`), 0o600))
	require.ErrorContains(t, tryHost(t, dir, nil), "newer version")
	require.NoError(t, os.WriteFile(path, []byte(`{`), 0o600))
	require.ErrorContains(t, tryHost(t, dir, nil), "damaged")
	require.NoError(t, os.Remove(path))
	require.ErrorContains(t, tryHost(t, dir, nil), "no "+path)
	require.NoError(t, os.WriteFile(path, good, 0o600))
	require.NoError(t, tryHost(t, dir, nil))
}

func TestADirectoryKeepsItsStepWorkers(t *testing.T) {
	dir := t.TempDir()
	// Dragonboat refuses to open a directory with another number than it was made with.
	require.NoError(t, tryHost(t, dir, func(c *Config) { c.stepWorkers = 2 }))
	require.NoError(t, tryHost(t, dir, nil))
	have, err := os.ReadFile(filepath.Join(dir, stampFile))
	require.NoError(t, err)
	require.Contains(t, string(have), `"step_workers": 2`)
	require.NoError(t, os.WriteFile(filepath.Join(dir, stampFile), []byte(strings.Replace(string(have), `workers": 2`, `workers": 17`, 1)), 0o600))
	require.ErrorContains(t, tryHost(t, dir, nil), "17 step workers")
}

func TestADirectoryInUseIsRefused(t *testing.T) {
	c := newTestCluster(t, 1, nil)
	require.Error(t, tryHost(t, c.nodes[0].dir, nil))
}

func TestAFirstStartThatWasCutOffIsBegunAnew(t *testing.T) {
	dir, wal := t.TempDir(), t.TempDir()
	with := func(c *Config) { c.WALDir = wal }
	require.NoError(t, tryHost(t, dir, with))
	// As if the first start had ended half-way: no completed stamp, a torn flag file.
	cfg := Config{MemberID: 1, DeploymentID: testClusterID, WALDir: wal}
	require.NoError(t, writeStamp(dir, cfg.stamp()))
	require.NoError(t, os.WriteFile(filepath.Join(dir, hostElement, flagFile), []byte{1}, 0o600))
	require.NoError(t, tryHost(t, dir, with))
	// But never a log that was in use.
	require.NoError(t, os.WriteFile(filepath.Join(dir, hostElement, flagFile), []byte{1}, 0o600))
	require.ErrorContains(t, tryHost(t, dir, with), "damaged")
}

func TestConfigurationIsChecked(t *testing.T) {
	err := tryHost(t, "", func(c *Config) { c.MemberID, c.DeploymentID, c.Heartbeat = 0, 0, 1500*time.Microsecond })
	for _, want := range []string{"no directory", "member id is zero", "deployment id is zero", "1.5ms is not a number of milliseconds"} {
		require.ErrorContains(t, err, want)
	}
	require.ErrorContains(t, tryHost(t, t.TempDir(), func(c *Config) { c.Heartbeat, c.Election = time.Second, 2*time.Second }), "below three heartbeats")
}

func TestSeparateWALAndNoFsync(t *testing.T) {
	wal := t.TempDir()
	c := newTestCluster(t, 1, func(cfg *Config) { cfg.WALDir, cfg.UnsafeNoFsync = wal, true })
	c.group(1, 1)
	c.propose(1, "a")
	c.nodes[0].stop()
	logs, err := filepath.Glob(filepath.Join(wal, entriesElement, "*.log"))
	require.NoError(t, err)
	require.NotEmpty(t, logs)
	c.nodes[0].start()
	c.nodes[0].run(ReplicaConfig{Shard: 1})
	c.propose(1, "b")
	c.converged(1, []string{"a", "b"}, c.nodes[0])
}
