package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
)

// binaries are the programs under test.
var binaries struct {
	server, kvctl, etcdctl string
	kvd                    bool // the server is kvd, not etcd
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "kvd-e2e-bin-")
	if err == nil {
		err = prepare(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// prepare finds or builds the binaries.
func prepare(dir string) error {
	build := func(env, name, pkg string) (string, error) {
		if path := os.Getenv(env); path != "" {
			return filepath.Abs(path)
		}
		path := filepath.Join(dir, name)
		out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, pkg).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
		return path, nil
	}
	var err error
	if binaries.server, err = build("KVD_TEST_BIN", "kvd", "github.com/kvd-io/kvd/cmd/kvd"); err != nil {
		return err
	}
	out, err := exec.Command(binaries.server, "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s --version: %w\n%s", binaries.server, err, out)
	}
	binaries.kvd = strings.Contains(string(out), "kvd")
	if binaries.kvd {
		if binaries.kvctl, err = build("KVD_TEST_KVCTL", "kvctl", "github.com/kvd-io/kvd/cmd/kvctl"); err != nil {
			return err
		}
	}
	binaries.etcdctl, err = build("KVD_TEST_ETCDCTL", "etcdctl", "go.etcd.io/etcd/etcdctl/v3")
	return err
}

// onlyKvd skips a test that says nothing about etcd.
func onlyKvd(t *testing.T) {
	t.Helper()
	if !binaries.kvd {
		t.Skip("about kvd only")
	}
}

// patience is how long whatever must happen may take: the disks of a busy machine stall for ten seconds and more, and so
// do its processes.
const patience = 2 * time.Minute

// unhurried are the flags of members that do not wait for the disk, for tests of what is answered that kill no member: a
// request that a stalled disk holds up for longer than the server allows fails as it should, but not for what they test.
func unhurried(more ...string) []string { return append([]string{"--unsafe-no-fsync"}, more...) }

// within gives a context for one step of a test.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// startCluster starts a cluster for one test and prints the ends of its logs if the test fails.
func startCluster(t *testing.T, o cluster.Options) *cluster.Cluster {
	t.Helper()
	c := newCluster(t, o)
	if err := c.StartAll(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// newCluster lays out a cluster but starts nothing.
func newCluster(t *testing.T, o cluster.Options) *cluster.Cluster {
	t.Helper()
	if o.Binary == "" {
		o.Binary = binaries.server
	}
	c, err := cluster.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, m := range c.Members {
				t.Logf("end of the log of %s:\n%s", m.Name, m.LogTail(8<<10))
			}
		}
		checkNoPanic(t, c)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// checkNoPanic fails a test whose members printed a goroutine trace: nothing that a test does may cause one.
func checkNoPanic(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, m := range c.Members {
		if _, err := os.Stat(m.LogPath); errors.Is(err, os.ErrNotExist) {
			continue
		}
		log := m.Log()
		for _, sign := range []string{"\npanic: ", "\nfatal error: ", "DATA RACE", "\ngoroutine "} {
			if i := strings.Index(log, sign); i >= 0 {
				t.Errorf("member %s printed %q:\n%.4000s", m.Name, sign, log[i:])
				break
			}
		}
	}
}

// run runs a program to its end and gives what it printed.
func run(t *testing.T, path string, args ...string) (string, error) {
	t.Helper()
	return runInput(t, "", path, args...)
}

func runInput(t *testing.T, input, path string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(within(t, patience), path, args...)
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
