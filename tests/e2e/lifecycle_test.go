package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kvd-io/kvd/tests/cluster"
)

// client connects to members of a cluster for the length of a test.
func client(t *testing.T, c *cluster.Cluster, members ...*cluster.Member) *clientv3.Client {
	t.Helper()
	cli, err := c.Client(members...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cli.Close() })
	return cli
}

// fill puts n keys, some twice and some deleted, and gives what must be there: "key=value@mod" of every key.
func fill(t *testing.T, cli *clientv3.Client, p string, n int) map[string]string {
	t.Helper()
	want := map[string]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for w := range errs {
		wg.Go(func() {
			for i := w; i < n; i += len(errs) {
				key := fmt.Sprintf("%s%05d", p, i)
				for v := range 1 + i%2 {
					resp, err := cli.Put(t.Context(), key, fmt.Sprint(v))
					if err != nil {
						errs[w] = err
						return
					}
					mu.Lock()
					want[key] = fmt.Sprintf("%d@%d", v, resp.Header.Revision)
					mu.Unlock()
				}
				if i%7 == 0 {
					if _, err := cli.Delete(t.Context(), key); err != nil {
						errs[w] = err
						return
					}
					mu.Lock()
					delete(want, key)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return want
}

// expectFilled checks that exactly what fill told of is there.
func expectFilled(t *testing.T, cli *clientv3.Client, p string, want map[string]string, opts ...clientv3.OpOption) {
	t.Helper()
	got, err := cli.Get(within(t, patience), p, append(opts, clientv3.WithPrefix())...)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != len(want) {
		t.Errorf("%d keys, want %d", len(got.Kvs), len(want))
	}
	for _, kv := range got.Kvs {
		if have := fmt.Sprintf("%s@%d", kv.Value, kv.ModRevision); have != want[string(kv.Key)] {
			t.Errorf("%q is %s, want %s", kv.Key, have, want[string(kv.Key)])
		}
	}
}

// splitSome cuts a cluster of kvd into four shards; on etcd it does nothing.
func splitSome(t *testing.T, c *cluster.Cluster, p string) {
	t.Helper()
	if !binaries.kvd {
		return
	}
	e := &env{cluster: c, sharded: true}
	e.split(t, p+"00100", p+"00200", p+"00300")
}

// TestRestart: members that stop and start, one after the other and all at once, in an orderly way and killed, lose nothing; a clean
// stop does not even skip a revision; watches go on.
func TestRestart(t *testing.T) {
	c := startCluster(t, cluster.Options{Members: 3})
	cli := client(t, c)
	splitSome(t, c, "fill/")
	want := fill(t, cli, "fill/", 400)
	get := func(t *testing.T) int64 {
		t.Helper()
		waitFor(t, cli)
		got, err := cli.Get(within(t, patience), "fill/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		return got.Header.Revision
	}
	rev := get(t)
	watch := cli.Watch(within(t, 2*time.Minute), "marker", clientv3.WithRev(rev+1))
	var markers []string
	marker := func(t *testing.T, exact bool) {
		t.Helper()
		before := get(t)
		resp, err := cli.Put(within(t, patience), "marker", fmt.Sprint(len(markers)))
		if err != nil {
			t.Fatal(err)
		}
		if exact && resp.Header.Revision != rev+1 {
			t.Errorf("the first put after a clean restart has revision %d, the last before it had %d", resp.Header.Revision, rev)
		}
		if before < rev || resp.Header.Revision != before+1 {
			t.Errorf("revision %d, then %d after the restart, then a put got %d", rev, before, resp.Header.Revision)
		}
		rev = resp.Header.Revision
		markers = append(markers, fmt.Sprintf("put marker=%d@%d", len(markers), rev))
	}

	for _, m := range c.Members {
		t.Run("One/"+m.Name, func(t *testing.T) {
			if err := m.Restart(within(t, patience)); err != nil {
				t.Fatal(err)
			}
			if err := m.WaitHealthy(within(t, patience)); err != nil {
				t.Fatal(err)
			}
			marker(t, true)
			expectFilled(t, client(t, c, m), "fill/", want)
		})
	}
	t.Run("AllStopped", func(t *testing.T) {
		if err := c.StopAll(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		if err := c.StartAll(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		marker(t, true)
		for _, m := range c.Members {
			expectFilled(t, client(t, c, m), "fill/", want)
		}
	})
	t.Run("AllKilled", func(t *testing.T) {
		if err := c.KillAll(); err != nil {
			t.Fatal(err)
		}
		if err := c.StartAll(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		marker(t, false)
		for _, m := range c.Members {
			expectFilled(t, client(t, c, m), "fill/", want)
		}
	})
	t.Run("WatchWentOn", func(t *testing.T) {
		if got := collect(t, watch, len(markers)); got != strings.Join(markers, ", ") {
			t.Errorf("the watch saw\n%s, want\n%s", got, strings.Join(markers, ", "))
		}
	})
}

// TestMemberCatchesUp: a member that was away takes part again and has what was written meanwhile.
func TestMemberCatchesUp(t *testing.T) {
	c := startCluster(t, cluster.Options{Members: 3})
	away := c.Members[2]
	cli := client(t, c, c.Members[:2]...)
	first := fill(t, cli, "before/", 100)
	if err := away.Kill(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, cli)
	splitSome(t, c, "fill/")
	second := fill(t, cli, "fill/", 400)
	if err := away.Start(); err != nil {
		t.Fatal(err)
	}
	if err := away.WaitHealthy(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	back := client(t, c, away)
	expectFilled(t, back, "before/", first)
	expectFilled(t, back, "fill/", second)
	// Its own copy catches up as well.
	eventually(t, patience, func(ctx context.Context) error {
		got, err := back.Get(ctx, "fill/", clientv3.WithPrefix(), clientv3.WithSerializable(), clientv3.WithCountOnly())
		if err == nil && got.Count != int64(len(second)) {
			err = fmt.Errorf("the member's own copy has %d of %d keys", got.Count, len(second))
		}
		return err
	})
}

// TestLostMajority: with two of three members gone serializable reads work and linearizable requests fail in time; when one
// comes back, everything works.
func TestLostMajority(t *testing.T) {
	c := startCluster(t, cluster.Options{Members: 3})
	cli := client(t, c, c.Members[0])
	want := fill(t, cli, "fill/", 50)
	expectFilled(t, cli, "fill/", want)
	// A member's own copy is looked at about each second; it must have been once for all of this.
	eventually(t, patience, func(ctx context.Context) error {
		got, err := cli.Get(ctx, "fill/", clientv3.WithPrefix(), clientv3.WithSerializable(), clientv3.WithCountOnly())
		if err == nil && got.Count != int64(len(want)) {
			err = fmt.Errorf("the member's own copy has %d of %d keys", got.Count, len(want))
		}
		return err
	})
	for _, m := range c.Members[1:] {
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	got, err := cli.Get(within(t, patience), "fill/", clientv3.WithPrefix(), clientv3.WithSerializable())
	if err != nil {
		t.Errorf("serializable read: %v", err)
	} else if got.Count != int64(len(want)) {
		t.Errorf("serializable read: %d keys, want %d", got.Count, len(want))
	}
	// Without the client library, which would try reads again.
	conn, err := grpc.NewClient(c.Members[0].Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	ctx := within(t, patience)
	var wg sync.WaitGroup
	wg.Go(func() {
		// An owner may answer until its read lease has run out, which is a matter of milliseconds.
		for lease := time.Now().Add(2 * time.Second); ; {
			last := time.Now().After(lease)
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("fill/")})
			if err != nil {
				t.Logf("a read failed %v after the majority was lost: %v", time.Since(began), err)
				return
			}
			if last {
				t.Error("a linearizable read was answered")
				return
			}
		}
	})
	wg.Go(func() {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("fill/new")})
		if err == nil {
			t.Error("a put was answered")
		}
		t.Logf("a put failed %v after the majority was lost: %v", time.Since(began), err)
	})
	wg.Wait()
	if ctx.Err() != nil {
		t.Errorf("requests without a majority took more than %v", time.Since(began))
	}
	if err := c.Members[0].Health(within(t, patience)); err == nil {
		t.Error("a member without a majority calls itself healthy")
	}
	if err := c.Members[1].Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, cli)
	if _, err := cli.Put(within(t, patience), "fill/new", "x"); err != nil {
		t.Errorf("with two of three: %v", err)
	}
}

// TestPausedMember: a member that is frozen for a while (SIGSTOP) holds nobody up for long and never answers with the past.
func TestPausedMember(t *testing.T) {
	c := startCluster(t, cluster.Options{Members: 3})
	splitSome(t, c, "fill/")
	all := client(t, c)
	fill(t, all, "fill/", 400)
	status, err := all.Status(within(t, patience), c.Members[0].ClientURL)
	if err != nil {
		t.Fatal(err)
	}
	victim := c.Members[0]
	for _, m := range c.Members {
		st, err := client(t, c, m).Status(within(t, patience), m.ClientURL)
		if err != nil {
			t.Fatal(err)
		}
		if st.Header.MemberId == status.Leader {
			victim = m
		}
	}
	var others []*cluster.Member
	for _, m := range c.Members {
		if m != victim {
			others = append(others, m)
		}
	}
	cli, frozen := client(t, c, others...), client(t, c, victim)
	waitFor(t, frozen)
	if err := victim.Pause(); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		for _, key := range []string{"fill/00050", "fill/00150", "fill/00250", "fill/00350"} {
			if _, err := cli.Put(ctx, key, "while it was frozen"); err != nil {
				return err
			}
		}
		return nil
	})
	// Reads that were sent to the frozen member are answered when it wakes up, by what it finds then.
	type answer struct {
		value string
		err   error
	}
	answers := make(chan answer, 8)
	for i := range cap(answers) {
		go func() {
			got, err := frozen.Get(t.Context(), fmt.Sprintf("fill/%03d50", i%4))
			a := answer{err: err}
			if err == nil && len(got.Kvs) == 1 {
				a.value = string(got.Kvs[0].Value)
			}
			answers <- a
		}()
	}
	if err := victim.Resume(); err != nil {
		t.Fatal(err)
	}
	for range cap(answers) {
		if a := <-answers; a.err == nil && a.value != "while it was frozen" {
			t.Errorf("the member that was frozen answered with %q", a.value)
		}
	}
	waitFor(t, frozen)
}

// TestNoFlags: a member without any flags serves on etcd's own ports.
func TestNoFlags(t *testing.T) {
	for _, port := range []int{2379, 2380} {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Skipf("port %d is in use", port)
		}
		l.Close()
	}
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p, err := cluster.StartProcess(cluster.ProcessOptions{Path: binaries.server, Dir: dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Signal(os.Kill)
		<-p.Exited()
		if b, err := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%v\n%s", err, b)
		}
	})
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://127.0.0.1:2379"}, DialTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	waitFor(t, cli)
	resp, err := cli.Put(within(t, patience), "first", "put")
	if err != nil || resp.Header.Revision != 2 {
		t.Errorf("the first put of a fresh store: %v, %v", resp, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "default.etcd")); err != nil {
		t.Errorf("the data directory: %v", err)
	}
	if err := p.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Exited():
	case <-within(t, patience).Done():
		t.Error("the member did not end on SIGINT")
	}
}
