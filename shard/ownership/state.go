package ownership

import (
	"fmt"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Rejection says why a command does not apply. It is decided from the
// replicated state and the command alone, so all replicas decide alike.
type Rejection uint8

const (
	// None: the command applies.
	None Rejection = iota
	// WrongEpoch: another ownership stands.
	WrongEpoch
	// OutOfSequence: an earlier command of the epoch is missing, or this one
	// was applied before.
	OutOfSequence
	// NotServing: the epoch has not logged Serving yet.
	NotServing
	// Released: the epoch has logged Release.
	Released
)

func (r Rejection) String() string {
	switch r {
	case None:
		return "none"
	case WrongEpoch:
		return "wrong epoch"
	case OutOfSequence:
		return "out of sequence"
	case NotServing:
		return "not serving yet"
	case Released:
		return "released"
	}
	return fmt.Sprintf("rejection %d", uint8(r))
}

// State is the replicated record of a group's ownership. The zero value is a
// group that never had an owner.
type State struct {
	// Epoch is the number of the ownership; it never falls.
	Epoch uint64
	// Member, Replica and Incarnation name the owner of the epoch.
	Member, Replica, Incarnation uint64
	// Serving is set once the owner has waited out its predecessors.
	Serving bool
	// Released is set once the owner has stopped for good.
	Released bool
	// MustWait tells the owner that it may log Serving only after a WaitOut.
	MustWait bool
	// NextSeq is the sequence number that the next write of the epoch carries.
	NextSeq uint64
}

// FromProto reads a state from its message; nil is the zero state.
func FromProto(p *kvdpb.Ownership) State {
	return State{
		Epoch:       p.GetEpoch(),
		Member:      p.GetMember(),
		Replica:     p.GetReplica(),
		Incarnation: p.GetIncarnation(),
		Serving:     p.GetServing(),
		Released:    p.GetReleased(),
		MustWait:    p.GetMustWait(),
		NextSeq:     p.GetNextSeq(),
	}
}

// Proto returns the state as a message.
func (s State) Proto() *kvdpb.Ownership {
	return &kvdpb.Ownership{
		Epoch:       s.Epoch,
		Member:      s.Member,
		Replica:     s.Replica,
		Incarnation: s.Incarnation,
		Serving:     s.Serving,
		Released:    s.Released,
		MustWait:    s.MustWait,
		NextSeq:     s.NextSeq,
	}
}

// IsOwner tells whether the given process owns the current epoch, serving or not.
func (s State) IsOwner(member, replica, incarnation uint64) bool {
	return s.Epoch != 0 && s.Member == member && s.Replica == replica && s.Incarnation == incarnation
}

// ApplyClaim makes the claimant the owner if the epoch it succeeds still stands.
//
// directSuccessor is true when the claim follows directly on an epoch of the
// same process: whatever of that epoch has not applied by now never will, so
// its owner may propose it anew in the new epoch with the same revisions.
func (s *State) ApplyClaim(c *kvdpb.Claim) (rejection Rejection, directSuccessor bool) {
	if c.GetPreviousEpoch() != s.Epoch {
		return WrongEpoch, false
	}
	prev := *s
	// A predecessor that served had itself waited out everything before it.
	// Its own lease is over if it released, and harmless if it was this member:
	// an earlier incarnation is gone, this one is itself.
	spared := prev.Epoch == 0 || (prev.Serving && (prev.Released || prev.Member == c.GetMember()))
	*s = State{
		Epoch:       prev.Epoch + 1,
		Member:      c.GetMember(),
		Replica:     c.GetReplica(),
		Incarnation: c.GetIncarnation(),
		MustWait:    !spared,
	}
	return None, prev.IsOwner(c.GetMember(), c.GetReplica(), c.GetIncarnation())
}

// ApplyServing records that the owner of the epoch has waited out.
func (s *State) ApplyServing(epoch uint64) Rejection {
	switch {
	case s.Epoch == 0 || epoch != s.Epoch:
		return WrongEpoch
	case s.Released:
		return Released
	}
	s.Serving = true
	return None
}

// ApplyRelease records that the owner of the epoch stopped for good. An owner
// that never served has nothing to release, and its successor inherits its wait.
func (s *State) ApplyRelease(epoch uint64) Rejection {
	if r := s.CheckServing(epoch); r != None {
		return r
	}
	s.Released = true
	return None
}

// CheckServing is the check of a command that only a serving owner may log and
// that stands outside the sequence of writes.
func (s *State) CheckServing(epoch uint64) Rejection {
	switch {
	case s.Epoch == 0 || epoch != s.Epoch:
		return WrongEpoch
	case !s.Serving:
		return NotServing
	case s.Released:
		return Released
	}
	return None
}

// CheckWrite is the check of a write: right epoch, serving, next in sequence.
func (s *State) CheckWrite(epoch, seq uint64) Rejection {
	if r := s.CheckServing(epoch); r != None {
		return r
	}
	if seq != s.NextSeq {
		return OutOfSequence
	}
	return None
}

// ApplyWrite advances the sequence after a write that CheckWrite let pass.
func (s *State) ApplyWrite() { s.NextSeq++ }
