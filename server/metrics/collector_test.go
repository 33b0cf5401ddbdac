package metrics

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/internal/histogram"
	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/router"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/watch"
)

// fakeSources is a member with figures of our choice.
func fakeSources(raft *multiraft.Stats) Sources {
	h := histogram.New(time.Millisecond, 3)
	h.Observe(3 * time.Millisecond)
	h.Observe(time.Hour)
	return Sources{
		Member: 0xabc,
		Raft:   func() multiraft.Stats { return *raft },
		Stores: func() mvcc.EngineStats {
			return mvcc.EngineStats{Puts: 7, Commits: h.Snapshot(), CollectedAt: time.Unix(99, 0)}
		},
		Peers: func() []peer.Status {
			return []peer.Status{{Member: 0xdef, Connected: true, Sent: 10, Failures: 2, RTTs: h.Snapshot(), RTT: time.Second}}
		},
		Links:   func() []router.LinkStats { return []router.LinkStats{{Member: 0xdef, Calls: 5, InFlight: 1}} },
		Watches: func() watch.Stats { return watch.Stats{Watchers: 3} },
		View: func() *placement.View {
			return &placement.View{Index: 4, Map: &placement.Map{}, Auth: &authstate.State{}, CompactRevision: 6, Members: []*kvdpb.Member{{Id: 0xabc}, {Id: 0xdef}}}
		},
		Counters: &placement.Counters{}, Replicas: func(func(*shard.Replica) bool) {}, LeaderChanges: func() uint64 { return 2 },
	}
}

func TestFiguresUnderTheirNames(t *testing.T) {
	c := New(fakeSources(&multiraft.Stats{Pending: 8}))
	want := `
# HELP etcd_mvcc_put_total Total number of puts applied by this member.
# TYPE etcd_mvcc_put_total counter
etcd_mvcc_put_total 7
# HELP etcd_debugging_mvcc_db_compaction_last The unix time at which history was last thrown away. Resets to 0 on start.
# TYPE etcd_debugging_mvcc_db_compaction_last gauge
etcd_debugging_mvcc_db_compaction_last 99
# HELP etcd_server_proposals_pending The current number of pending proposals to commit, over all raft groups.
# TYPE etcd_server_proposals_pending gauge
etcd_server_proposals_pending 8
# HELP etcd_network_known_peers The current number of known peers.
# TYPE etcd_network_known_peers gauge
etcd_network_known_peers{Local="abc",Remote="def"} 1
# HELP etcd_disk_backend_commit_duration_seconds The latency distributions of commits of applied batches to the stores.
# TYPE etcd_disk_backend_commit_duration_seconds histogram
etcd_disk_backend_commit_duration_seconds_bucket{le="0.001"} 0
etcd_disk_backend_commit_duration_seconds_bucket{le="0.002"} 0
etcd_disk_backend_commit_duration_seconds_bucket{le="0.004"} 1
etcd_disk_backend_commit_duration_seconds_bucket{le="+Inf"} 2
etcd_disk_backend_commit_duration_seconds_sum 3600.003
etcd_disk_backend_commit_duration_seconds_count 2
# HELP kvd_router_calls_total The requests and questions that this member sent to another.
# TYPE kvd_router_calls_total counter
kvd_router_calls_total{To="def"} 5
`
	require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(want), "etcd_mvcc_put_total", "etcd_debugging_mvcc_db_compaction_last",
		"etcd_server_proposals_pending", "etcd_network_known_peers", "etcd_disk_backend_commit_duration_seconds", "kvd_router_calls_total"))
}

// TestSumsOfLogsNeverFall: a shard that leaves takes its indexes away, and a counter must not fall.
func TestSumsOfLogsNeverFall(t *testing.T) {
	raft := &multiraft.Stats{}
	c := New(fakeSources(raft))
	for _, row := range []struct{ committed, shown uint64 }{{0, 4}, {50, 50}, {9, 50}, {51, 51}} {
		raft.Log.Committed = row.committed
		registry := prometheus.NewRegistry()
		registry.MustRegister(c)
		families, err := registry.Gather()
		require.NoError(t, err)
		for _, f := range families {
			if f.GetName() == committed.name {
				require.EqualValues(t, row.shown, f.GetMetric()[0].GetGauge().GetValue())
			}
		}
	}
}

// TestNamesAreClean holds what Prometheus asks of names, and that a constant zero says so.
func TestNamesAreClean(t *testing.T) {
	clean := regexp.MustCompile(`^(etcd|kvd|os)_[a-z0-9_]+[a-z]$`)
	check := func(name, help string, isCounter bool) {
		require.Regexp(t, clean, name)
		require.NotEmpty(t, help, name)
		if strings.HasPrefix(name, "kvd_") {
			require.Equal(t, isCounter, strings.HasSuffix(name, "_total"), name)
		}
	}
	for _, m := range scalars {
		check(m.name, m.help, m.kind == counter)
	}
	for _, m := range vectors {
		check(m.name, m.help, m.kind == counter)
	}
	for _, m := range distributions {
		check(m.name, m.help, false)
	}
	problems, err := testutil.CollectAndLint(New(fakeSources(&multiraft.Stats{})))
	require.NoError(t, err)
	for _, p := range problems {
		require.False(t, strings.HasPrefix(p.Metric, "kvd_"), "%s: %s", p.Metric, p.Text)
	}
}
