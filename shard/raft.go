package shard

import (
	"context"

	"github.com/kvd-io/kvd/multiraft"
)

// Raft is the shard's group as its replica sees it. The members of the interface
// have the meaning that *multiraft.Host gives them; [Bind] makes one of it. The
// state machine never calls it.
type Raft interface {
	// Propose appends a command to the log if this replica is the raft leader. An
	// error means that it was not appended. The command may be reused.
	Propose(cmd []byte) (Proposal, error)
	// ReadIndex returns once this replica has applied what was committed when the
	// call began.
	ReadIndex(ctx context.Context) error
	// TransferLeader asks another replica to take over; it may not happen.
	TransferLeader(to uint64) error
}

// Proposal is a command on its way.
type Proposal interface {
	// Done delivers exactly one signal, which Outcome translates.
	Done() <-chan multiraft.Signal
	Outcome(multiraft.Signal) multiraft.Outcome
}

// Bind returns a shard's group on a host.
func Bind(h *multiraft.Host, shard uint64) Raft { return &hostGroup{host: h, shard: shard} }

type hostGroup struct {
	host  *multiraft.Host
	shard uint64
}

func (g *hostGroup) Propose(cmd []byte) (Proposal, error) {
	p, err := g.host.Propose(g.shard, cmd)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (g *hostGroup) ReadIndex(ctx context.Context) error { return g.host.ReadIndex(ctx, g.shard) }

func (g *hostGroup) TransferLeader(to uint64) error { return g.host.TransferLeader(g.shard, to) }
