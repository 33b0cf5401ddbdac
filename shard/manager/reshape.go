package manager

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// The owner of a shard changes its replicas as placement's descriptor says. What
// is to be done next follows from the descriptor and from raft's membership, both
// read linearizably before each step; so whoever owns the shard goes on where the
// last one stopped, and a step that is done twice is refused by raft or changes
// nothing.

// change is the next step towards what the descriptor says of a shard's replicas.
type change string

const (
	// changeAdd: add the replica to the raft group as non-voting.
	changeAdd change = "add"
	// changeAsk: ask the replica how far it is.
	changeAsk change = "ask"
	// changePromote: let it vote.
	changePromote change = "promote"
	// changeTellPromoted: tell placement that it votes.
	changeTellPromoted change = "tell promoted"
	// changeGiveUp: give the replica up, it can never catch up.
	changeGiveUp change = "give up"
	// changeHandOver: this replica is to leave, another must own the shard.
	changeHandOver change = "hand over"
	// changeLetGo: the others can do without the replica that is rebuilt; tell placement
	// that it leaves.
	changeLetGo change = "let go"
	// changeRemove: take the replica out of the raft group.
	changeRemove change = "remove"
	// changeTellDropped: tell placement that it is out.
	changeTellDropped change = "tell dropped"
)

// progress is what is known of a replica that is to catch up.
type progress uint8

const (
	unasked progress = iota
	behind
	caughtUp
	unfed
)

// reshapeStep is a change and the replica that it is about; for a hand-over, the
// one that shall own the shard.
type reshapeStep struct {
	change  change
	replica *kvdpb.Replica
}

// decideChange returns the next step for the shard of a serving owner whose
// replica is self; false where there is nothing to do, or to wait. home is the
// member that should own the shard, zero for any. A member is sound if it is alive and
// its replica was not found to differ from the others.
func decideChange(d *kvdpb.Descriptor, g multiraft.Membership, self, home uint64, p progress, alive, sound func(member uint64) bool) (reshapeStep, bool) {
	for _, r := range d.Replicas {
		_, votes := g.Voters[r.Replica]
		_, follows := g.NonVoting[r.Replica]
		switch {
		case r.Joining && votes:
			return reshapeStep{changeTellPromoted, r}, true
		case r.Joining && !follows:
			return reshapeStep{changeAdd, r}, true
		case r.Joining && p == unasked:
			return reshapeStep{changeAsk, r}, true
		case r.Joining && p == caughtUp:
			return reshapeStep{changePromote, r}, true
		case r.Joining && p == unfed:
			return reshapeStep{changeGiveUp, r}, true
		case r.Joining:
			return reshapeStep{}, false
		case r.Leaving && !votes && !follows:
			return reshapeStep{changeTellDropped, r}, true
		case r.Leaving && r.Replica == self:
			to := successor(d, g, self, home, sound)
			if to == nil {
				to = successor(d, g, self, home, alive)
			}
			return reshapeStep{changeHandOver, to}, to != nil
		case r.Leaving:
			return reshapeStep{changeRemove, r}, !votes || survives(g, r, alive)
		case r.Rebuild && r.Replica == self:
			to := successor(d, g, self, home, sound)
			return reshapeStep{changeHandOver, to}, to != nil
		case r.Rebuild:
			return reshapeStep{changeLetGo, r}, survives(g, r, sound)
		}
	}
	return reshapeStep{}, false
}

// successor is a voter that can own the shard instead of self: the one at
// home, or else the newest, which in a move takes the place of self.
func successor(d *kvdpb.Descriptor, g multiraft.Membership, self, home uint64, alive func(uint64) bool) *kvdpb.Replica {
	var best *kvdpb.Replica
	for _, r := range d.Replicas {
		if _, votes := g.Voters[r.Replica]; !votes || r.Leaving || r.Replica == self || !alive(r.Member) {
			continue
		}
		if r.Member == home {
			return r
		}
		if best == nil || r.Replica > best.Replica {
			best = r
		}
	}
	return best
}

