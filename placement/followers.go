package placement

import (
	"context"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.uber.org/zap"
)

// runFollowers gives each member beyond the voters a non-voting replica of the
// group, so that every member follows the range map through raft. The sequencer
// does it, once per ownership and change of members.
func (n *Node) runFollowers() {
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
		if n.addFollowers(v.Members) {
			done = v.Map
			p.reset()
		} else {
			again = p.after()
		}
	}
}

// addFollowers tells whether every member follows.
func (n *Node) addFollowers(members []*kvdpb.Member) bool {
	all := true
	for _, m := range members {
		if m.Replica <= maxVoters {
			continue
		}
		ctx, cancel := context.WithTimeout(n.ctx, 5*n.cfg.Election)
		err := n.cfg.Raft.Follow(ctx, m.Replica, m.Id)
		cancel()
		if err != nil {
			all = false
			n.log.Info("placement: member does not follow yet", zap.Uint64("member", m.Id), zap.Error(err))
		}
	}
	return all
}
