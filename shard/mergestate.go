package shard

import (
	"bytes"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
)

// A merge gives the keys of a shard (the right one) to its left neighbour. Both
// have the same members.
//
// # Steps
//
//	left's log                         right's log
//	AbsorbBegin
//	                                   Freeze        its owner serves nothing any more
//	AbsorbChunk ... (sealed)
//	                                   Surrender     the point of no return
//	Absorb                             its owner serves the keys of both
//
// or, until Surrender, to give the merge up:
//
//	                                   Unfreeze      it serves again
//	AbsorbDiscard
//
// Each shard's owner writes into its own log only. What it has to know of the other
// shard it reads from this member's replica of that, which may lag: all of it
// (begun, frozen, sealed, surrendered, over) are facts that stay true within an
// attempt. Placement keeps the phase (kvdpb.Merge), who does what follows from it
// and from the facts (package manager).
//
// # Invariants
//
//  1. Attempts rise, and one that is over in a shard (mergeFloor) never begins there
//     again, whatever arrives late.
//  2. Between Freeze and Unfreeze nothing of the right shard changes but its
//     ownership. So every replica that has applied Freeze holds the same, and all of
//     it: the left owner copies from the one on its own member.
//  3. Freeze needs an epoch that serves, and its owner has stopped serving before
//     it proposes it. Later owners serve nothing either while the state is frozen.
//  4. Nothing of a transaction over several shards is left in a shard that freezes:
//     nothing prepared and no outcome on record, because nobody could ask for it.
//  5. A sealed copy is whole and never changes. Surrender is proposed by an owner
//     that saw one.
//  6. Unfreeze and Surrender of one attempt exclude each other: whichever applies
//     first. The left shard discards its copy only after Unfreeze applied, and
//     absorbs it only after Surrender did.
//  7. When Absorb applies, nothing of the left shard that asked for a revision
//     before is unapplied, and nothing asks before it applied. All revisions of the
//     right shard had been allotted by then. So revisions go on rising, and every
//     write of both up to the larger of their last ones is in the store.
//  8. A left shard that has a copy does not split, nor one that has given away a
//     span and not dropped it absorb: what is dropped is never live.

// MergeState is what a replica has applied of the merges that its shard takes part
// in.
type MergeState struct {
	// Over is the largest attempt that is over here: absorbed or discarded in the
	// left shard, unfrozen in the right one.
	Over uint64
	// Frozen is the attempt that the shard is frozen for, zero for none. Surrendered
	// says that there is no way back, Spared that it was given up in the epoch that
	// froze it.
	Frozen              uint64
	Surrendered, Spared bool
	// Absorbing is the attempt that the shard has a copy for, zero for none, Sealed
	// that the copy is whole.
	Absorbing uint64
	Sealed    bool
	// Splitting says that a split is not done.
	Splitting bool
}

// Merge returns what this replica has applied of merges.
func (r *Replica) Merge() MergeState {
	v := r.view.Load()
	m := MergeState{Over: v.mergeFloor, Splitting: v.pending != nil}
	if f := v.frozen; f != nil {
		m.Frozen = f.Attempt
		m.Surrendered = f.SurrenderedIn != 0
		m.Spared = f.SurrenderedIn == f.Epoch
	}
	if a := v.absorbing; a != nil {
		m.Absorbing = a.Begin.GetAttempt()
		m.Sealed = a.Seal != nil
	}
	return m
}

// checkMerge decides about the commands of merges.
func (s *state) checkMerge(c *kvdpb.ShardCommand) (r Rejection, ok bool) {
	switch cmd := c.GetCommand().(type) {
	case *kvdpb.ShardCommand_Freeze:
		return s.checkFreeze(cmd.Freeze), true
	case *kvdpb.ShardCommand_Unfreeze:
		return s.checkUnfreeze(cmd.Unfreeze.GetAttempt()), true
	case *kvdpb.ShardCommand_Surrender:
		return s.checkSurrender(cmd.Surrender), true
	case *kvdpb.ShardCommand_AbsorbBegin:
		return s.checkAbsorbBegin(cmd.AbsorbBegin), true
	case *kvdpb.ShardCommand_AbsorbChunk:
		return s.checkAbsorbChunk(cmd.AbsorbChunk), true
	case *kvdpb.ShardCommand_AbsorbDiscard:
		return s.checkAbsorbDiscard(cmd.AbsorbDiscard.GetAttempt()), true
	case *kvdpb.ShardCommand_Absorb:
		return s.checkAbsorb(cmd.Absorb), true
	}
	return Accepted, false
}

