package multiraft

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// underName runs f on a host of another name, in a namespace of its own.
func underName(t *testing.T, name string, f func()) bool {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with the goroutine, and its namespace with it.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWUTS)
		if err == nil {
			err = unix.Sethostname([]byte(name))
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Logf("cannot change the host name: %v", err)
		return false
	}
	return true
}

// pretend makes a directory look as if it had been used on a host of another name.
func pretend(t *testing.T, dir, name string) {
	t.Helper()
	host, err := os.Hostname()
	require.NoError(t, err)
	dir = filepath.Join(dir, hostElement)
	require.NoError(t, os.Rename(filepath.Join(dir, host), filepath.Join(dir, name)))
	path := filepath.Join(dir, flagFile)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var s raftpb.RaftDataStatus
	require.NoError(t, s.Unmarshal(b[flagHash:]))
	s.Hostname = name
	data, err := s.Marshal()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(flagSum(data), data...), 0o600))
}

func TestRestartUnderAnotherHostNameInAnotherPlace(t *testing.T) {
	c := newTestCluster(t, 3, nil)
	c.group(1, 3)
	want := []string{"a", "b", "c"}
	for _, cmd := range want {
		c.propose(1, cmd)
	}
	for _, n := range c.nodes {
		c.converged(1, want, n)
		require.NoError(t, n.host.RequestSnapshot(c.ctx(), 1, true, 0))
	}
	for _, n := range c.nodes {
		n.stop()
		pretend(t, n.dir, "pod-7f")
		moved := n.dir + "-moved"
		require.NoError(t, os.Rename(n.dir, moved))
		n.dir = moved
		n.start()
		n.run(ReplicaConfig{Shard: 1})
	}
	c.propose(1, "d")
	want = append(want, "d")
	c.converged(1, want, c.nodes...)

	// A replica that missed everything is fed from a snapshot that was made under the other name.
	lagging := c.nodes[0]
	if c.leader(1) == lagging {
		lagging = c.nodes[1]
	}
	lagging.stop()
	c.propose(1, "e")
	want = append(want, "e")
	require.NoError(t, c.leader(1).host.RequestSnapshot(c.ctx(), 1, true, 0))
	if !underName(t, "pod-8a", lagging.start) {
		lagging.start()
	}
	m := lagging.run(ReplicaConfig{Shard: 1})
	c.converged(1, want, lagging)
	require.Equal(t, 1, m.mu.restored)

	lagging.stop()
	lagging.start()
	lagging.run(ReplicaConfig{Shard: 1})
	c.propose(1, "f")
	c.converged(1, append(want, "f"), c.nodes...)
	// Former names do not pile up.
	all, err := os.ReadDir(filepath.Join(lagging.dir, hostElement))
	require.NoError(t, err)
	links := 0
	for _, e := range all {
		if e.Type()&os.ModeSymlink != 0 {
			links++
		}
	}
	require.Equal(t, 1, links)
}

func TestDamagedFlagFileIsAnError(t *testing.T) {
	c := newTestCluster(t, 1, nil)
	n := c.nodes[0]
	n.stop()
	path := filepath.Join(n.dir, hostElement, flagFile)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b[len(b)-1] ^= 1
	require.NoError(t, os.WriteFile(path, b, 0o600))
	require.ErrorContains(t, blankFlag(path), "damaged")
	require.NoError(t, os.WriteFile(path, b[:3], 0o600))
	require.ErrorContains(t, blankFlag(path), "damaged")
}