// survives tells whether a majority of the voters without r is alive.
func survives(g multiraft.Membership, r *kvdpb.Replica, alive func(uint64) bool) bool {
	rest, up := 0, 0
	for replica, member := range g.Voters {
		if replica == r.Replica {
			continue
		}
		rest++
		if alive(member) {
			up++
		}
	}
	return up > rest/2
}

// changing tells whether a descriptor names a change of replicas.
func changing(d *kvdpb.Descriptor) bool {
	for _, r := range d.GetReplicas() {
		if r.Joining || r.Leaving || r.Rebuild {
			return true
		}
	}
	return false
}

// reshapePause is how long a shard whose change has to wait is left alone.
const reshapePause = 250 * time.Millisecond

// reshapeAll begins a step for each shard that is served here and whose replicas
// change.
func (m *Manager) reshapeAll(v view) {
	for _, d := range v.shards {
		if v.local[d.Shard].serving && changing(d) {
			m.reshape(d.Shard)
		}
	}
}

// reshape makes one step in the background, unless one is under way.
func (m *Manager) reshape(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed || m.mu.reshaping[id] {
		return
	}
	m.mu.reshaping[id] = true
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		ctx, cancel := context.WithTimeout(m.ctx, stepTimeout)
		acted, err := m.reshapeOnce(ctx, id)
		cancel()
		if err != nil && m.ctx.Err() == nil {
			m.log.Info("a change of a shard's replicas is tried again", zap.Uint64("shard", id), zap.Error(err))
		}
		if !acted || err != nil {
			select {
			case <-m.ctx.Done():
			case <-time.After(reshapePause):
			}
		}
		m.mu.Lock()
		delete(m.mu.reshaping, id)
		m.mu.Unlock()
		m.Wake()
	}()
}

// reshapeOnce makes the next step of a shard's change.
func (m *Manager) reshapeOnce(ctx context.Context, id uint64) (acted bool, err error) {
	r, ok := m.Replica(id)
	if !ok || !r.Serving() {
		return false, nil
	}
	d, err := m.current(ctx, id, r.ID())
	if d == nil || err != nil {
		return false, err
	}
	g, err := m.cfg.Raft.Membership(ctx, id)
	if err != nil {
		return false, fmt.Errorf("read the membership of the raft group: %w", err)
	}
	p := unasked
	home, _ := m.home(d)
	sound := func(member uint64) bool { return m.cfg.Alive(member) && !m.cfg.Placement.Corrupt(id, member) }
	step, ok := decideChange(d, g, r.ID(), home, p, m.cfg.Alive, sound)
	if ok && step.change == changeAsk {
		p = m.ask(ctx, r, step.replica)
		step, ok = decideChange(d, g, r.ID(), home, p, m.cfg.Alive, sound)
	}
	if !ok {
		return false, nil
	}
	if err := m.change(ctx, r, d, g, step, sound); err != nil {
		return false, fmt.Errorf("%s replica %d on member %016x: %w", step.change, step.replica.Replica, step.replica.Member, err)
	}
	m.log.Info("changed a shard's replicas", zap.Uint64("shard", id), zap.String("change", string(step.change)),
		zap.Uint64("replica", step.replica.Replica), zap.String("member", fmt.Sprintf("%016x", step.replica.Member)))
	return true, nil
}

// ask compares another replica with what the owner has applied now.
func (m *Manager) ask(ctx context.Context, owner *shard.Replica, r *kvdpb.Replica) progress {
	applied, _ := owner.Applied()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return m.reaches(ctx, owner.Shard(), r, applied)
}

// reaches waits until a replica has applied a raft index.
func (m *Manager) reaches(ctx context.Context, id uint64, r *kvdpb.Replica, index uint64) progress {
	for pause := askAgainFirst; ; pause = min(2*pause, askAgainMost) {
		status, err := m.cfg.Ask(ctx, r.Member, id)
		switch {
		case err != nil:
			return behind // it is down, or has not started its replica yet
		case status.GetReplica() != r.Replica:
			return behind // its former replica, which it has not removed yet
		case status.GetPhase() == string(shard.PhaseUnfed):
			return unfed
		case status.GetAppliedIndex() >= index:
			return caughtUp
		}
		select {
		case <-ctx.Done():
			return behind
		case <-time.After(pause):
		}
	}
}

