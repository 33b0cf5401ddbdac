package metrics

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/kvd-io/kvd/internal/histogram"
	"github.com/kvd-io/kvd/version"
	etcdruntime "go.etcd.io/etcd/pkg/v3/runtime"
)

// zero is the value of what kvd does not have.
func zero(*snapshot) float64 { return 0 }

// none is an empty histogram with etcd's bounds.
func none(lowest time.Duration, n int) func(*snapshot) histogram.Snapshot {
	empty := histogram.New(lowest, n).Snapshot()
	return func(*snapshot) histogram.Snapshot { return empty }
}

// Reasons why a metric of etcd is always zero.
const (
	noBolt      = "Always 0: kvd does not store in bbolt."
	noSnapFiles = "Always 0: kvd writes no snapshot files; a shard's state is its store."
	noProxy     = "Always 0: kvd has no gRPC proxy."
	noV2        = "Always 0: kvd has no v2 store."
	noPauses    = "Always 0: kvd collects history in the background and pauses nobody for it."
	noDefrag    = "Always 0: there is nothing to defragment."
)

// scalars are etcd's metrics of one number, then kvd's.
var scalars = append([]scalar{
	{"etcd_debugging_auth_revision", "The current revision of auth store.", gauge, func(s *snapshot) float64 { return float64(s.view.Auth.Revision()) }},
	{"etcd_debugging_lease_granted_total", "The total number of granted leases.", counter, func(s *snapshot) float64 { return float64(s.leases.Granted) }},
	{"etcd_debugging_lease_renewed_total", "The number of renewed leases seen by the leader.", counter, func(s *snapshot) float64 { return float64(s.leases.Renewed) }},
	{"etcd_debugging_lease_revoked_total", "The total number of revoked leases.", counter, func(s *snapshot) float64 { return float64(s.leases.Revoked) }},
	{"etcd_debugging_server_lease_expired_total", "The total number of expired leases.", counter, func(s *snapshot) float64 { return float64(s.leases.Expired) }},
	{"etcd_debugging_mvcc_compact_revision", "The revision of the last compaction in store.", gauge, func(s *snapshot) float64 { return float64(s.view.CompactRevision) }},
	{"etcd_debugging_mvcc_db_compaction_keys_total", "Total number of rows of history thrown away.", counter, func(s *snapshot) float64 { return float64(s.stores.CollectedRows) }},
	{"etcd_debugging_mvcc_db_compaction_last", "The unix time at which history was last thrown away. Resets to 0 on start.", gauge, func(s *snapshot) float64 {
		if s.stores.CollectedAt.IsZero() {
			return 0
		}
		return float64(s.stores.CollectedAt.Unix())
	}},
	{"etcd_debugging_mvcc_events_total", "Total number of events sent by this member.", counter, func(s *snapshot) float64 { return float64(s.watches.Events) }},
	{"etcd_debugging_mvcc_pending_events_total", "Total number of pending events to be sent.", gauge, func(s *snapshot) float64 { return float64(s.watches.PendingEvents) }},
	{"etcd_debugging_mvcc_slow_watcher_total", "Total number of unsynced slow watchers.", gauge, func(s *snapshot) float64 { return float64(s.watches.Slow) }},
	{"etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams.", gauge, func(s *snapshot) float64 { return float64(s.watches.Streams) }},
	{"etcd_debugging_mvcc_watcher_total", "Total number of watchers.", gauge, func(s *snapshot) float64 { return float64(s.watches.Watchers) }},
	{"etcd_debugging_mvcc_keys_total", "Total number of live keys on this member.", gauge, func(s *snapshot) float64 { return float64(s.stores.Keys) }},
	{"etcd_debugging_mvcc_total_put_size_in_bytes", "The total size of put kv pairs applied by this member.", counter, func(s *snapshot) float64 { return float64(s.stores.PutBytes) }},
	{"etcd_mvcc_put_total", "Total number of puts applied by this member.", counter, func(s *snapshot) float64 { return float64(s.stores.Puts) }},
	{"etcd_mvcc_delete_total", "Total number of deletes of keys applied by this member.", counter, func(s *snapshot) float64 { return float64(s.stores.Deletes) }},
	{"etcd_mvcc_db_open_read_transactions", "The number of currently open read transactions.", gauge, func(s *snapshot) float64 { return float64(s.stores.Readers) }},
	{"etcd_disk_wal_write_bytes_total", "Total number of bytes written in WAL.", gauge, func(s *snapshot) float64 { return float64(s.raft.Log.WrittenBytes) }},
	{"etcd_server_leader_changes_seen_total", "The number of leader changes seen, of the leader that clients are told of: the sequencer's member.", counter, func(s *snapshot) float64 { return float64(s.LeaderChanges()) }},
	{"etcd_server_proposals_pending", "The current number of pending proposals to commit, over all raft groups.", gauge, func(s *snapshot) float64 { return float64(s.raft.Pending) }},
	{"etcd_server_proposals_failed_total", "The total number of failed proposals seen, over all raft groups.", counter, func(s *snapshot) float64 { return float64(s.raft.Failed) }},
	{"etcd_server_slow_apply_total", "The total number of slow apply requests (likely overloaded from slow disk).", counter, func(s *snapshot) float64 { return float64(s.raft.SlowApplies) }},
	{"etcd_server_read_indexes_failed_total", "The total number of failed read indexes seen.", counter, func(s *snapshot) float64 { return float64(s.raft.ReadIndexesFailed) }},
	{"etcd_server_slow_read_indexes_total", "The total number of read indexes that had to be asked for again.", counter, func(s *snapshot) float64 { return float64(s.raft.ReadIndexesRepeated) }},
	{"etcd_server_snapshot_apply_in_progress_total", "The number of replicas that are applying an incoming snapshot.", gauge, func(s *snapshot) float64 { return float64(s.raft.Restoring) }},
	{"os_fd_used", "The number of used file descriptors.", gauge, func(*snapshot) float64 {
		used, err := etcdruntime.FDUsage()
		if err != nil {
			return 0
		}
		return float64(used)
	}},
	{"os_fd_limit", "The file descriptor limit.", gauge, func(*snapshot) float64 {
		limit, err := etcdruntime.FDLimit()
		if err != nil {
			return 0
		}
		return float64(limit)
	}},

	{"etcd_server_heartbeat_send_failures_total", "Always 0: messages that could not be sent to peers count in etcd_network_peer_sent_failures_total.", counter, zero},
	{"etcd_server_learner_promote_successes", "Always 0: kvd does not count promotions.", counter, zero},
	{"etcd_disk_defrag_inflight", noDefrag, gauge, zero},
	{"etcd_debugging_store_expires_total", noV2, counter, zero},
	{"etcd_debugging_store_watch_requests_total", noV2, counter, zero},
	{"etcd_debugging_store_watchers", noV2, gauge, zero},
	{"etcd_grpc_proxy_cache_hits_total", noProxy, gauge, zero},
	{"etcd_grpc_proxy_cache_keys_total", noProxy, gauge, zero},
	{"etcd_grpc_proxy_cache_misses_total", noProxy, gauge, zero},
	{"etcd_grpc_proxy_events_coalescing_total", noProxy, counter, zero},
	{"etcd_grpc_proxy_watchers_coalescing_total", noProxy, gauge, zero},
}, kvdScalars...)

