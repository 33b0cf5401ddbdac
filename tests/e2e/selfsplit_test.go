package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// TestClusterSplitsItself: a shard that grows beyond the setting is split by the cluster alone, while it
// is in use.
func TestClusterSplitsItself(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 3, Args: unhurried("--memtable-bytes=4194304")})
	e := &env{cluster: c, cli: client(t, c), sharded: true}
	for i := range steadyKeys {
		e.put(t, steadyKey(i), "v")
	}
	if out := e.must(t, "shard", "rebalance"); !strings.Contains(out, "nothing to do") {
		t.Errorf("a cluster at rest decided:\n%s", out)
	}
	e.must(t, "cluster", "settings", "set", "split-bytes", "1MiB")
	load := startSteady(t, e.cli, 2)
	const keys = 640
	rng := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, 16<<10)
	for i := range keys {
		for j := range value {
			value[j] = byte(rng.Uint32())
		}
		e.put(t, fmt.Sprintf("big/%04d", i), string(value))
	}
	eventually(t, 2*time.Minute, func(context.Context) error {
		// It happens by itself too; this only spares the wait.
		e.must(t, "shard", "rebalance")
		if n := len(e.shards(t)); n < 2 {
			return fmt.Errorf("%d shards", n)
		}
		return nil
	})
	e.must(t, "cluster", "settings", "set", "split-by-size", "off")
	load.finish()
	if got := e.get(t, "big/", clientv3.WithPrefix(), clientv3.WithCountOnly()); got.Count != keys {
		t.Errorf("%d of %d keys are left", got.Count, keys)
	}
	e.settled(t, 3)
}
