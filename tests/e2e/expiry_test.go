package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
	"github.com/kvd-io/kvd/tests/expiry"
)

// TestManyLeases: keep-alives of many leases cost no raft write, and when all of them end at once none ends early, and
// the last is not much late. How long other writes take meanwhile is for a quiet machine: make bench-leases.
func TestManyLeases(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 3, Args: unhurried("--initial-split-keys=expiry/lease/000250,expiry/writer/")})
	cli := client(t, c)
	t.Run("KeepAlivesAreNotWritten", func(t *testing.T) { testKeepAlivesAreNotWritten(t, c, cli) })
	t.Run("EndAtOnce", func(t *testing.T) {
		const leases = 500
		r, err := expiry.Run(within(t, 2*time.Minute), cli, expiry.Options{
			Leases: leases, TTL: 12, Writers: 2, Pace: 20 * time.Millisecond, Quiet: 100 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(r)
		if r.Early > 0 {
			t.Errorf("%d of %d leases ended early", r.Early, leases)
		}
		// A loaded machine takes its time; how late they end on a quiet one, make bench-leases tells.
		if late := r.LastLate(); late > time.Minute {
			t.Errorf("the last lease ended %v late", late)
		}
		if len(r.Storm) == 0 {
			t.Error("nothing was written while leases ended")
		}
	})
}

func testKeepAlivesAreNotWritten(t *testing.T, c *cluster.Cluster, cli *clientv3.Client) {
	const leases, rounds = 100, 20
	ctx := within(t, 2*time.Minute)
	ids := make([]clientv3.LeaseID, leases)
	for i := range ids {
		// What is not kept alive for an eighth of its time is checkpointed: this takes longer than the test.
		g, err := cli.Grant(ctx, 3600)
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = g.ID
	}
	before := proposals(t, c)
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			for range rounds {
				if _, err := cli.KeepAliveOnce(ctx, id); err != nil {
					t.Errorf("keep-alive: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	// The members' own business may write a little.
	if wrote := proposals(t, c) - before; wrote > leases*rounds/20 {
		t.Errorf("%d keep-alives cost %.0f proposals", leases*rounds, wrote)
	}
	for _, id := range ids {
		if _, err := cli.Revoke(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if wrote := proposals(t, c) - before; wrote < 1 {
		t.Errorf("revoking %d leases shows as %.0f proposals: the metric does not count", leases, wrote)
	}
}

// proposals adds up what all members have proposed to raft logs.
func proposals(t *testing.T, c *cluster.Cluster) (sum float64) {
	t.Helper()
	for _, m := range c.Members {
		v, err := gauge(t, m, "kvd_raft_proposals_total")
		if err != nil {
			t.Fatal(err)
		}
		sum += v
	}
	return sum
}

// gauge reads a metric without labels of a member that serves plain text.
func gauge(t *testing.T, m *cluster.Member, name string) (float64, error) {
	t.Helper()
	families, err := m.Metrics(within(t, patience))
	if err != nil {
		return 0, err
	}
	if all := families[name].GetMetric(); len(all) == 1 {
		return all[0].GetCounter().GetValue() + all[0].GetGauge().GetValue(), nil
	}
	return 0, fmt.Errorf("member %s has no metric %s", m.Name, name)
}
