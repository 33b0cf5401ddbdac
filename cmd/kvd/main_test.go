package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/server/config"
)

// fakeMember is a member whose life a test moves by hand.
type fakeMember struct {
	stopped   chan error
	mayClose  chan struct{}
	closeOnce sync.Once
	closed    chan struct{}
}

func newFakeMember() *fakeMember {
	return &fakeMember{stopped: make(chan error, 1), mayClose: make(chan struct{}), closed: make(chan struct{})}
}

func (m *fakeMember) Close() {
	<-m.mayClose
	m.closeOnce.Do(func() { close(m.closed) })
}

func (m *fakeMember) Stopped() <-chan error { return m.stopped }

// harness runs the process with a log file and a fake member.
type harness struct {
	process
	signals        chan os.Signal
	stdout, stderr strings.Builder
	log            string
}

func newHarness(t *testing.T, args ...string) *harness {
	h := &harness{signals: make(chan os.Signal, 4), log: filepath.Join(t.TempDir(), "log")}
	h.process = process{
		args: append([]string{"--data-dir", t.TempDir(), "--log-outputs", h.log}, args...), environ: []string{"GOGC=100", "GOMEMLIMIT=off"},
		stdout: &h.stdout, stderr: &h.stderr, signals: h.signals, stopTimeout: time.Minute,
		start: func(context.Context, *config.Config) (member, error) { return nil, errors.New("not this time") },
	}
	return h
}

// run runs the process and answers its code and its log.
func (h *harness) run(t *testing.T) (int, string) {
	code := run(&h.process)
	written, err := os.ReadFile(h.log)
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	return code, string(written)
}

func TestBadCommandLines(t *testing.T) {
	h := newHarness(t, "--no-such-flag")
	code, _ := h.run(t)
	require.Equal(t, exitUsage, code)
	require.True(t, strings.HasPrefix(h.stderr.String(), "kvd: flag provided but not defined: -no-such-flag\n\nUsage:\n"))

	h = newHarness(t, "--election-timeout=100", "--listen-peer-urls=http://example.com:1")
	code, _ = h.run(t)
	require.Equal(t, exitFailed, code)
	require.Equal(t, `kvd: failed to verify flags: --listen-peer-urls: expected IP in URL for binding (http://example.com:1)
kvd: failed to verify flags: --election-timeout[100ms] should be at least as 5 times as --heartbeat-interval[100ms]
`, h.stderr.String())
	require.Empty(t, h.stdout.String())

	h = newHarness(t)
	h.log = filepath.Join(t.TempDir(), "no", "log")
	h.args = []string{"--log-outputs", h.log}
	code, _ = h.run(t)
	require.Equal(t, exitFailed, code)
	require.Contains(t, h.stderr.String(), "opening the log")
}

func TestHelpAndVersion(t *testing.T) {
	h := newHarness(t, "--help")
	code, _ := h.run(t)
	require.Equal(t, exitStopped, code)
	require.Contains(t, h.stdout.String(), "\nClustering:\n")

	h = newHarness(t, "--version")
	code, _ = h.run(t)
	require.Equal(t, exitStopped, code)
	require.True(t, strings.HasPrefix(h.stdout.String(), "etcd Version: 3.7."), h.stdout.String())
}

func TestFailedStart(t *testing.T) {
	code, log := newHarness(t, "--max-wals=1").run(t)
	require.Equal(t, exitFailed, code)
	require.Contains(t, log, `"level":"error"`)
	require.Contains(t, log, `"error":"not this time"`)
	require.Contains(t, log, `"setting":"max-wals","reason":"the raft log is one log`)

	h := newHarness(t, "--cert-file=/nonexistent", "--key-file=/nonexistent")
	code, log = h.run(t)
	require.Equal(t, exitFailed, code)
	require.Contains(t, log, "certificates of the client port")
}