func hex(id uint64) string { return fmt.Sprintf("%x", id) }

// vectors are etcd's metrics with labels, then kvd's.
var vectors = append([]vector{
	{"etcd_cluster_version", "Which version is running. 1 for 'cluster_version' label with current cluster version", gauge, []string{"cluster_version"}, func(_ *snapshot, show func(float64, ...string)) {
		parts := strings.SplitN(version.Cluster(), ".", 3)
		show(1, strings.Join(parts[:min(len(parts), 2)], "."))
	}},
	{"etcd_server_version", "Which version is running. 1 for 'server_version' label with current version.", gauge, []string{"server_version"}, func(_ *snapshot, show func(float64, ...string)) {
		show(1, version.Etcd())
	}},
	{"etcd_server_go_version", "Which Go version server is running with. 1 for 'server_go_version' label with current version.", gauge, []string{"server_go_version"}, func(_ *snapshot, show func(float64, ...string)) {
		show(1, runtime.Version())
	}},
	{"etcd_server_id", "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.", gauge, []string{"server_id"}, func(s *snapshot, show func(float64, ...string)) {
		show(1, hex(s.Member))
	}},
	{"etcd_network_known_peers", "The current number of known peers.", gauge, []string{"Local", "Remote"}, func(s *snapshot, show func(float64, ...string)) {
		for _, m := range s.view.Members {
			// A member that is alone shows itself, as in etcd.
			if m.Id != s.Member || len(s.view.Members) == 1 {
				show(1, hex(s.Member), hex(m.Id))
			}
		}
	}},
	{"etcd_network_active_peers", "The current number of active peer connections.", gauge, []string{"Local", "Remote"}, func(s *snapshot, show func(float64, ...string)) {
		for _, p := range s.peers {
			v := 0.0
			if p.Connected {
				v = 1
			}
			show(v, hex(s.Member), hex(p.Member))
		}
	}},
	{"etcd_network_peer_sent_bytes_total", "The total number of bytes sent to peers. Snapshots are not in it.", counter, []string{"To"}, func(s *snapshot, show func(float64, ...string)) {
		for _, p := range s.peers {
			show(float64(p.Sent), hex(p.Member))
		}
	}},
	{"etcd_network_peer_received_bytes_total", "The total number of bytes received from peers. Snapshots are not in it.", counter, []string{"From"}, func(s *snapshot, show func(float64, ...string)) {
		for _, p := range s.peers {
			show(float64(p.Received), hex(p.Member))
		}
	}},
	{"etcd_network_peer_sent_failures_total", "The total number of connections to peers that were lost or could not be made, and of messages for which there was no room.", counter, []string{"To"}, func(s *snapshot, show func(float64, ...string)) {
		for _, p := range s.peers {
			show(float64(p.Failures), hex(p.Member))
		}
	}},
}, kvdVectors...)

