package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary plays the members: TestMain turns it into one when the variable is set.
const (
	roleEnv    = "CLUSTER_TEST_ROLE"
	memberRole = "member" // serves /health, ends on SIGTERM
	doomedRole = "doomed" // prints something and fails
	parentRole = "parent" // starts a member and panics
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case memberRole:
		os.Exit(playMember())
	case doomedRole:
		fmt.Println("this member has a reason to fail")
		os.Exit(3)
	case parentRole:
		playParent()
	}
	os.Exit(m.Run())
}

func playMember() int {
	for _, e := range os.Environ() {
		if strings.HasPrefix(e, "ETCD_") || strings.HasPrefix(e, "KVD_") {
			fmt.Println("leaked", e)
			return 1
		}
	}
	var address, data string
	for _, a := range os.Args[1:] {
		if v, ok := strings.CutPrefix(a, "--listen-client-urls="); ok {
			u, err := url.Parse(v)
			if err != nil {
				return 1
			}
			address = u.Host
		}
		if v, ok := strings.CutPrefix(a, "--data-dir="); ok {
			data = v
		}
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return 1
	}
	http.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"health":"true","reason":""}`) })
	go http.ListenAndServe(address, nil)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	fmt.Println(readyText)
	<-stop
	return 0
}

func playParent() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c, err := Start(ctx, memberOptions())
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("pid", c.Members[0].Pid(), c.Dir)
	panic("the test that uses the cluster fails badly")
}

func memberOptions() Options {
	return Options{Binary: os.Args[0], Env: []string{roleEnv + "=" + memberRole}}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestLifecycle(t *testing.T) {
	t.Setenv("ETCD_NAME", "leaks")
	o := memberOptions()
	o.Members = 3
	c, err := Start(within(t), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n := len(c.Pids()); n != 3 {
		t.Errorf("%d processes", n)
	}
	seen := map[string]bool{}
	for _, m := range c.Members {
		seen[m.ClientURL], seen[m.PeerURL] = true, true
		if !strings.Contains(strings.Join(m.Args(), " "), "--initial-cluster=m1="+c.Members[0].PeerURL+",m2=") {
			t.Errorf("flags %q", m.Args())
		}
	}
	if len(seen) != 6 {
		t.Errorf("three members have %d addresses", len(seen))
	}
	m := c.Members[1]
	if err := m.Start(); err == nil {
		t.Error("a running member was started again")
	}
	if rss, err := c.RSS(); err != nil || rss < 1<<20 {
		t.Errorf("memory %d, %v", rss, err)
	}
	old := m.Pid()
	if err := m.Restart(within(t)); err != nil {
		t.Fatal(err)
	}
	if m.Pid() == old {
		t.Error("the process is the same after a restart")
	}
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	if m.Running() || len(c.Pids()) != 2 {
		t.Error("a killed member runs")
	}
	if err := m.Health(within(t)); err == nil {
		t.Error("a killed member is healthy")
	}
	if err := c.StartAll(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := c.StopAll(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := m.Process().Err(); err != nil {
		t.Errorf("the member did not end in an orderly way: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
}

func TestPausedMemberDoesNotStop(t *testing.T) {
	c, err := Start(within(t), memberOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m := c.Members[0]
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.Stop(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stopping a frozen member: %v", err)
	}
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(within(t)); err != nil {
		t.Error(err)
	}
}

func TestEarlyEndIsExplained(t *testing.T) {
	o := memberOptions()
	o.Env = []string{roleEnv + "=" + doomedRole}
	_, err := Start(within(t), o)
	if err == nil || !strings.Contains(err.Error(), "this member has a reason to fail") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v", err)
	}
}

// TestMembersDieWithTheirParent: nothing is left when the program that uses the cluster panics.
func TestMembersDieWithTheirParent(t *testing.T) {
	cmd := exec.CommandContext(within(t), os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+parentRole)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("the parent did not panic:\n%s", out)
	}
	f := strings.Fields(string(out))
	if len(f) < 3 || f[0] != "pid" {
		t.Fatalf("%v\n%s", err, out)
	}
	defer os.RemoveAll(f[2])
	pid, err := strconv.Atoi(f[1])
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for ctx := within(t); ; {
		// A process that ended but was not reaped (its parent is gone, init takes its time) runs no longer.
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("process %d runs on", pid)
		}
	}
}

func TestLogReaderAcrossReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("an old needle\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := openLog(path, 14)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i, part := range []string{"", "some nee", strings.Repeat("x", 100<<10) + "need", "le\n"} {
		if _, err := f.WriteString(part); err != nil {
			t.Fatal(err)
		}
		found, err := r.find([]byte("needle"))
		if err != nil || found != (i == 3) {
			t.Errorf("after part %d: %v, %v", i, found, err)
		}
	}
}

func TestCPUTime(t *testing.T) {
	before, err := CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	busy, total, err := MachineCPU()
	if err != nil || busy > total || total == 0 {
		t.Fatalf("machine: %v of %v, %v", busy, total, err)
	}
	var x uint64
	for ctx := within(t); ; {
		for i := range uint64(10_000_000) {
			x += i * x
		}
		now, err := CPUTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now > before {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("CPU time stays at %v while computing %d", now, x)
		}
	}
	if _, err := CPUTime(1 << 30); err == nil {
		t.Error("CPU time of no process")
	}
}

func TestCertificates(t *testing.T) {
	c, err := NewCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	conf, err := c.ClientConfig()
	if err != nil || len(conf.Certificates) != 1 {
		t.Fatalf("%v, %v", conf, err)
	}
	if _, err := NewCerts(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("certificates were written to a directory that is not there")
	}
}
