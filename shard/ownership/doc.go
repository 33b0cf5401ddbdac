// Package ownership holds the rules by which one replica of a raft group owns
// it: evaluates its writes and answers its linearizable reads. Shards and the
// placement group use the same rules. The package is pure: no clock, goroutine,
// disk or socket; it is fed with applied commands and with readings.
//
// # What it promises
//
//  1. At most one owner's writes apply: a write carries the epoch it was
//     evaluated under and its sequence number, and [State.CheckWrite] rejects
//     any other on all replicas alike. This rests on no clock.
//  2. No two owners answer linearizable reads for overlapping times. A read is
//     covered by a [Lease], which begins at a reading of the sequencer's clock
//     seen before a ReadIndex began and holds for [LeaseDuration] of that same
//     clock. A new owner serves only when its [WaitOut] says that every lease of
//     its predecessors is over.
//  3. A claim inherits every unexpired wait. Only a predecessor that had logged
//     Serving and then Release, or that was this very member and had logged
//     Serving, spares the wait ([State.ApplyClaim]).
//
// # Why the sequencer's clock
//
// A paused virtual machine's clocks stand still, so an owner that consults its
// own clock may find itself "inside" a lease that others waited out. Here the
// owner must obtain a reading after it took its look at the state; a reading
// below begin + LeaseDuration proves that, when the sequencer gave it, no
// successor could have finished waiting: the successor measures the same clock
// from a reading taken after its claim applied, which is after the ReadIndex
// that began this lease.
//
// # What a change of the sequencer means
//
// Readings of two sequencer epochs cannot be compared. A lease ends with the
// sequencer epoch it began in. A waiting owner whose claim had applied before
// the new sequencer's first reading need not wait on: a lease under the new
// epoch needs a ReadIndex begun after that first reading, which sees the claim.
// That order is proven only by an answer to a message sent after the claim
// applied: a reading of a lower sequencer epoch, or the new sequencer's "not
// yet serving". The first reading that the owner happens to see proves nothing.
package ownership