func TestSignalStopsGracefully(t *testing.T) {
	h := newHarness(t)
	m := newFakeMember()
	close(m.mayClose)
	h.start = func(_ context.Context, cfg *config.Config) (member, error) {
		require.NotNil(t, cfg.Logger)
		h.signals <- syscall.SIGTERM
		return m, nil
	}
	// The signal may be seen before the member or after it; either way the member is closed and the code is 0.
	code, log := h.run(t)
	require.Equal(t, exitStopped, code)
	<-m.closed
	require.Contains(t, log, `"signal":"terminated"`)
	require.Contains(t, log, `"msg":"stopped"`)
}

func TestSecondSignalKills(t *testing.T) {
	h := newHarness(t)
	m := newFakeMember() // never closes
	h.start = func(context.Context, *config.Config) (member, error) { return m, nil }
	h.signals <- syscall.SIGTERM
	h.signals <- syscall.SIGINT
	code, log := h.run(t)
	require.Equal(t, 128+int(syscall.SIGINT), code)
	require.Contains(t, log, "received another signal")
}

func TestSlowStopEndsNevertheless(t *testing.T) {
	h := newHarness(t)
	h.stopTimeout = time.Millisecond
	h.start = func(context.Context, *config.Config) (member, error) { return newFakeMember(), nil }
	h.signals <- syscall.SIGTERM
	code, log := h.run(t)
	require.Equal(t, exitFailed, code)
	require.Contains(t, log, "the stop takes too long")
}

func TestSignalDuringStartCancelsIt(t *testing.T) {
	h := newHarness(t)
	h.start = func(ctx context.Context, _ *config.Config) (member, error) {
		h.signals <- syscall.SIGTERM
		<-ctx.Done()
		return nil, ctx.Err()
	}
	code, log := h.run(t)
	require.Equal(t, exitStopped, code)
	require.Contains(t, log, "giving up the start")
}

func TestBreakdownIsAFailure(t *testing.T) {
	h := newHarness(t)
	m := newFakeMember()
	close(m.mayClose)
	m.stopped <- errors.New("disk is gone")
	h.start = func(context.Context, *config.Config) (member, error) { return m, nil }
	code, log := h.run(t)
	require.Equal(t, exitFailed, code)
	<-m.closed
	require.Contains(t, log, `"error":"disk is gone"`)
}

func TestSystemdIsToldTheState(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	defer listener.Close()
	h := newHarness(t)
	h.environ = append(h.environ, "NOTIFY_SOCKET="+socket)
	m := newFakeMember()
	close(m.mayClose)
	m.stopped <- errors.New("over")
	h.start = func(context.Context, *config.Config) (member, error) { return m, nil }
	h.run(t)
	buffer := make([]byte, 100)
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		n, err := listener.Read(buffer)
		require.NoError(t, err)
		require.Equal(t, want, string(buffer[:n]))
	}
	notifySystemd(zap.NewNop(), []string{"NOTIFY_SOCKET=" + socket + ".none"}, "READY=1") // no harm
}

func TestMachineMemory(t *testing.T) {
	for _, row := range []struct {
		files map[string]string
		want  int64
	}{
		{map[string]string{}, 0},
		{map[string]string{"proc/meminfo": "MemFree: 1 kB\nMemTotal:       1024 kB\n"}, 1 << 20},
		{map[string]string{"proc/meminfo": "MemTotal: 1024 kB\n", "sys/fs/cgroup/memory.max": "max\n"}, 1 << 20},
		{map[string]string{"proc/meminfo": "MemTotal: 1024 kB\n", "sys/fs/cgroup/memory.max": "4096\n"}, 4096},
		{map[string]string{"proc/meminfo": "MemTotal: 1024 kB\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 1 << 20},
		{map[string]string{"proc/meminfo": "MemTotal: lots\n"}, 0},
	} {
		root := t.TempDir() + "/"
		for path, content := range row.files {
			require.NoError(t, os.MkdirAll(filepath.Dir(root+path), 0o755))
			require.NoError(t, os.WriteFile(root+path, []byte(content), 0o600))
		}
		require.Equal(t, row.want, machineMemory(root), row.files)
	}
	require.EqualValues(t, 12<<30-1<<30, memoryLimit(16<<30, 1<<30))
	require.EqualValues(t, 1<<30, memoryLimit(4<<30, 10<<30))
	require.EqualValues(t, minMemoryLimit, memoryLimit(1<<20, 0))
}
