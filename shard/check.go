package shard

import (
	"bytes"
	"fmt"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/command"
	"github.com/kvd-io/kvd/shard/ownership"
)

// Rejection says why a command has no effect. It is decided from the replicated
// state and the command alone, on all replicas alike. Its number travels in the
// outcome of a proposal.
type Rejection uint8

// The first numbers are package ownership's.
const (
	// Accepted: the command applies.
	Accepted = Rejection(ownership.None)
	// WrongEpoch, OutOfSequence, NotServing, Released: see package ownership.
	WrongEpoch    = Rejection(ownership.WrongEpoch)
	OutOfSequence = Rejection(ownership.OutOfSequence)
	NotServing    = Rejection(ownership.NotServing)
	Released      = Rejection(ownership.Released)
)

const (
	// NotInitialized: the group has not applied its Init yet.
	NotInitialized Rejection = 32 + iota
	// AlreadyInitialized: the group has applied an Init before.
	AlreadyInitialized
	// RevisionNotIncreasing: a write carries a revision that is not above the
	// shard's last one. It never happens unless the sequencer or an owner is
	// broken, and raises an alarm.
	RevisionNotIncreasing
	// OutsideSpan: a write touches a key that the shard does not hold.
	OutsideSpan
	// SplitPending: the shard has a split that is not done.
	SplitPending
	// BadSplit: the child does not fit the shard as it is now.
	BadSplit
	// NoSuchSplit: the split is done already, or never was.
	NoSuchSplit
	// Frozen: the shard is being merged away, and nothing of it changes.
	Frozen
	// MergePending: the shard takes part in a merge, or the copy for it is whole already.
	MergePending
	// MergeOver: the attempt to merge is over.
	MergeOver
	// NoSuchMerge: the shard is not at that point of that attempt.
	NoSuchMerge
	// BadMerge: what is to be absorbed does not fit the shard.
	BadMerge
	// Unsettled: a transaction over several shards is not settled here.
	Unsettled
	// Surrendered: the shard has given its keys up for ever.
	Surrendered
)

func (r Rejection) String() string {
	switch r {
	case NotInitialized:
		return "not initialized"
	case AlreadyInitialized:
		return "already initialized"
	case RevisionNotIncreasing:
		return "revision not increasing"
	case OutsideSpan:
		return "outside the shard's span"
	case SplitPending:
		return "a split is pending"
	case BadSplit:
		return "split does not fit the shard"
	case NoSuchSplit:
		return "no such split"
	case Frozen:
		return "the shard is frozen"
	case MergePending:
		return "a merge is pending"
	case MergeOver:
		return "the attempt to merge is over"
	case NoSuchMerge:
		return "no such merge"
	case BadMerge:
		return "merge does not fit the shard"
	case Unsettled:
		return "a transaction is not settled"
	case Surrendered:
		return "the shard has surrendered"
	}
	if r < NotInitialized {
		return ownership.Rejection(r).String()
	}
	return fmt.Sprintf("rejection %d", uint8(r))
}

// check decides whether a command other than a batch of writes applies. With
// checkWrites it is the only place that may reject a command; whatever goes
// wrong after it stops the member.
func (s *state) check(c *kvdpb.ShardCommand) Rejection {
	if in := c.GetInit(); in != nil {
		if s.initialized {
			return AlreadyInitialized
		}
		return Accepted
	}
	if !s.initialized {
		return NotInitialized
	}
	if s.frozenOut(c) {
		return Frozen
	}
	if r, ok := s.checkMerge(c); ok {
		return r
	}
	switch cmd := c.GetCommand().(type) {
	case *kvdpb.ShardCommand_Claim:
		o := s.ownership
		r, _ := o.ApplyClaim(cmd.Claim)
		return Rejection(r)
	case *kvdpb.ShardCommand_Serving:
		o := s.ownership
		return Rejection(o.ApplyServing(cmd.Serving.GetEpoch()))
	case *kvdpb.ShardCommand_Release:
		o := s.ownership
		return Rejection(o.ApplyRelease(cmd.Release.GetEpoch()))
	case *kvdpb.ShardCommand_Split:
		return s.checkSplit(cmd.Split)
	case *kvdpb.ShardCommand_Transactions:
		return s.checkTransactions(cmd.Transactions)
	case *kvdpb.ShardCommand_SplitDone:
		if r := s.ownership.CheckServing(cmd.SplitDone.GetEpoch()); r != ownership.None {
			return Rejection(r)
		}
		if s.pending == nil || s.pending.GetShard() != cmd.SplitDone.GetChild() {
			return NoSuchSplit
		}
	case *kvdpb.ShardCommand_Leases:
		return s.checkLeases(cmd.Leases)
	}
	return Accepted
}

