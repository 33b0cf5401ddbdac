package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// TestShardCommands: kvctl shows and splits shards, and refuses what cannot be split.
func TestShardCommands(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 3})
	e := &env{cluster: c, cli: client(t, c), sharded: true}
	list := func() []map[string]any {
		t.Helper()
		out, err := e.kvctl(t, "shard", "list", "-w", "json")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var l []map[string]any
		if err := json.Unmarshal([]byte(out), &l); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return l
	}
	before := list()
	if len(before) != 1 || before[0]["id"] == nil {
		t.Fatalf("a fresh cluster has shards %v", before)
	}
	for i := range 100 {
		e.put(t, fmt.Sprintf("k%02d", i), "v")
	}
	rev := e.revision(t)
	e.split(t, "k50", "k25", "\x00\xffodd")
	after := list()
	if len(after) != 4 {
		t.Errorf("after three splits there are %d shards: %v", len(after), after)
	}
	ids := map[string]bool{}
	for _, s := range after {
		ids[fmt.Sprint(s["id"])] = true
	}
	if len(ids) != 4 {
		t.Errorf("ids %v", ids)
	}
	table, err := e.kvctl(t, "shard", "list", "-w", "table")
	if err != nil || !strings.Contains(table, "k25") || !strings.Contains(table, `\x00\xffodd`) {
		t.Errorf("the table (%v) does not show the bounds, quoted where they are not printable:\n%s", err, table)
	}
	for id := range ids {
		out, err := e.kvctl(t, "shard", "show", id, "-w", "json")
		if err != nil || !strings.Contains(out, `"id"`) {
			t.Errorf("show %s: %v\n%s", id, err, out)
		}
	}
	for name, args := range map[string][]string{
		"split at a bound":    {"shard", "split", "k50"},
		"split at no key":     {"shard", "split", ""},
		"split without a key": {"shard", "split"},
		"show of no shard":    {"shard", "show", "999999"},
		"show of no number":   {"shard", "show", "odd"},
	} {
		if out, err := e.kvctl(t, args...); err == nil || strings.Contains(out, "goroutine ") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	if n := len(list()); n != 4 {
		t.Errorf("after refused splits there are %d shards", n)
	}
	got := e.get(t, "k", clientv3.WithPrefix())
	if got.Count != 100 || got.Header.Revision != rev {
		t.Errorf("after the splits: %d keys at revision %d, were 100 at %d", got.Count, got.Header.Revision, rev)
	}
	// kvctl is etcdctl as well.
	if out, err := e.kvctl(t, "get", "k07", "--print-value-only"); err != nil || out != "v\n" {
		t.Errorf("kvctl get: %v\n%s", err, out)
	}
}

// TestSplitUnderLoad: while shards are split again and again no request fails, no revision is skipped, and a watch over all of it sees
// every event once, in order. Afterwards a restart of all members finds everything.
func TestSplitUnderLoad(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 3})
	e := &env{cluster: c, cli: client(t, c), sharded: true}
	const p = "load/"
	start := e.revision(t) + 1
	watch := e.cli.Watch(within(t, 2*time.Minute), p, clientv3.WithPrefix(), clientv3.WithRev(start))
	stop := make(chan struct{})
	var mu sync.Mutex
	acked := map[int64]string{}
	var wg sync.WaitGroup
	errs := make([]error, 12)
	for n := range errs {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("%s%03d", p, (i*37+n*101)%1000)
				resp, err := e.cli.Put(t.Context(), key, fmt.Sprint(n, "-", i))
				if err != nil {
					errs[n] = fmt.Errorf("put %s: %w", key, err)
					return
				}
				mu.Lock()
				acked[resp.Header.Revision] = key
				mu.Unlock()
				if i%5 == 0 {
					got, err := e.cli.Get(t.Context(), p, clientv3.WithPrefix(), clientv3.WithCountOnly())
					if err != nil || got.Header.Revision < resp.Header.Revision {
						errs[n] = fmt.Errorf("count after revision %d: %v, %w", resp.Header.Revision, got, err)
						return
					}
				}
			}
		})
	}
	for _, at := range []int{500, 250, 750, 125, 375, 625, 875, 62, 937} {
		e.split(t, fmt.Sprintf("%s%03d", p, at))
	}
	close(stop)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	next := start
	for next < start+int64(len(acked)) {
		resp, ok := <-watch
		if !ok || resp.Err() != nil {
			t.Fatalf("the watch ended at %d: %v", next, resp.Err())
		}
		for _, ev := range resp.Events {
			if ev.Kv.ModRevision != next || acked[next] != string(ev.Kv.Key) {
				t.Fatalf("revision %d of %q came; %d, put of %q, was next", ev.Kv.ModRevision, ev.Kv.Key, next, acked[next])
			}
			next++
		}
	}
	want := e.get(t, p, clientv3.WithPrefix())
	if err := c.KillAll(); err != nil {
		t.Fatal(err)
	}
	if err := c.StartAll(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, e.cli)
	if got := e.get(t, p, clientv3.WithPrefix()); fmt.Sprint(got.Kvs) != fmt.Sprint(want.Kvs) {
		t.Errorf("after all were killed: %d keys, were %d", len(got.Kvs), len(want.Kvs))
	}
}