// frozenOut tells whether a command has no effect because the shard is frozen:
// everything that would change what it holds.
func (s *state) frozenOut(c *kvdpb.ShardCommand) bool {
	if s.frozen == nil {
		return false
	}
	switch c.GetCommand().(type) {
	case *kvdpb.ShardCommand_Split, *kvdpb.ShardCommand_SplitDone, *kvdpb.ShardCommand_Compact,
		*kvdpb.ShardCommand_Transactions, *kvdpb.ShardCommand_Leases:
		return true
	}
	return false
}

func (s *state) checkFreeze(c *kvdpb.ShardFreeze) Rejection {
	if r := s.ownership.CheckServing(c.GetEpoch()); r != ownership.None {
		return Rejection(r)
	}
	switch {
	case c.GetAttempt() <= s.mergeFloor:
		return MergeOver
	case s.frozen != nil || s.absorbing != nil:
		return MergePending
	case s.pending != nil:
		return SplitPending
	case !bytes.Equal(c.GetStart(), s.span.Start) || !bytes.Equal(c.GetEnd(), s.span.End):
		return BadMerge
	case !s.txns.settled():
		return Unsettled
	}
	return Accepted
}

func (s *state) checkUnfreeze(attempt uint64) Rejection {
	switch {
	case s.frozen.GetSurrenderedIn() != 0:
		return Surrendered
	case attempt <= s.mergeFloor:
		return MergeOver
	case s.frozen.GetAttempt() > attempt:
		return NoSuchMerge
	}
	return Accepted
}

func (s *state) checkSurrender(c *kvdpb.ShardSurrender) Rejection {
	if r := s.ownership.CheckServing(c.GetEpoch()); r != ownership.None {
		return Rejection(r)
	}
	switch {
	case s.frozen == nil || s.frozen.Attempt != c.GetAttempt():
		return NoSuchMerge
	case s.frozen.SurrenderedIn != 0:
		return Surrendered
	}
	return Accepted
}

func (s *state) checkAbsorbBegin(c *kvdpb.ShardAbsorbBegin) Rejection {
	switch {
	case c.GetAttempt() <= s.mergeFloor:
		return MergeOver
	case s.absorbing != nil || s.frozen != nil:
		return MergePending
	case s.pending != nil:
		return SplitPending
	case c.GetRight() == 0 || c.GetRight() == s.desc.GetShard() ||
		!bytes.Equal(c.GetStart(), s.span.End) || bytes.Compare(c.GetStart(), c.GetEnd()) >= 0 ||
		!keyspace.All().ContainsSpan(keyspace.Span{Start: c.GetStart(), End: c.GetEnd()}) ||
		c.GetGeneration() <= s.desc.GetGeneration():
		return BadMerge
	}
	return Accepted
}

func (s *state) checkAbsorbChunk(c *kvdpb.ShardAbsorbChunk) Rejection {
	a := s.absorbing
	switch {
	case a == nil || a.Begin.GetAttempt() != c.GetAttempt():
		return NoSuchMerge
	case a.Seal != nil:
		return MergePending
	case c.GetCopy() == a.Copy && c.GetIndex() == a.Next:
	case c.GetCopy() == a.Copy+1 && c.GetIndex() == 0:
	default:
		return OutOfSequence
	}
	if !soundChunk(c, keyspace.Span{Start: a.Begin.GetStart(), End: a.Begin.GetEnd()}) {
		return BadMerge
	}
	if seal := c.GetSeal(); seal != nil && seal.GetRevision() < newestOf(c, a) {
		return BadMerge
	}
	return Accepted
}

