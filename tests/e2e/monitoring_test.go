package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// names reads a list of metrics.
func names(t *testing.T, path string) []string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var all []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name := strings.TrimSpace(lines.Text()); name != "" && !strings.HasPrefix(name, "#") {
			all = append(all, name)
		}
	}
	if len(all) < 15 {
		t.Fatalf("%s holds only %d names", path, len(all))
	}
	return all
}

// live says whether any series of a family is not zero.
func live(f *dto.MetricFamily) bool {
	return slices.ContainsFunc(f.GetMetric(), func(m *dto.Metric) bool {
		return m.GetCounter().GetValue()+m.GetGauge().GetValue()+float64(m.GetHistogram().GetSampleCount()) > 0
	})
}

// TestMonitoring: a dashboard made for etcd finds every name it reads, with data behind it where there is something to show.
func TestMonitoring(t *testing.T) {
	c := startCluster(t, cluster.Options{Members: 3, Args: []string{"--metrics=extensive"}})
	cli := client(t, c, c.Members[0])
	ctx := within(t, patience)
	watched := cli.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-watched
	for i := range 50 {
		if _, err := cli.Put(ctx, fmt.Sprint("k", i), strings.Repeat("v", 100)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := cli.Delete(ctx, "k0"); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Members {
		if _, err := client(t, c, m).Get(ctx, "k1"); err != nil {
			t.Fatal(err)
		}
	}

	asserted, panels := names(t, "testdata/etcd-metrics.txt"), names(t, "testdata/mixin-metrics.txt")
	// What is zero while all is well.
	quiet := []string{"etcd_server_proposals_failed_total", "etcd_server_proposals_pending", "etcd_network_peer_sent_failures_total"}
	for _, m := range c.Members {
		var missing, dead []string
		eventually(t, patience, func(ctx context.Context) error {
			families, err := m.Metrics(ctx)
			if err != nil {
				return err
			}
			missing, dead = nil, nil
			for _, name := range asserted {
				if families[name] == nil {
					missing = append(missing, name)
				}
			}
			for _, name := range panels {
				f := families[strings.TrimSuffix(name, "_bucket")]
				switch {
				case f == nil:
					missing = append(missing, name)
				case !slices.Contains(quiet, name) && !live(f):
					dead = append(dead, name)
				}
			}
			if len(missing)+len(dead) > 0 {
				return fmt.Errorf("%s: missing %v, without data %v", m.Name, missing, dead)
			}
			return nil
		})
	}
	if !binaries.kvd {
		return
	}
	families, err := c.Members[0].Metrics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etcd_mvcc_put_total", "etcd_mvcc_delete_total", "etcd_debugging_mvcc_events_total", "etcd_debugging_mvcc_watcher_total",
		"kvd_shards", "kvd_sequencer_epoch", "kvd_replicas", "kvd_raft_entries_applied_total", "kvd_peer_rtt_seconds"} {
		if f := families[name]; f == nil || !live(f) {
			t.Errorf("%s has no data: %v", name, f)
		}
	}
	page, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range families {
		if (strings.HasPrefix(name, "kvd_") || strings.HasPrefix(name, "etcd_")) && !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/monitoring.md does not mention %s", name)
		}
	}
}

// TestNormalLifeLogsNoError: start, load, a split, a change of owner and a stop leave no line of level error.
func TestNormalLifeLogsNoError(t *testing.T) {
	c := startCluster(t, cluster.Options{Members: 3})
	cli := client(t, c, c.Members[0])
	ctx := within(t, patience)
	for i := range 20 {
		if _, err := cli.Put(ctx, fmt.Sprint("k", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	if binaries.kvd {
		if out, err := run(t, binaries.kvctl, "--endpoints="+c.Endpoints()[0], "shard", "split", "k5"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	// Owners move away from a member that stops, and come back.
	if err := c.Members[0].Restart(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, func(ctx context.Context) error {
		_, err := client(t, c, c.Members[1]).Put(ctx, "k9", "w")
		return err
	})
	if err := c.StopAll(ctx); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Members {
		for _, line := range strings.Split(m.Log(), "\n") {
			for _, level := range []string{"error", "dpanic", "panic", "fatal"} {
				if strings.Contains(line, `"level":"`+level+`"`) {
					t.Errorf("%s logged: %s", m.Name, line)
				}
			}
		}
	}
}
