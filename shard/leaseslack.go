package shard

import (
	"sync"
	"time"
)

// leaseSlack is how much longer the leases of a shard may live by an attempt to merge
// it away, beside the time in which nobody serves them.
//
// What is left of each lease is logged before the shard stops for a Freeze, and whoever
// serves next counts from there. What passes between is given to the lease, so that
// the stop need not wait for all of them to be logged once more. This is safe: a lease
// never ends earlier than was promised. It must not add up, though. A try that fails
// before the stop gives nothing: the tenure goes on and counts from its memory. One that
// fails after it gives at most what was left of the slack, which is less by that much
// for the next try of the same attempt; once nothing is left of it, all leases are
// logged after the stop. So all tries of an attempt by one owner give a lease less than
// leaseSlack together. An owner that is lost takes the count along, and gives leases
// what any lost owner does (checkpointAfter).
const leaseSlack = 3 * time.Second

// slackBudget is what is left of leaseSlack for an attempt.
type slackBudget struct {
	mu      sync.Mutex
	attempt uint64
	spent   time.Duration
}

// left is how much the log may say too much of a lease when the shard stops.
func (b *slackBudget) left(attempt uint64) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.attempt != attempt {
		return leaseSlack
	}
	return max(leaseSlack-b.spent, 0)
}

// spend notes that the shard stopped while the log said so much too much of a lease.
func (b *slackBudget) spend(attempt uint64, tooMuch time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.attempt != attempt {
		b.attempt, b.spent = attempt, 0
	}
	b.spent += max(tooMuch, 0)
}
