package placement

import (
	"context"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Shard is the raft group of placement.
const Shard = 1

// Raft is what a node needs of the placement group's local replica.
type Raft interface {
	// Propose proposes a command through the local replica, which must be the
	// raft leader, and waits for its fate. It never retries.
	Propose(ctx context.Context, cmd []byte) Proposed
	// ReadIndex returns once the local state machine has applied everything that
	// was committed when it was called.
	ReadIndex(ctx context.Context) error
	// Leader tells the local replica's view: the leading replica (zero if none is
	// known) and the term.
	Leader() (replica, term uint64)
	// TransferLeader asks the local leader to hand over to another replica. It may
	// come to nothing.
	TransferLeader(replica uint64) error
	// Campaign makes the local replica stand for election at once, even against a
	// leader. It may come to nothing.
	Campaign() error
	// Group returns the group's membership as of a linearizable read.
	Group(ctx context.Context) (multiraft.Membership, error)
	// AddNonVoting, AddVoter (which promotes a non-voting replica) and Remove change
	// the membership that configChangeID names. After an error the change may have
	// happened. Only the leader need succeed.
	AddNonVoting(ctx context.Context, replica, member, configChangeID uint64) error
	AddVoter(ctx context.Context, replica, member, configChangeID uint64) error
	Remove(ctx context.Context, replica, configChangeID uint64) error
}

// Fate is what became of a proposal.
type Fate uint8

const (
	// Unknown: it may apply, later or never.
	Unknown Fate = iota
	// Applied: it went through the state machine, which may have rejected it.
	Applied
	// NotAppended: it is in no log and never will be.
	NotAppended
)

// Proposed is the outcome of a proposal.
type Proposed struct {
	Fate Fate
	// Result is set if the fate is Applied.
	Result *kvdpb.PlacementResult
	// Err says why, if the fate is another one.
	Err error
}

// ok tells whether the command applied and had its effect.
func (p Proposed) ok() bool {
	return p.Fate == Applied && p.Result.GetRejection() == kvdpb.PlacementResult_NONE
}