// checkLeases rejects what is not the next of its epoch, or about a lease whose
// record another shard holds.
func (s *state) checkLeases(c *kvdpb.ShardLeases) Rejection {
	if r := s.ownership.CheckServing(c.GetEpoch()); r != ownership.None {
		return Rejection(r)
	}
	if c.GetSeq() != s.leaseSeq {
		return OutOfSequence
	}
	for _, l := range c.GetSet() {
		if !s.span.Contains(keyspace.Lease(l.GetId())) {
			return OutsideSpan
		}
	}
	for _, id := range c.GetDrop() {
		if !s.span.Contains(keyspace.Lease(id)) {
			return OutsideSpan
		}
	}
	return Accepted
}

// checkSplit rejects a split unless its epoch serves, no other split is pending,
// and the child takes the right part of the shard as it is now.
func (s *state) checkSplit(c *kvdpb.ShardSplit) Rejection {
	if r := s.ownership.CheckServing(c.GetEpoch()); r != ownership.None {
		return Rejection(r)
	}
	if s.pending != nil {
		return SplitPending
	}
	if s.absorbing != nil {
		return MergePending
	}
	child := c.GetChild()
	if child.GetShard() == 0 || child.GetShard() == s.desc.GetShard() ||
		bytes.Compare(child.GetStart(), s.span.Start) <= 0 ||
		bytes.Compare(child.GetStart(), s.span.End) >= 0 ||
		!bytes.Equal(child.GetEnd(), s.span.End) ||
		c.GetGeneration() <= s.desc.GetGeneration() || s.overlapsPrepared(child) {
		return BadSplit
	}
	return Accepted
}

// checkWrites decides whether a batch of writes applies.
func (s *state) checkWrites(b *command.Batch) Rejection {
	if !s.initialized {
		return NotInitialized
	}
	if s.frozen != nil {
		return Frozen
	}
	if r := s.ownership.CheckWrite(b.Epoch, b.Seq); r != ownership.None {
		return Rejection(r)
	}
	last := s.lastRevision
	for i := range b.Txns {
		t := &b.Txns[i]
		if t.Revision <= last {
			return RevisionNotIncreasing
		}
		last = t.Revision
		for j := range t.Effects {
			if !s.span.Contains(t.Effects[j].Key) {
				return OutsideSpan
			}
		}
	}
	return Accepted
}

// apply changes the state by a command that check accepted. The owner's claim
// tells whether it follows directly on an epoch of the same process.
func (s *state) apply(c *kvdpb.ShardCommand) (direct bool) {
	switch cmd := c.GetCommand().(type) {
	case *kvdpb.ShardCommand_Init:
		if s.desc == nil {
			s.desc = cmd.Init.GetDescriptor_()
			s.span = spanOf(s.desc)
		}
		s.initialized = true
	case *kvdpb.ShardCommand_Claim:
		_, direct = s.ownership.ApplyClaim(cmd.Claim)
		s.leaseSeq = 0
	case *kvdpb.ShardCommand_Serving:
		s.ownership.ApplyServing(cmd.Serving.GetEpoch())
	case *kvdpb.ShardCommand_Release:
		s.ownership.ApplyRelease(cmd.Release.GetEpoch())
	case *kvdpb.ShardCommand_Split:
		s.applySplit(cmd.Split)
	case *kvdpb.ShardCommand_SplitDone:
		s.pending, s.pendingRevision = nil, 0
	case *kvdpb.ShardCommand_Leases:
		s.leaseSeq++
	default:
		s.applyMerge(c)
	}
	return direct
}

// applySplit shrinks the shard and remembers the child. Nothing else happens:
// the frozen span stays in the store until SplitDone.
func (s *state) applySplit(c *kvdpb.ShardSplit) {
	child := cloneDescriptor(c.GetChild())
	child.Generation = c.GetGeneration()
	parent := cloneDescriptor(s.desc)
	parent.End = child.GetStart()
	parent.Generation = c.GetGeneration()
	s.desc, s.span = parent, spanOf(parent)
	s.pending, s.pendingRevision = child, s.lastRevision
}

// applyWrites advances the state by a batch that checkWrites accepted.
func (s *state) applyWrites(b *command.Batch) {
	s.ownership.ApplyWrite()
	if n := len(b.Txns); n > 0 {
		s.lastRevision = b.Txns[n-1].Revision
	}
}
