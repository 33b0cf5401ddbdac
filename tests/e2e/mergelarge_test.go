package e2e

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/kvd-io/kvd/tests/cluster"
)

// What TestMergeLarge merges: go test ./tests/e2e -run TestMergeLarge -v -args -merge-mib=60 -merge-leases=5000.
var (
	mergeMiB    = flag.Int("merge-mib", 4, "MiB of values in the shard that TestMergeLarge merges away")
	mergeLeases = flag.Int("merge-leases", 300, "leases with a key in that shard")
)

// TestMergeLarge: a shard with much data and many leases is merged away while it is in use. All of it is there afterwards, clients have noticed
// nothing but latency, and the leases still take their keys along.
func TestMergeLarge(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 3})
	e := &env{cluster: c, cli: client(t, c), sharded: true}
	e.split(t, "large/")
	const valueBytes = 64 << 10
	values := *mergeMiB << 20 / valueBytes
	sideBySide(t, values, func(ctx context.Context, i int) error {
		_, err := e.cli.Put(ctx, fmt.Sprintf("large/data/%05d", i), noise(valueBytes+i))
		return err
	})
	leases := make([]clientv3.LeaseID, *mergeLeases)
	sideBySide(t, len(leases), func(ctx context.Context, i int) error {
		lease, err := e.cli.Grant(ctx, 3600)
		if err != nil {
			return err
		}
		leases[i] = lease.ID
		_, err = e.cli.Put(ctx, fmt.Sprintf("large/lease/%05d", i), "v", clientv3.WithLease(lease.ID))
		return err
	})

	load := startSteady(t, e.cli, 2)
	await(t, time.Second)
	quiet := load.lap()
	began := time.Now()
	e.merge(t, e.holding(t, "large/", -1))
	took := time.Since(began)
	merged := load.lap()
	load.finish()
	t.Logf("quiet: %s", quiet)
	t.Logf("%d MiB and %d leases merged in %v: %s", *mergeMiB, len(leases), took.Round(time.Millisecond), merged)

	count := func(prefix string) int64 {
		return e.get(t, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly()).Count
	}
	if n := count("large/data/"); n != int64(values) {
		t.Errorf("%d values after the merge, want %d", n, values)
	}
	for i := 0; i < values; i += 1 + values/10 {
		key := fmt.Sprintf("large/data/%05d", i)
		if got := e.get(t, key); got.Count != 1 || string(got.Kvs[0].Value) != noise(valueBytes+i) {
			t.Errorf("%s is not what it was", key)
		}
	}
	all, err := e.cli.Leases(within(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Leases) != len(leases) {
		t.Errorf("%d leases after the merge, want %d", len(all.Leases), len(leases))
	}
	revoked := len(leases) / 10
	sideBySide(t, revoked, func(ctx context.Context, i int) error {
		_, err := e.cli.Revoke(ctx, leases[i])
		return err
	})
	if n := count("large/lease/"); n != int64(len(leases)-revoked) {
		t.Errorf("%d keys of leases, want %d of %d", n, len(leases)-revoked, len(leases))
	}
}

// sideBySide calls f for each number below n, several at a time.
func sideBySide(t *testing.T, n int, f func(ctx context.Context, i int) error) {
	t.Helper()
	calls, ctx := errgroup.WithContext(within(t, 5*time.Minute))
	calls.SetLimit(16)
	for i := range n {
		calls.Go(func() error { return f(ctx, i) })
	}
	if err := calls.Wait(); err != nil {
		t.Fatal(err)
	}
}
