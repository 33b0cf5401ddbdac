package metrics

import (
	"github.com/kvd-io/kvd/shard"
)

// kvdScalars are what etcd has no name for.
var kvdScalars = []scalar{
	{"kvd_shards", "The number of shards of the cluster.", gauge, func(s *snapshot) float64 { return float64(s.view.Map.Len()) }},
	{"kvd_shards_seeding", "The number of shards that are being split off.", gauge, func(s *snapshot) float64 { return float64(len(s.view.Map.Seeding())) }},
	{"kvd_shards_owned", "The number of shards that this member owns and serves.", gauge, func(s *snapshot) float64 {
		return float64(s.replicas.phases[shard.PhaseServing] + s.replicas.phases[shard.PhaseSplitting])
	}},
	{"kvd_shard_claims_total", "The ownerships that this member claimed.", counter, func(s *snapshot) float64 { return float64(s.replicas.stats.Claims) }},
	{"kvd_shard_ownerships_ended_total", "The ownerships of this member that served and do so no more.", counter, func(s *snapshot) float64 { return float64(s.replicas.stats.Ended) }},
	{"kvd_shard_lease_renewals_total", "The confirmations that this member asked for to renew read leases.", counter, func(s *snapshot) float64 { return float64(s.replicas.stats.LeaseRenewals) }},
	{"kvd_shard_commands_rejected_total", "The commands that apply rejected because another ownership came between.", counter, func(s *snapshot) float64 { return float64(s.replicas.stats.Rejected) }},
	{"kvd_shard_batches_resent_total", "The batches of writes that were proposed again.", counter, func(s *snapshot) float64 { return float64(s.replicas.stats.Resent) }},
	{"kvd_shard_revision_alarms_total", "The writes that were rejected because of their revision. Anything but 0 is a defect.", counter, func(s *snapshot) float64 { return float64(s.replicas.stats.RevisionAlarms) }},

	{"kvd_sequencer_epoch", "The number of the sequencer's ownership; it rises with every change.", gauge, func(s *snapshot) float64 { return float64(s.view.Ownership.Epoch) }},
	{"kvd_sequencer_window_end", "The first revision that no sequencer may hand out yet.", gauge, func(s *snapshot) float64 { return float64(s.view.WindowEnd) }},
	{"kvd_sequencer_claims_total", "The sequencer's ownerships that this member claimed.", counter, func(s *snapshot) float64 { return float64(s.Counters.Claims.Load()) }},
	{"kvd_sequencer_renewals_total", "The renewals of the sequencer's read lease.", counter, func(s *snapshot) float64 { return float64(s.Counters.Renewals.Load()) }},
	{"kvd_sequencer_renewal_failures_total", "The renewals of the sequencer's read lease that failed.", counter, func(s *snapshot) float64 { return float64(s.Counters.RenewalFailures.Load()) }},
	{"kvd_sequencer_windows_total", "The windows of revisions that were made durable.", counter, func(s *snapshot) float64 { return float64(s.Counters.Windows.Load()) }},
	{"kvd_sequencer_window_waits_total", "How often a request had to wait for a window.", counter, func(s *snapshot) float64 { return float64(s.Counters.WindowWaits.Load()) }},
	{"kvd_sequencer_parked_total", "The questions that waited at the sequencer for a lease or a window.", counter, func(s *snapshot) float64 { return float64(s.Counters.Parked.Load()) }},
	{"kvd_sequencer_messages_total", "The messages that this member sent to the sequencer.", counter, func(s *snapshot) float64 { return float64(s.Counters.Messages.Load()) }},
	{"kvd_sequencer_messages_resent_total", "The messages to the sequencer that were sent again.", counter, func(s *snapshot) float64 { return float64(s.Counters.Resent.Load()) }},

	{"kvd_raft_proposals_total", "The proposals that this member appended to raft logs.", counter, func(s *snapshot) float64 { return float64(s.raft.Proposed) }},
	{"kvd_raft_entries_applied_total", "The raft entries that this process applied.", counter, func(s *snapshot) float64 { return float64(s.raft.Applied) }},
	{"kvd_raft_read_indexes_total", "The confirmations of leadership that reads asked raft for.", counter, func(s *snapshot) float64 { return float64(s.raft.ReadIndexes) }},
	{"kvd_raft_messages_withheld_total", "The raft messages of idle groups that needed not be sent.", counter, func(s *snapshot) float64 { return float64(s.raft.Withheld) }},
	{"kvd_raft_messages_repeated_total", "The heartbeats, and answers to heartbeats, of a member that has fallen silent that were taken to stand a little longer.", counter, func(s *snapshot) float64 { return float64(s.raft.Repeated) }},
	{"kvd_raft_snapshots_restored_total", "The snapshots that replicas of this member took over.", counter, func(s *snapshot) float64 { return float64(s.raft.Restored) }},

	{"kvd_store_stores", "The stores that are open.", gauge, func(s *snapshot) float64 { return float64(s.stores.Stores) }},
	{"kvd_store_unflushed_bytes", "The bytes that are in memtables.", gauge, func(s *snapshot) float64 { return float64(s.stores.UnflushedBytes) }},
	{"kvd_store_cache_bytes", "The bytes that the block cache holds.", gauge, func(s *snapshot) float64 { return float64(s.stores.CacheBytes) }},
	{"kvd_store_cache_hits_total", "The blocks that the block cache had.", counter, func(s *snapshot) float64 { return float64(s.stores.CacheHits) }},
	{"kvd_store_cache_misses_total", "The blocks that had to be read from files.", counter, func(s *snapshot) float64 { return float64(s.stores.CacheMisses) }},
	{"kvd_store_flushes", "The flushes of memtables, of the stores that are open.", gauge, func(s *snapshot) float64 { return float64(s.stores.Flushes) }},
	{"kvd_store_compactions", "The compactions of tables, of the stores that are open.", gauge, func(s *snapshot) float64 { return float64(s.stores.Compactions) }},

	{"kvd_integrity_comparisons_total", "The comparisons of a shard that this member owns with its other replicas.", counter, func(s *snapshot) float64 { return float64(s.compared) }},
	{"kvd_integrity_differences_total", "The replicas that comparisons found to differ, twice in a row each.", counter, func(s *snapshot) float64 { return float64(s.differed) }},

	{"kvd_watch_catchups", "The catch-ups of watches from disk that are under way.", gauge, func(s *snapshot) float64 { return float64(s.watches.Cohorts) }},
	{"kvd_watch_rounds_total", "The rounds of questions to owners about what may still come.", counter, func(s *snapshot) float64 { return float64(s.watches.Rounds) }},
}

