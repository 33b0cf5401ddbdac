package e2e

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// merges is how many merges TestMergeUnderLoad makes: go test ./tests/e2e -run TestMergeUnderLoad -args -merges=50.
var merges = flag.Int("merges", 6, "merges under load")

// TestMergeUnderLoad: shards are split and merged again and again, and clients notice nothing but latency: not those that write, read and
// count, nor those that write two shards in one transaction, nor watches, nor leases. Old revisions read as before. Then members are killed
// amid merges.
func TestMergeUnderLoad(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 3})
	e := &env{cluster: c, cli: client(t, c), sharded: true}
	for i := range steadyKeys {
		e.put(t, steadyKey(i), strings.Repeat("x", 100))
	}
	old := e.revision(t)

	// A lease with keys in what will be both shards, kept alive throughout.
	lease, err := e.cli.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	alive, err := e.cli.KeepAlive(t.Context(), lease.ID)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range alive {
		}
	}()
	for _, key := range []string{"lease/a", "steady/leased", "zz/leased"} {
		if _, err := e.cli.Put(t.Context(), key, "v", clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
	}

	load := startSteady(t, e.cli, 4)
	pairs := startPairs(t, e.cli)
	await(t, time.Second)
	quiet := load.lap()
	for i := range *merges {
		key := steadyKey(100 + i*137%800)
		e.split(t, key)
		e.merge(t, e.holding(t, key, -1))
		if n := len(e.shards(t)); n != 1 {
			t.Fatalf("after merge %d there are %d shards", i, n)
		}
	}
	merged := load.lap()

	// Three shards become one from the left, and from the right.
	e.split(t, steadyKey(300), steadyKey(600))
	e.merge(t, e.shards(t)[0].ID)
	e.merge(t, e.shards(t)[0].ID)
	e.split(t, steadyKey(300), steadyKey(600))
	e.merge(t, e.shards(t)[1].ID)
	e.merge(t, e.shards(t)[0].ID)

	pairs.finish()
	load.finish()
	t.Logf("quiet: %s", quiet)
	t.Logf("%d splits and merges: %s", *merges, merged)

	// What was there before is there at its revision.
	got := e.get(t, steadyPrefix, clientv3.WithPrefix(), clientv3.WithRev(old))
	if got.Count != steadyKeys || string(got.Kvs[7].Value) != strings.Repeat("x", 100) {
		t.Errorf("at revision %d there were %d keys, now %d", old, steadyKeys, got.Count)
	}
	ctx := within(t, patience)
	events, last := 0, int64(0)
	for resp := range e.cli.Watch(ctx, steadyPrefix, clientv3.WithPrefix(), clientv3.WithRev(old-steadyKeys+1)) {
		if resp.Err() != nil {
			t.Fatal(resp.Err())
		}
		for _, ev := range resp.Events {
			if ev.Kv.ModRevision <= last {
				t.Fatalf("revision %d after %d", ev.Kv.ModRevision, last)
			}
			last = ev.Kv.ModRevision
			if last <= old {
				events++
			}
		}
		if last > old {
			break
		}
	}
	if events != steadyKeys {
		t.Errorf("%d events up to revision %d, want %d", events, old, steadyKeys)
	}

	// The lease lives, with its keys; revoked, it takes all of them along.
	select {
	case <-ended:
		t.Error("the lease was not kept alive")
	default:
	}
	ttl, err := e.cli.TimeToLive(t.Context(), lease.ID, clientv3.WithAttachedKeys())
	if err != nil || ttl.TTL < 1 || len(ttl.Keys) != 3 {
		t.Errorf("the lease after the merges: %+v, %v", ttl, err)
	}
	if _, err := e.cli.Revoke(t.Context(), lease.ID); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"lease/a", "steady/leased", "zz/leased"} {
		if e.get(t, key).Count != 0 {
			t.Errorf("%s outlived its lease", key)
		}
	}

	e.refused(t, "it has no right neighbour", "shard", "merge", fmt.Sprint(e.shards(t)[0].ID))
	e.refused(t, "no shard 999", "shard", "merge", "999")
	e.split(t, steadyKey(500))
	e.refused(t, "is shard", "shard", "merge", fmt.Sprint(e.shards(t)[0].ID), "999")
	e.refused(t, "nothing is under way", "shard", "cancel", fmt.Sprint(e.shards(t)[0].ID))
}

