package placement

import (
	"context"
	"fmt"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/protobuf/proto"
)

// Entry is one raft entry on its way through the state machine, which fills in
// Result (a PlacementResult_Rejection) and Data (an encoded PlacementResult).
type Entry = multiraft.Entry

var _ multiraft.StateMachine = (*Machine)(nil)

// hostRaft is the placement group's replica of a multiraft host.
type hostRaft struct{ host *multiraft.Host }

// NewRaft returns the placement group's replica of host.
func NewRaft(host *multiraft.Host) Raft { return hostRaft{host} }

func (r hostRaft) Propose(ctx context.Context, cmd []byte) Proposed {
	p, err := r.host.Propose(Shard, cmd)
	if err != nil {
		return Proposed{Fate: NotAppended, Err: err}
	}
	switch o := p.Wait(ctx); o.Kind {
	case multiraft.Applied:
		res := &kvdpb.PlacementResult{}
		if err := proto.Unmarshal(o.Data, res); err != nil {
			return Proposed{Err: fmt.Errorf("decode result: %w", err)}
		}
		return Proposed{Fate: Applied, Result: res}
	case multiraft.NotAppended:
		return Proposed{Fate: NotAppended, Err: o.Err}
	default:
		return Proposed{Err: o.Err}
	}
}

func (r hostRaft) ReadIndex(ctx context.Context) error { return r.host.ReadIndex(ctx, Shard) }

func (r hostRaft) Leader() (replica, term uint64) {
	replica, term, known := r.host.Leader(Shard)
	if !known {
		return 0, term
	}
	return replica, term
}

func (r hostRaft) TransferLeader(replica uint64) error { return r.host.TransferLeader(Shard, replica) }

func (r hostRaft) Campaign() error { return r.host.Campaign(Shard) }

func (r hostRaft) Group(ctx context.Context) (multiraft.Membership, error) {
	return r.host.Membership(ctx, Shard)
}

func (r hostRaft) AddNonVoting(ctx context.Context, replica, member, configChangeID uint64) error {
	return r.host.AddNonVoting(ctx, Shard, replica, member, configChangeID)
}

func (r hostRaft) AddVoter(ctx context.Context, replica, member, configChangeID uint64) error {
	return r.host.AddReplica(ctx, Shard, replica, member, configChangeID)
}

func (r hostRaft) Remove(ctx context.Context, replica, configChangeID uint64) error {
	return r.host.RemoveReplica(ctx, Shard, replica, configChangeID)
}
