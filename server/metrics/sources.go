package metrics

import (
	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/router"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/watch"
)

// Sources are the parts of a member. All are needed but Leases.
type Sources struct {
	Member   uint64
	Raft     func() multiraft.Stats
	Stores   func() mvcc.EngineStats
	Peers    func() []peer.Status
	Links    func() []router.LinkStats
	Watches  func() watch.Stats
	View     func() *placement.View
	Counters *placement.Counters
	// Replicas calls a function with each replica of the member.
	Replicas func(func(*shard.Replica) bool)
	// LeaderChanges counts how often another member became the leader that clients
	// are told of.
	LeaderChanges func() uint64
	// Leases are the figures of client leases; nil for none.
	Leases func() LeaseStats
	// Integrity counts the comparisons of shards with other replicas, and those that
	// found a difference; nil for none.
	Integrity func() (compared, differed uint64)
}

// snapshot is what all parts counted at one moment.
type snapshot struct {
	Sources
	raft    multiraft.Stats
	stores  mvcc.EngineStats
	peers   []peer.Status
	links   []router.LinkStats
	watches watch.Stats
	view    *placement.View
	leases  LeaseStats
	// compared and differed are Integrity's.
	compared, differed uint64
	replicas           replicaSums
}

// replicaSums add up this member's replicas.
type replicaSums struct {
	// phases counts replicas by what they do about ownership.
	phases map[shard.Phase]int
	// applied is the sum of applied raft indexes.
	applied uint64
	stats   shard.Stats
}

func (s Sources) look() *snapshot {
	snap := &snapshot{
		Sources: s, raft: s.Raft(), stores: s.Stores(), peers: s.Peers(), links: s.Links(), watches: s.Watches(), view: s.View(),
	}
	if s.Leases != nil {
		snap.leases = s.Leases()
	}
	if s.Integrity != nil {
		snap.compared, snap.differed = s.Integrity()
	}
	sums := &snap.replicas
	sums.phases = make(map[shard.Phase]int)
	s.Replicas(func(r *shard.Replica) bool {
		sums.phases[r.Phase()]++
		applied, _ := r.Applied()
		sums.applied += applied
		st := r.Stats()
		sums.stats.Claims += st.Claims
		sums.stats.Ended += st.Ended
		sums.stats.LeaseRenewals += st.LeaseRenewals
		sums.stats.Rejected += st.Rejected
		sums.stats.Resent += st.Resent
		sums.stats.RevisionAlarms += st.RevisionAlarms
		return true
	})
	sums.applied += snap.view.Index
	return snap
}