// newestOf is the largest revision of a copy, up to and including a chunk.
func newestOf(c *kvdpb.ShardAbsorbChunk, a *kvdpb.ShardAbsorbing) int64 {
	newest := int64(0)
	if c.GetIndex() > 0 {
		newest = a.GetNewest()
	}
	for _, v := range c.GetVersions() {
		newest = max(newest, v.GetRevision())
	}
	return newest
}

// soundChunk tells whether a chunk could be absorbed: whatever its sender did, what
// is accepted never fails later.
func soundChunk(c *kvdpb.ShardAbsorbChunk, span keyspace.Span) bool {
	for _, v := range c.GetVersions() {
		if !span.Contains(v.GetKey()) || v.GetRevision() < 1 || v.GetSub() < 0 {
			return false
		}
		if !v.GetTombstone() && (v.GetVersion() < 1 || v.GetCreate() < 1 || v.GetCreate() > v.GetRevision()) {
			return false
		}
	}
	for _, l := range c.GetLeases() {
		if !span.Contains(keyspace.Lease(l.GetId())) {
			return false
		}
	}
	return c.GetSeal().GetRevision() >= 0 && c.GetSeal().GetCompactRevision() >= 0
}

func (s *state) checkAbsorbDiscard(attempt uint64) Rejection {
	switch {
	case attempt <= s.mergeFloor:
		return MergeOver
	case s.absorbing.GetBegin().GetAttempt() > attempt:
		return NoSuchMerge
	}
	return Accepted
}

func (s *state) checkAbsorb(c *kvdpb.ShardAbsorb) Rejection {
	if r := s.ownership.CheckWrite(c.GetEpoch(), c.GetSeq()); r != ownership.None {
		return Rejection(r)
	}
	a := s.absorbing
	switch {
	case a == nil || a.Begin.GetAttempt() != c.GetAttempt() || a.Seal == nil:
		return NoSuchMerge
	case s.pending != nil:
		return SplitPending
	case s.frozen != nil:
		return MergePending
	case len(s.txns.prepared) > 0:
		return Unsettled
	}
	return Accepted
}

// applyMerge changes the state by a command that checkMerge accepted.
func (s *state) applyMerge(c *kvdpb.ShardCommand) {
	switch cmd := c.GetCommand().(type) {
	case *kvdpb.ShardCommand_Freeze:
		s.frozen = &kvdpb.ShardFrozen{Attempt: cmd.Freeze.GetAttempt(), Epoch: cmd.Freeze.GetEpoch(), Left: cmd.Freeze.GetLeft()}
	case *kvdpb.ShardCommand_Unfreeze:
		s.frozen, s.mergeFloor = nil, cmd.Unfreeze.GetAttempt()
	case *kvdpb.ShardCommand_Surrender:
		f := s.frozen
		s.frozen = &kvdpb.ShardFrozen{Attempt: f.Attempt, Epoch: f.Epoch, Left: f.Left, SurrenderedIn: cmd.Surrender.GetEpoch()}
	case *kvdpb.ShardCommand_AbsorbBegin:
		s.absorbing = &kvdpb.ShardAbsorbing{Begin: cmd.AbsorbBegin}
	case *kvdpb.ShardCommand_AbsorbChunk:
		x := cmd.AbsorbChunk
		s.absorbing = &kvdpb.ShardAbsorbing{
			Begin: s.absorbing.Begin, Copy: x.GetCopy(), Next: x.GetIndex() + 1, Seal: x.GetSeal(), Newest: newestOf(x, s.absorbing),
		}
	case *kvdpb.ShardCommand_AbsorbDiscard:
		s.absorbing, s.mergeFloor = nil, cmd.AbsorbDiscard.GetAttempt()
	case *kvdpb.ShardCommand_Absorb:
		s.ownership.ApplyWrite()
		begin := s.absorbing.Begin
		d := cloneDescriptor(s.desc)
		d.End, d.Generation = begin.GetEnd(), begin.GetGeneration()
		s.desc, s.span = d, spanOf(d)
		s.lastRevision = max(s.lastRevision, s.absorbing.Seal.GetRevision())
		s.absorbing, s.mergeFloor = nil, begin.GetAttempt()
	}
}

// settled tells whether nothing of a transaction over several shards is left here.
func (x *txnTable) settled() bool { return len(x.prepared) == 0 && len(x.records) == 0 }
