package multiraft

import (
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/internal/histogram"
	"github.com/kvd-io/kvd/multiraft/logstore"
)

// SlowApply is how long the state machine may take for what it is given at once
// before that counts as slow; etcd's default.
const SlowApply = 100 * time.Millisecond

// Stats are figures of all groups of a host, since its start.
type Stats struct {
	// Log is the raft log's.
	Log logstore.Stats
	// Proposed counts the proposals that were appended, Pending those among them
	// whose outcome nobody has seen yet, Failed the proposals that were refused or
	// whose outcome was not that they were applied.
	Proposed, Pending, Failed uint64
	// Applied counts the entries that state machines applied, Applies the durations
	// of what they were given at once, SlowApplies those above SlowApply.
	Applied, SlowApplies uint64
	Applies              histogram.Snapshot
	// ReadIndexes counts the confirmations of leadership that reads asked for,
	// ReadIndexesFailed and ReadIndexesRepeated those that failed and those that had
	// to be asked for again.
	ReadIndexes, ReadIndexesFailed, ReadIndexesRepeated uint64
	// Withheld counts the messages of idle groups that were not sent, Repeated those that
	// were delivered here once more because their sender had fallen silent.
	Withheld, Repeated uint64
	// Restoring counts the replicas that are taking over a snapshot now, Restored
	// the snapshots that were taken over.
	Restoring int64
	Restored  uint64
}

// The bounds are etcd's.
const (
	lowestApply  = 100 * time.Microsecond
	applyBuckets = 20
)

// counters are what Stats shows.
type counters struct {
	proposed, settled, failed         atomic.Uint64
	applied, slowApplies              atomic.Uint64
	applies                           *histogram.Histogram
	reads, readsFailed, readsRepeated atomic.Uint64
	heartbeats, withheld, repeated    atomic.Uint64
	restoring                         atomic.Int64
	restored                          atomic.Uint64
}

// Stats reads the figures.
func (h *Host) Stats() Stats {
	c := &h.counters
	s := Stats{
		Failed: c.failed.Load(), Applied: c.applied.Load(), SlowApplies: c.slowApplies.Load(), Applies: c.applies.Snapshot(),
		ReadIndexes: c.reads.Load(), ReadIndexesFailed: c.readsFailed.Load(), ReadIndexesRepeated: c.readsRepeated.Load(),
		Withheld: c.withheld.Load(), Repeated: c.repeated.Load(),
		Restoring: c.restoring.Load(), Restored: c.restored.Load(),
	}
	// Settled is read first so that it never seems to be ahead.
	settled := c.settled.Load()
	s.Proposed = c.proposed.Load()
	s.Pending = s.Proposed - settled
	if logs := h.logs.Load(); logs != nil {
		if err := h.enter(); err == nil { // the log must still be open
			s.Log = logs.Stats()
			h.leave()
		}
	}
	return s
}

// settle counts the outcome of a proposal.
func (c *counters) settle(kind OutcomeKind) {
	c.settled.Add(1)
	if kind != Applied {
		c.failed.Add(1)
	}
}

// applying counts what a state machine is given at once, when it has ended.
func (c *counters) appliedAtOnce(entries int, took time.Duration) {
	c.applied.Add(uint64(entries))
	c.applies.Observe(took)
	if took > SlowApply {
		c.slowApplies.Add(1)
	}
}
