package placement

import (
	"context"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.uber.org/zap"
)

// The group's raft membership follows the members of its state. Every member has
// a replica, so that it follows the range map through raft; up to maxVoters of
// them vote. A new one begins as non-voting and votes only once it has answered
// that it has caught up, so that no quorum ever counts a process that was not
// started. A removed one is taken out last, when no shard has a replica on it any
// more, because until then it needs the range map.

// groupAction is what is to be done next about the group's membership.
type groupAction string

const (
	groupAdd     groupAction = "add"
	groupPromote groupAction = "promote"
	groupRemove  groupAction = "remove"
	// groupHandOver: this member, which owns the group, is to be removed.
	groupHandOver groupAction = "hand over"
	groupForget   groupAction = "forget"
)

type groupStep struct {
	action groupAction
	member *kvdpb.Member
}

// nextGroupStep decides the next change of the group's membership. waiting tells
// that there is more to do once a member is ready. ready is asked only about
// members that would be made to vote.
func nextGroupStep(v *View, self uint64, g multiraft.Membership, ready func(*kvdpb.Member) bool) (step *groupStep, waiting bool) {
	for _, m := range v.Members {
		_, votes := g.Voters[m.Replica]
		_, follows := g.NonVoting[m.Replica]
		if !votes && !follows {
			return &groupStep{groupAdd, m}, true
		}
	}
	for _, m := range v.Members {
		if _, follows := g.NonVoting[m.Replica]; !follows || !m.Votes {
			continue
		}
		waiting = true
		if ready(m) {
			return &groupStep{groupPromote, m}, true
		}
	}
	for _, m := range v.Departing {
		if replicasOn(v.Map.byID, m.Id) > 0 {
			continue // its last replica's DropReplica is news
		}
		_, votes := g.Voters[m.Replica]
		_, follows := g.NonVoting[m.Replica]
		switch {
		case !votes && !follows:
			return &groupStep{groupForget, m}, true
		case m.Id == self:
			return &groupStep{groupHandOver, m}, true
		}
		return &groupStep{groupRemove, m}, true
	}
	return nil, waiting
}

// runGroup brings the group's membership to what the state says, while this
// member is the sequencer.
func (n *Node) runGroup() {
	p := newPause(later, time.Second)
	defer p.stop()
	var done *Map
	var again <-chan time.Time
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.follow:
		case <-again:
		}
		again = nil
		v := n.View()
		if !n.Serving() || v.Map == done {
			continue
		}
		acted, waiting, err := n.stepGroup(v)
		switch {
		case err != nil:
			n.log.Info("placement: the group's membership is not as it should be yet", zap.Error(err))
			again = p.after()
		case acted:
			p.reset()
			n.follow.ring()
		case waiting:
			again = p.after()
		default:
			done = v.Map
			p.reset()
		}
	}
}

// stepGroup makes one change of the group's membership.
func (n *Node) stepGroup(v *View) (acted, waiting bool, err error) {
	ctx, cancel := context.WithTimeout(n.ctx, 5*n.cfg.Election)
	defer cancel()
	g, err := n.cfg.Raft.Group(ctx)
	if err != nil {
		return false, true, fmt.Errorf("read the group's membership: %w", err)
	}
	step, waiting := nextGroupStep(v, n.cfg.Member, g, func(m *kvdpb.Member) bool { return n.ready(ctx, m) })
	if step == nil {
		return false, waiting, nil
	}
	m := step.member
	switch step.action {
	case groupAdd:
		err = n.cfg.Raft.AddNonVoting(ctx, m.Replica, m.Id, g.ConfigChangeID)
	case groupPromote:
		err = n.cfg.Raft.AddVoter(ctx, m.Replica, m.Id, g.ConfigChangeID)
	case groupRemove:
		err = n.cfg.Raft.Remove(ctx, m.Replica, g.ConfigChangeID)
	case groupHandOver:
		err = n.handOverToAny(ctx, v, g)
	case groupForget:
		_, err = n.Update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_ForgetMember{ForgetMember: &kvdpb.ForgetMember{Id: m.Id}}})
	}
	if err != nil {
		return false, true, fmt.Errorf("%s member %016x: %w", step.action, m.Id, err)
	}
	n.log.Info("placement: changed the group's membership", zap.String("change", string(step.action)),
		zap.String("member", fmt.Sprintf("%016x", m.Id)), zap.Uint64("replica", m.Replica))
	return true, true, nil
}

// ready asks a member whether its replica has caught up.
func (n *Node) ready(ctx context.Context, m *kvdpb.Member) bool {
	if m.Id == n.cfg.Member {
		return true
	}
	// A member that was never started has no name yet and is not asked.
	if m.Name == "" {
		return false
	}
	conn, err := n.cfg.Conn(m.Id)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Election)
	defer cancel()
	_, err = kvdpb.NewPlacementClient(conn).CaughtUp(ctx, &kvdpb.CaughtUpRequest{})
	return err == nil
}

// handOverToAny passes the ownership to a voter that answers.
func (n *Node) handOverToAny(ctx context.Context, v *View, g multiraft.Membership) error {
	for _, m := range v.Members {
		if _, votes := g.Voters[m.Replica]; votes && m.Id != n.cfg.Member && n.ready(ctx, m) {
			return n.HandOver(ctx, m.Id)
		}
	}
	return fmt.Errorf("no other voter answers")
}