// kvdVectors are those with labels.
var kvdVectors = []vector{
	{"kvd_replicas", "The replicas of this member by what they do about ownership.", gauge, []string{"phase"}, func(s *snapshot, show func(float64, ...string)) {
		for _, phase := range []shard.Phase{shard.PhaseFollowing, shard.PhaseClaiming, shard.PhaseWaiting, shard.PhaseServing, shard.PhaseSplitting} {
			show(float64(s.replicas.phases[phase]), string(phase))
		}
	}},
	{"kvd_router_calls_total", "The requests and questions that this member sent to another.", counter, []string{"To"}, func(s *snapshot, show func(float64, ...string)) {
		for _, l := range s.links {
			show(float64(l.Calls), hex(l.Member))
		}
	}},
	{"kvd_router_calls_in_flight", "The requests and questions to another member that wait for an answer.", gauge, []string{"To"}, func(s *snapshot, show func(float64, ...string)) {
		for _, l := range s.links {
			show(float64(l.InFlight), hex(l.Member))
		}
	}},
	{"kvd_router_calls_serving", "The requests of another member that are in work here.", gauge, []string{"From"}, func(s *snapshot, show func(float64, ...string)) {
		for _, l := range s.links {
			show(float64(l.Serving), hex(l.Member))
		}
	}},
	{"kvd_peer_rtt_seconds", "The moving average of ping round trips to another member.", gauge, []string{"To"}, func(s *snapshot, show func(float64, ...string)) {
		for _, p := range s.peers {
			show(p.RTT.Seconds(), hex(p.Member))
		}
	}},
}
