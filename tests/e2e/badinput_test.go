package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/kvd-io/kvd/tests/cluster"
)

// TestVersion: the first line is etcd's, for scripts that read it.
func TestVersion(t *testing.T) {
	out, err := run(t, binaries.server, "--version")
	if err != nil || !strings.HasPrefix(out, "etcd Version: 3.7.") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestRefusedSettings: settings that cannot be meant end the process with an error that names them, and no goroutine trace.
func TestRefusedSettings(t *testing.T) {
	for _, c := range []struct {
		name  string
		args  []string
		wants []string // each must be in the output
	}{
		{"UnknownFlag", []string{"--no-such-flag=1"}, []string{"no-such-flag"}},
		{"ClientURLWithoutScheme", []string{"--listen-client-urls=127.0.0.1:2379"}, []string{"listen-client-urls"}},
		{"ClientURLWithoutPort", []string{"--listen-client-urls=http://127.0.0.1"}, []string{"127.0.0.1"}},
		{"ClientURLIsNone", []string{"--listen-client-urls=http://%zz:1"}, []string{"listen-client-urls"}},
		{"PeerURLWithPath", []string{"--listen-peer-urls=http://127.0.0.1:2380/path"}, []string{"path"}},
		{"AdvertisedURLWithoutHost", []string{"--advertise-client-urls=http://:2379:1"}, []string{"advertise-client-urls"}},
		{"NotANumber", []string{"--heartbeat-interval=soon"}, []string{"heartbeat-interval", "soon"}},
		{"ElectionShorterThanHeartbeat", []string{"--heartbeat-interval=1000", "--election-timeout=1000"}, []string{"election-timeout"}},
		{"NameNotInCluster", []string{"--name=one", "--initial-cluster=two=http://127.0.0.1:2380"}, []string{"one"}},
		{"UnknownClusterState", []string{"--initial-cluster-state=odd"}, []string{"odd"}},
		{"MissingCertificate", []string{"--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://127.0.0.1:2379", "--cert-file=/nonexistent/cert", "--key-file=/nonexistent/key"}, []string{"/nonexistent/"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			log, err := os.Create(filepath.Join(dir, "log"))
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			p, err := cluster.StartProcess(cluster.ProcessOptions{Path: binaries.server, Args: append(c.args, "--data-dir="+filepath.Join(dir, "data")), Dir: dir, Log: log})
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-p.Exited():
			case <-within(t, patience).Done():
				p.Signal(os.Kill)
				<-p.Exited()
				t.Error("it did not end by itself")
			}
			b, err := os.ReadFile(log.Name())
			if err != nil {
				t.Fatal(err)
			}
			out := string(b)
			if p.Err() == nil {
				t.Errorf("it ended without an error:\n%s", out)
			}
			for _, want := range c.wants {
				if !strings.Contains(out, want) {
					t.Errorf("the output does not name %q:\n%s", want, out)
				}
			}
			if strings.Contains(out, "goroutine ") && binaries.kvd {
				t.Errorf("a goroutine trace:\n%s", out)
			}
		})
	}
}

// TestWrongToken: a member of another cluster (by its token) is not let in, says why, and does not harm the others.
func TestWrongToken(t *testing.T) {
	c := newCluster(t, cluster.Options{Members: 3})
	stray := c.Members[2]
	stray.SetArgs("--initial-cluster-token=another")
	for _, m := range c.Members {
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range c.Members[:2] {
		if err := m.WaitHealthy(within(t, patience)); err != nil {
			t.Fatal(err)
		}
	}
	if err := stray.WaitLog(within(t, patience), "cluster ID mismatch"); err != nil {
		t.Error(err)
	}
	if err := stray.Health(within(t, 5*time.Second)); err == nil {
		t.Error("the stray member calls itself healthy")
	}
	cli := client(t, c, c.Members[:2]...)
	if _, err := cli.Put(within(t, patience), "k", "v"); err != nil {
		t.Errorf("with two members: %v", err)
	}
}

// refusesToStart waits until a member has ended by itself, with an error that holds the texts.
func refusesToStart(t *testing.T, m *cluster.Member, wants ...string) {
	t.Helper()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.Process().Exited():
	case <-within(t, patience).Done():
		t.Fatalf("it runs on; end of its log:\n%s", m.LogTail(4096))
	}
	if m.Process().Err() == nil {
		t.Errorf("it ended without an error:\n%s", m.LogTail(4096))
	}
	log := strings.ToLower(m.LogTail(16 << 10))
	for _, want := range wants {
		if !strings.Contains(log, strings.ToLower(want)) {
			t.Errorf("its log does not say %q:\n%s", want, log)
		}
	}
}

