package multiraft

import (
	"time"

	"github.com/lni/dragonboat/v4/raftpb"
)

// A new group elects its first leader after one to two election timeouts, which is far too long for a split. Raft has a message that makes a replica
// campaign at once, TimeoutNow, by which a leader hands over. A campaign for a hand-over skips the pre-vote and is answered even by replicas that have
// heard of a leader recently. Sending it to oneself is as safe as any campaign.
//
// It is lost, however, while the replica applies its first entries, and votes are lost while the other replicas are not yet running. So it is repeated until there
// is a leader, less and less often, because a campaign that is repeated before the votes are back defeats itself. A candidate does not campaign again before its timeout; NoOP in a higher term, the message by which Dragonboat frees stuck candidates, makes it
// a follower first.

const (
	campaignPoll  = time.Millisecond
	campaignFirst = 5 * time.Millisecond
)

// Campaign makes the local replica of a shard stand for election at once, once, which it may lose or not be ready for. Another replica that leads loses its place: it
// is for groups without a leader.
func (h *Host) Campaign(shard uint64) error {
	r := h.replica(shard)
	if r == nil {
		return ErrNotFound
	}
	return r.campaign()
}

func (r *replica) campaign() error {
	if r.leading.Load() {
		return nil
	}
	term := uint64(1)
	if e := r.leader.Load(); e != nil {
		term = e.Term + 1
	}
	from := raftpb.Message{ShardID: r.shard, To: r.id, From: r.id}
	step, now := from, from
	step.Type, step.Term = raftpb.NoOP, term
	now.Type = raftpb.TimeoutNow
	return r.host.transport.inject(step, now)
}

// campaignAtStart campaigns until there is a leader, the replica ends, or the usual elections have taken over.
func (h *Host) campaignAtStart(r *replica) {
	give := time.Now().Add(10 * h.cfg.Election)
	pause := campaignFirst
	var step func()
	step = func() {
		if _, _, known := h.Leader(r.shard); known || h.ctx.Err() != nil || h.replica(r.shard) != r || time.Now().After(give) {
			return
		}
		wait := campaignPoll
		if r.ready.Load() && r.campaign() == nil {
			wait = pause
			pause = min(2*pause, h.cfg.Election/2)
		}
		time.AfterFunc(wait, step)
	}
	step()
}
