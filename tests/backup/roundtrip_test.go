package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
)

// keys is how many keys the round trip has, unless KVD_BACKUP_KEYS says otherwise.
const keys = 4000

const (
	batch    = 100
	patience = 18 * time.Minute
)

// bin builds a program, unless an environment variable names one.
func bin(t *testing.T, variable, path string) string {
	t.Helper()
	if given := os.Getenv(variable); given != "" {
		return given
	}
	out := filepath.Join(t.TempDir(), filepath.Base(path))
	build := exec.Command("go", "build", "-buildvcs=false", "-o", out, path)
	if strings.HasPrefix(path, "github.com/kvd-io/kvd/") {
		// kvd's own module names what its programs are built of.
		build.Dir = "../.."
	}
	b, err := build.CombinedOutput()
	require.NoError(t, err, "%s", b)
	return out
}

func run(t *testing.T, path string, args ...string) string {
	t.Helper()
	return runWith(t, "", path, args...)
}

// runWith runs a program that reads input.
func runWith(t *testing.T, input, path string, args ...string) string {
	t.Helper()
	var errs bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &errs
	out, err := cmd.Output()
	require.NoError(t, err, "%s %v\n%s\n%s", path, args, out, &errs)
	return string(out)
}

// refused runs a program that must fail, and returns what it says.
func refused(t *testing.T, path string, args ...string) string {
	t.Helper()
	out, err := exec.Command(path, args...).CombinedOutput()
	require.Error(t, err, "%s %v\n%s", path, args, out)
	return string(out)
}

type status struct {
	Hash     uint32 `json:"hash"`
	Revision int64  `json:"revision"`
	TotalKey int    `json:"totalKey"`
}

func statusOf(t *testing.T, tool, file string) (s status) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(run(t, tool, "snapshot", "status", file, "-w", "json")), &s))
	return s
}

// load writes n keys, some of them twice, some deleted, in transactions over all shards.
func load(ctx context.Context, t *testing.T, c *clientv3.Client, n, from int) (revision int64) {
	t.Helper()
	for at := 0; at < n; at += batch {
		var ops []clientv3.Op
		for i := at; i < min(at+batch, n); i++ {
			// Neighbours lie in different shards.
			key := fmt.Sprintf("key/%06d", (from+i)*7919%n)
			if (from+i)%11 == 3 {
				ops = append(ops, clientv3.OpDelete(key))
			} else {
				ops = append(ops, clientv3.OpPut(key, strings.Repeat("v", 50+i%200)+strconv.Itoa(from)))
			}
		}
		resp, err := c.Txn(ctx).Then(ops...).Commit()
		require.NoError(t, err)
		revision = resp.Header.Revision
	}
	return revision
}