// distributions are etcd's histograms.
var distributions = []distribution{
	{"etcd_disk_wal_fsync_duration_seconds", "The latency distributions of fsync called by WAL.", time.Second, nil, nil, func(s *snapshot) histogram.Snapshot { return orNone(s.raft.Log.Fsyncs) }},
	{"etcd_disk_wal_write_duration_seconds", "The latency distributions of write called by WAL, with the wait for its fsync.", time.Second, nil, nil, func(s *snapshot) histogram.Snapshot { return s.raft.Log.Writes }},
	{"etcd_disk_backend_commit_duration_seconds", "The latency distributions of commits of applied batches to the stores.", time.Second, nil, nil, func(s *snapshot) histogram.Snapshot { return s.stores.Commits }},
	{"etcd_server_apply_duration_seconds", "The latency distributions of apply, of all entries that a raft group is given at once.", time.Second, []string{"version", "op", "success"}, []string{"v3", "Batch", "true"}, func(s *snapshot) histogram.Snapshot { return s.raft.Applies }},
	{"etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "Bucketed histogram of the durations of steps that throw history away.", time.Millisecond, nil, nil, func(s *snapshot) histogram.Snapshot { return s.stores.Collections }},
	{"etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs.", time.Second, nil, nil, func(s *snapshot) histogram.Snapshot {
		if len(s.leases.TTLs.Bounds) == 0 {
			return none(lowestTTL, ttlBuckets)(s)
		}
		return s.leases.TTLs
	}},

	{"etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", noPauses, time.Millisecond, nil, nil, none(time.Millisecond, 13)},
	{"etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", noPauses, time.Millisecond, nil, nil, none(time.Millisecond/2, 14)},
	{"etcd_debugging_disk_backend_commit_rebalance_duration_seconds", noBolt, time.Second, nil, nil, none(time.Millisecond, 14)},
	{"etcd_debugging_disk_backend_commit_spill_duration_seconds", noBolt, time.Second, nil, nil, none(time.Millisecond, 14)},
	{"etcd_debugging_disk_backend_commit_write_duration_seconds", noBolt, time.Second, nil, nil, none(time.Millisecond, 14)},
	{"etcd_disk_backend_defrag_duration_seconds", noDefrag, time.Second, nil, nil, none(100*time.Millisecond, 13)},
	{"etcd_debugging_snap_save_marshalling_duration_seconds", noSnapFiles, time.Second, nil, nil, none(time.Millisecond, 14)},
	{"etcd_debugging_snap_save_total_duration_seconds", noSnapFiles, time.Second, nil, nil, none(time.Millisecond, 14)},
	{"etcd_snap_db_fsync_duration_seconds", noSnapFiles, time.Second, nil, nil, none(time.Millisecond, 14)},
	{"etcd_snap_db_save_total_duration_seconds", noSnapFiles, time.Second, nil, nil, none(100*time.Millisecond, 10)},
	{"etcd_snap_fsync_duration_seconds", noSnapFiles, time.Second, nil, nil, none(time.Millisecond, 14)},
}

// orNone is for a log that is not open any more.
func orNone(h histogram.Snapshot) histogram.Snapshot {
	if len(h.Bounds) == 0 {
		return histogram.New(time.Millisecond, 14).Snapshot()
	}
	return h
}
