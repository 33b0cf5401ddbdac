package placement

import (
	"context"
	"fmt"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// MoveSequencer hands the sequencer from this member to another one, and returns
// once that serves. It fails with etcd's errors: ErrGRPCNotLeader if this member
// does not hold the sequencer, and ErrGRPCBadLeaderTransferee if the other cannot
// hold it: there is none, it is a learner, or it does not vote in the placement
// group.
func (n *Node) MoveSequencer(ctx context.Context, to uint64) error {
	if !n.owns(n.View().Ownership) {
		return rpctypes.ErrGRPCNotLeader
	}
	m := n.View().Member(to)
	if m == nil || m.Learner || m.Replica > maxVoters {
		return rpctypes.ErrGRPCBadLeaderTransferee
	}
	if err := n.HandOver(ctx, to); err != nil {
		return err
	}
	for {
		changed := n.next()
		if own := n.View().Ownership; own.Serving && !own.Released {
			if own.Member == to {
				return nil
			}
			return fmt.Errorf("placement: member %016x took the sequencer, not %016x", own.Member, to)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("placement: wait for member %016x to serve: %w", to, ctx.Err())
		case <-n.ctx.Done():
			return ErrClosed
		case <-changed:
		}
	}
}

// StandingAlarms lists the alarms that stand, as this member has applied them.
// The caller must not change them.
func (n *Node) StandingAlarms() []*kvdpb.Alarm { return n.View().alarms }

// Downgrade is the version that the cluster was told to go back to, empty if
// none.
func (n *Node) Downgrade() string { return n.View().downgrade.GetTarget() }