// TestMergeSurvivesKills: a member is killed right after a merge has begun, and the merge goes on or is given up, without a write lost.
func TestMergeSurvivesKills(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 3})
	e := &env{cluster: c, cli: client(t, c), sharded: true}
	want := map[string]string{}
	for i := range 200 {
		key := fmt.Sprintf("kill/%03d", i)
		want[key] = fmt.Sprint(i)
		e.put(t, key, want[key])
	}
	for round := range 3 {
		key := fmt.Sprintf("kill/%03d", 50+round*50)
		e.split(t, key)
		shards := e.settled(t, 3)
		// The owner of both, most often, and whoever else it is.
		victim := member(c, shards[round%2].Owner.Name)
		eventually(t, time.Minute, func(context.Context) error {
			out, err := e.kvctl(t, "shard", "merge", "--no-wait", fmt.Sprint(shards[0].ID))
			if err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
			return nil
		})
		await(t, time.Duration(round)*15*time.Millisecond)
		if err := victim.Kill(); err != nil {
			t.Fatal(err)
		}
		for k := range want {
			v := fmt.Sprint(round, k)
			eventually(t, time.Minute, func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				_, err := e.cli.Put(ctx, k, v)
				return err
			})
			want[k] = v
		}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		if err := victim.WaitHealthy(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		all := e.settled(t, 3)
		if len(all) > 1 {
			// It was given up, which is allowed; it can be begun again.
			e.merge(t, all[0].ID)
		}
		for k, v := range want {
			if got := e.get(t, k); got.Count != 1 || string(got.Kvs[0].Value) != v {
				t.Fatalf("%s after round %d: %v, want %s", k, round, got.Kvs, v)
			}
		}
		if n := e.get(t, "kill/", clientv3.WithPrefix(), clientv3.WithCountOnly()).Count; n != int64(len(want)) {
			t.Fatalf("%d keys, want %d", n, len(want))
		}
	}
}

// merge merges a shard with its right neighbour. It is tried again where it was refused because a split is not done on every member, where it was
// given up because it would have held requests up for long, as a disk that stalls makes it, and where kvctl did not wait long enough.
func (e *env) merge(t *testing.T, left uint64) {
	t.Helper()
	all := e.shards(t)
	i := slices.IndexFunc(all, func(s shardJSON) bool { return s.ID == left })
	if i < 0 || i+1 == len(all) {
		t.Fatalf("shard %d has no right neighbour: %+v", left, all)
	}
	right := all[i+1].ID
	eventually(t, 3*time.Minute, func(context.Context) error {
		out, err := e.kvctl(t, "shard", "merge", fmt.Sprint(left), fmt.Sprint(right))
		gone := !slices.ContainsFunc(e.shards(t), func(s shardJSON) bool { return s.ID == right })
		switch {
		case err == nil && (!gone || !strings.Contains(out, fmt.Sprint(left))):
			t.Fatalf("shard %d was merged into shard %d, it is said, and gone is %v:\n%s", right, left, gone, out)
		case !gone:
			return fmt.Errorf("shard %d was not merged into shard %d: %w\n%s", right, left, err, out)
		}
		return nil
	})
}

// holding is the shard that ends (side -1) or begins at a key.
func (e *env) holding(t *testing.T, key string, side int) uint64 {
	t.Helper()
	all := e.shards(t)
	for i := range all[1:] {
		if all[i+1].Start == key {
			if side < 0 {
				return all[i].ID
			}
			return all[i+1].ID
		}
	}
	t.Fatalf("no shard begins at %s: %+v", key, all)
	return 0
}

// pairs writes two keys, left and right of all that is split, in one transaction each time, and reads them back together.
type pairs struct {
	t    *testing.T
	stop chan struct{}
	done chan error
}

func startPairs(t *testing.T, cli *clientv3.Client) *pairs {
	p := &pairs{t: t, stop: make(chan struct{}), done: make(chan error, 1)}
	go func() { p.done <- p.work(cli) }()
	return p
}

func (p *pairs) work(cli *clientv3.Client) error {
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for i := 0; ; i++ {
		select {
		case <-p.stop:
			return nil
		case <-pace.C:
		}
		v := fmt.Sprint(i)
		if _, err := cli.Txn(p.t.Context()).Then(clientv3.OpPut("pair/left", v), clientv3.OpPut("steady~/right", v)).Commit(); err != nil {
			return fmt.Errorf("transaction %d: %w", i, err)
		}
		got, err := cli.Txn(p.t.Context()).Then(clientv3.OpGet("pair/left"), clientv3.OpGet("steady~/right")).Commit()
		if err != nil {
			return fmt.Errorf("read %d: %w", i, err)
		}
		left, right := got.Responses[0].GetResponseRange().Kvs, got.Responses[1].GetResponseRange().Kvs
		if len(left) != 1 || len(right) != 1 || string(left[0].Value) != v || string(right[0].Value) != v || left[0].ModRevision != right[0].ModRevision {
			return fmt.Errorf("after transaction %d: %v and %v", i, left, right)
		}
	}
}

func (p *pairs) finish() {
	p.t.Helper()
	close(p.stop)
	if err := <-p.done; err != nil {
		p.t.Fatal(err)
	}
}