// TestForeignDirectory: a directory that belongs to another cluster, to another member, to etcd or to nobody knows whom is left alone.
func TestForeignDirectory(t *testing.T) {
	onlyKvd(t)
	mine := startCluster(t, cluster.Options{})
	cli := client(t, mine)
	if _, err := cli.Put(within(t, patience), "k", "v"); err != nil {
		t.Fatal(err)
	}
	m := mine.Members[0]
	if err := m.Stop(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	t.Run("AnotherMember", func(t *testing.T) {
		other := newCluster(t, cluster.Options{Members: 2})
		o := other.Members[1]
		o.SetArgs("--data-dir=" + m.DataDir)
		refusesToStart(t, o, m.DataDir)
	})
	m.SetArgs()
	for name, file := range map[string]string{"Etcds": "member/snap/db", "Unknown": "some/file"} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, cluster.Options{})
			o := c.Members[0]
			path := filepath.Join(o.DataDir, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("not kvd's"), 0o600); err != nil {
				t.Fatal(err)
			}
			refusesToStart(t, o, o.DataDir)
			if b, err := os.ReadFile(path); err != nil || string(b) != "not kvd's" {
				t.Errorf("the foreign file was touched: %q, %v", b, err)
			}
		})
	}
	// After all that the owner finds its data.
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	if err := m.WaitHealthy(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	got, err := cli.Get(within(t, patience), "k")
	if err != nil || len(got.Kvs) != 1 {
		t.Errorf("after refusals: %v, %v", got, err)
	}
}

// TestDirectoryInUse: a second process on the same directory is refused and the first goes on.
func TestDirectoryInUse(t *testing.T) {
	onlyKvd(t)
	first := startCluster(t, cluster.Options{Token: "same"})
	second := newCluster(t, cluster.Options{Token: "same"})
	m := second.Members[0]
	m.SetArgs("--data-dir=" + first.Members[0].DataDir)
	refusesToStart(t, m, first.Members[0].DataDir, "in use")
	if _, err := client(t, first).Put(within(t, patience), "k", "v"); err != nil {
		t.Error(err)
	}
}

// TestEnvironmentAndRepeatedFlags: flags may come from ETCD_ variables, a repeated flag counts the last time, and both ways to write one work.
func TestEnvironmentAndRepeatedFlags(t *testing.T) {
	c := newCluster(t, cluster.Options{
		Env:  []string{"ETCD_MAX_TXN_OPS=3"},
		Args: []string{"--max-request-bytes=100000", "--max-request-bytes", "2000000", "--log-level=info", "--pre-vote", "--strict-reconfig-check=false"},
	})
	if err := c.StartAll(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	cli := client(t, c)
	if _, err := cli.Put(within(t, patience), "k", strings.Repeat("v", 1900000)); err != nil {
		t.Errorf("the repeated flag did not count the last time: %v", err)
	}
	e := &env{cluster: c, cli: cli}
	_, err := e.kv().Txn(within(t, patience), &pb.TxnRequest{Success: many(4, func(i int) *pb.RequestOp { return opPut(fmt.Sprint(i), "v") })})
	wantStatus(t, "four operations, three allowed by the environment", err, rpctypes.ErrGRPCTooManyOps)
}