const (
	// askTimeout is how long a replica may take to reach what the owner had
	// applied when it was asked; then the owner asks with a new mark.
	askTimeout    = 2 * time.Second
	askAgainFirst = time.Millisecond
	askAgainMost  = 20 * time.Millisecond
)

func (m *Manager) change(ctx context.Context, r *shard.Replica, d *kvdpb.Descriptor, g multiraft.Membership, step reshapeStep, sound func(member uint64) bool) error {
	id, to := d.Shard, step.replica
	switch step.change {
	case changeAdd:
		if err := m.trim(ctx, r); err != nil {
			return err
		}
		return m.cfg.Raft.AddNonVoting(ctx, id, to.Replica, to.Member, g.ConfigChangeID)
	case changePromote:
		return m.cfg.Raft.AddReplica(ctx, id, to.Replica, to.Member, g.ConfigChangeID)
	case changeTellPromoted:
		return m.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_PromoteReplica{
			PromoteReplica: &kvdpb.PromoteReplica{Shard: id, Replica: to.Replica}}})
	case changeLetGo:
		applied, _ := r.Applied()
		if err := m.canSpare(ctx, place{id, r.ID()}, applied, g, to, sound); err != nil {
			return err
		}
		return m.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_RemoveReplica{
			RemoveReplica: &kvdpb.RemoveReplica{Shard: id, Config: d.Config, Replica: to.Replica}}})
	case changeGiveUp:
		return m.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_RemoveReplica{
			RemoveReplica: &kvdpb.RemoveReplica{Shard: id, Config: d.Config, Replica: to.Replica}}})
	case changeHandOver:
		return m.giveTo(ctx, r, to)
	case changeRemove:
		return m.cfg.Raft.RemoveReplica(ctx, id, to.Replica, g.ConfigChangeID)
	case changeTellDropped:
		return m.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_DropReplica{
			DropReplica: &kvdpb.DropReplica{Shard: id, Replica: to.Replica}}})
	}
	return fmt.Errorf("unknown change %q", step.change)
}

// canSpare returns an error unless a majority of the voters besides one replica is
// sound and has applied what the owner has: from then on it is the whole group.
func (m *Manager) canSpare(ctx context.Context, owner place, applied uint64, g multiraft.Membership, out *kvdpb.Replica, sound func(member uint64) bool) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var wg sync.WaitGroup
	var ready atomic.Int64
	rest := 0
	for replica, member := range g.Voters {
		if replica == out.Replica {
			continue
		}
		rest++
		switch {
		case !sound(member):
		case replica == owner.replica:
			ready.Add(1)
		default:
			wg.Go(func() {
				if m.reaches(ctx, owner.shard, &kvdpb.Replica{Replica: replica, Member: member}, applied) == caughtUp {
					ready.Add(1)
				}
			})
		}
	}
	wg.Wait()
	if n := int(ready.Load()); n <= rest/2 {
		return fmt.Errorf("only %d of the %d others are sound and have caught up", n, rest)
	}
	return nil
}

// trim cuts the log before a replica joins, so that it begins with a snapshot. A
// group that was born by a split does not have all of its data in its log; and a
// snapshot is the shorter way anyway. Should another replica lead before the
// joiner has begun, which has not cut its log, the joiner notices (PhaseUnfed) and
// another one takes its place.
func (m *Manager) trim(ctx context.Context, r *shard.Replica) error {
	err := m.cfg.Raft.RequestSnapshot(ctx, r.Shard(), true, 0)
	if errors.Is(err, multiraft.ErrRejected) {
		// Nothing was applied since the last snapshot, which may have left more of the
		// log than its own index.
		if err = r.Nudge(ctx); err == nil {
			err = m.cfg.Raft.RequestSnapshot(ctx, r.Shard(), true, 0)
		}
	}
	if err != nil {
		return fmt.Errorf("cut the log: %w", err)
	}
	return nil
}
