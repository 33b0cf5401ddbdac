// Package shard is one raft group of kvd: the deterministic state machine of
// each replica and, on the replica that owns the shard, the runtime that
// evaluates writes, gives them their revisions and answers linearizable reads.
//
// # What it owns
//
//   - [Replica]: one member's copy. As multiraft.StateMachine it applies the log to
//     one mvcc.Store; [Replica.Do] serves requests while this process owns the
//     shard.
//   - Subpackages: ownership (the rules of claims and leases, pure), command (the
//     encoding of a batch of writes), latch (the order of requests that touch the
//     same keys), eval (what etcd's requests mean, pure), manager (the replicas of
//     a member).
//
// # How it hangs together
//
// The log decides everything that replicas must agree on. One pure check
// (state.check, state.checkWrites) accepts or rejects each command, on all
// replicas alike; what goes wrong after it stops the process. See machine.
//
// A Claim that applies makes a tenure: the owner's runtime for one epoch, which
// holds all that dies with the epoch. See tenure, and driver.go for who claims
// when. Within it a write takes its latches, is evaluated, and goes through the
// pipeline, which is the only place where revisions are asked for and commands
// proposed; the local apply answers it. What it usually needs to know of the
// store is in memory: heads, windows. What is in flight when the tenure ends
// has its fate decided by the log: adopt.go. A linearizable read passes through
// the steps of type read; the argument for the one reading of the sequencer's
// clock that it needs is there. Resolve is the same for the whole shard. A split
// is in split.go, a merge of neighbours in mergestate.go.
//
// # What it promises
//
//   - Writes apply at most once, in strictly increasing order of revisions,
//     whoever believes to be owner or leader.
//   - A write that was answered is applied here and durable on a majority. One
//     that ended in an error other than *AmbiguousError did not happen.
//   - A linearizable read is exactly the state at its revision, which is at least
//     that of everything that had ended when the read began.
//   - Requests are bounded in number and size; what exceeds the bounds is refused
//     with etcd's "too many requests".
//
// # What it must never do
//
// Call the raft group from apply. Use a clock, chance or the order of a map in
// apply. Look at the owner's own clock for correctness: timers only decide when
// to try again. Propose what was evaluated under one epoch in another, unless
// that follows directly. Block the caller of Do, or the goroutine that applies.
//
// # Lock order
//
// tenure.freezing comes before everything, and a slot of a window before the
// store. Of the others (Replica.mu, pipeline.mu, latch.Manager, leaseKeeper.mu,
// readings.mu, heads.mu, Workers) none is taken while another one is held, except
// that Workers may be entered from pipeline.mu. No callback (Request.Done,
// latch.Waiter, Sink) runs under a lock.
package shard