// dump reads all keys at a revision, a page at a time: large ones, because etcd counts all that is left for each.
func dump(ctx context.Context, c *clientv3.Client, rev int64) ([]*mvccpb.KeyValue, error) {
	var all []*mvccpb.KeyValue
	for from := "\x00"; ; {
		resp, err := c.Get(ctx, from, clientv3.WithFromKey(), clientv3.WithRev(rev), clientv3.WithLimit(20_000))
		if err != nil {
			return nil, fmt.Errorf("at revision %d: %w", rev, err)
		}
		all = append(all, resp.Kvs...)
		if !resp.More {
			return all, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func requireSame(ctx context.Context, t *testing.T, want, got *clientv3.Client, from, to int64) {
	t.Helper()
	for i := range int64(11) {
		rev := from + (to-from)*i/10
		var a, b []*mvccpb.KeyValue
		var read errgroup.Group
		read.Go(func() (err error) {
			a, err = dump(ctx, want, rev)
			return err
		})
		read.Go(func() (err error) {
			b, err = dump(ctx, got, rev)
			return err
		})
		require.NoError(t, read.Wait())
		require.Len(t, b, len(a), "keys at revision %d", rev)
		for j := range a {
			if !proto.Equal(a[j], b[j]) {
				t.Fatalf("revision %d: want %v, got %v", rev, a[j], b[j])
			}
		}
	}
}

func initial(c *cluster.Cluster) string {
	var parts []string
	for _, m := range c.Members {
		parts = append(parts, m.Name+"="+m.PeerURL)
	}
	return strings.Join(parts, ",")
}

func client(t *testing.T, c *cluster.Cluster, members ...*cluster.Member) *clientv3.Client {
	t.Helper()
	cl, err := c.Client(members...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cl.Close() })
	return cl
}

// TestRoundTrip takes a store from kvd over etcd to kvd, with leases, users and roles. It is saved over TLS and with auth on, while one of
// three members is down, while writes go on and while shards are split.
func TestRoundTrip(t *testing.T) {
	n := keys
	if s := os.Getenv("KVD_BACKUP_KEYS"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	kvd := bin(t, "KVD_TEST_BIN", "github.com/kvd-io/kvd/cmd/kvd")
	kvctl := bin(t, "KVD_TEST_KVCTL", "github.com/kvd-io/kvd/cmd/kvctl")
	etcd := bin(t, "KVD_TEST_ETCD", "go.etcd.io/etcd/server/v3")
	etcdctl := bin(t, "KVD_TEST_ETCDCTL", "go.etcd.io/etcd/etcdctl/v3")
	etcdutl := bin(t, "KVD_TEST_ETCDUTL", "go.etcd.io/etcd/etcdutl/v3")
	dir := t.TempDir()

	certs, err := cluster.NewCerts(t.TempDir())
	require.NoError(t, err)
	first, err := cluster.Start(ctx, cluster.Options{Binary: kvd, Members: 3, ClientTLS: certs, PeerTLS: certs})
	require.NoError(t, err)
	defer first.Close()
	m1 := first.Members[0]
	tls := []string{"--endpoints", m1.ClientURL, "--cacert", certs.CA, "--cert", certs.ClientCert, "--key", certs.ClientKey}
	// Logging in takes as long as --dial-timeout says.
	asRoot := []string{"--dial-timeout", "1m", "--user", root, "--password", rootPassword}
	asAlice := []string{"--dial-timeout", "1m", "--user", alice + ":" + alicePassword}
	c1 := client(t, first, m1)
	split := func(i int) {
		run(t, kvctl, slices.Concat(tls, []string{"shard", "split", fmt.Sprintf("key/%06d", i)})...)
	}
	load(ctx, t, c1, n, 0)
	for i := 1; i < 5; i++ {
		split(i * n / 5)
	}
	compacted := load(ctx, t, c1, n, 5)
	_, err = c1.Compact(ctx, compacted)
	require.NoError(t, err)
	low := load(ctx, t, c1, n, 17)
	makeUsers(ctx, t, c1)
	c1 = as(t, first, root, rootPassword, m1)
	makeLeases(ctx, t, c1, n)
	file1 := filepath.Join(dir, "kvd.db")
	save := []string{"snapshot", "save", file1}
	notRoot := refused(t, kvctl, slices.Concat(tls, asAlice, save)...)
	require.NoFileExists(t, file1)

	// Writes, splits and a lost member beside the save.
	require.NoError(t, first.Members[2].Kill())
	stop := make(chan struct{})
	var busy sync.WaitGroup
	busy.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			// A write may fail while the lost member's shards find other owners.
			_, _ = c1.Put(ctx, fmt.Sprintf("busy/%03d", i%500), strconv.Itoa(i))
		}
	})
	busy.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		// Not every one can end while a member is down.
		_ = exec.CommandContext(ctx, kvctl, slices.Concat(tls, asRoot, []string{"shard", "split", fmt.Sprintf("key/%06d", n/10)})...).Run()
	})
	run(t, etcdctl, slices.Concat(tls, asRoot, save)...)
	close(stop)
	busy.Wait()
	want := besideOf(ctx, t, c1)
	require.Len(t, want.Granted, 4)
	require.Len(t, want.Keys[otherLease], 16)
	st := statusOf(t, etcdutl, file1)
	require.Equal(t, st, statusOf(t, kvctl, file1))
	require.GreaterOrEqual(t, st.Revision, low)
	t.Logf("saved revision %d with %d keys, compacted at %d", st.Revision, st.TotalKey, compacted)

	second, err := cluster.New(cluster.Options{Binary: etcd})
	require.NoError(t, err)
	defer second.Close()
	e := second.Members[0]
	run(t, etcdutl, "snapshot", "restore", file1, "--name", e.Name, "--data-dir", e.DataDir,
		"--initial-cluster", initial(second), "--initial-advertise-peer-urls", e.PeerURL)
	require.NoError(t, second.StartAll(ctx))
	c2 := as(t, second, root, rootPassword)
	keepAlive(ctx, t, c2)
	require.Equal(t, want, besideOf(ctx, t, c2))
	requireLogins(ctx, t, second, n)
	requireSame(ctx, t, c1, c2, compacted, st.Revision)
	_, err = c2.Get(ctx, "key/", clientv3.WithRev(compacted-1))
	require.ErrorContains(t, err, "compacted")
	file2 := filepath.Join(dir, "etcd.db")
	save = []string{"--endpoints", e.ClientURL, "snapshot", "save", file2}
	require.Equal(t, notRoot, refused(t, kvctl, slices.Concat(asAlice, save)...), "kvd refuses as etcd does")
	require.Contains(t, runWith(t, rootPassword+"\n", kvctl, slices.Concat([]string{"--dial-timeout", "1m", "--user", root}, save)...), "Password: ")

	third, err := cluster.New(cluster.Options{Binary: kvd, Members: 3})
	require.NoError(t, err)
	defer third.Close()
	for _, m := range third.Members {
		run(t, kvctl, "snapshot", "restore", file2, "--name", m.Name, "--data-dir", m.DataDir, "--initial-cluster", initial(third),
			"--initial-advertise-peer-urls", m.PeerURL, "--shard-bytes", strconv.Itoa(n*100))
	}
	require.NoError(t, third.StartAll(ctx))
	c3 := as(t, third, root, rootPassword)
	letGo := keepAlive(ctx, t, c3)
	require.Equal(t, want, besideOf(ctx, t, c3))
	requireLogins(ctx, t, third, n)
	requireSame(ctx, t, c2, c3, compacted, st.Revision)
	_, err = c3.Get(ctx, "key/", clientv3.WithRev(compacted-1))
	require.ErrorContains(t, err, "compacted")
	shards := run(t, kvctl, slices.Concat(asRoot, []string{"--endpoints", third.Members[0].ClientURL, "shard", "list"})...)
	require.Greater(t, strings.Count(shards, "\n"), 3, shards)
	put, err := c3.Put(ctx, "after", "1")
	require.NoError(t, err)
	require.Equal(t, st.Revision+1, put.Header.Revision)

	// Everything is still there after all members were killed: what a restore made is durable, and is not seeded twice.
	require.NoError(t, third.KillAll())
	require.NoError(t, third.StartAll(ctx))
	c3 = as(t, third, root, rootPassword)
	requireSame(ctx, t, c2, c3, compacted, st.Revision)
	letGo()
	requireExpiry(ctx, t, c3, n, want)
}
