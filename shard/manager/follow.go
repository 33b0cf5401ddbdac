package manager

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// follow does what the owners of this member owe to placement: they live with
// the sequencer, so that asking for revisions and readings is a function call,
// and they log compactions, so that their replicas collect history.
func (m *Manager) follow() {
	described := map[uint64]*kvdpb.Descriptor{}
	for _, d := range m.cfg.Placement.Shards() {
		described[d.Shard] = d
	}
	compacted := m.cfg.Placement.Compacted()
	now := time.Now()
	for id, l := range *m.replicas.Load() {
		if !l.Serving() {
			m.mu.Lock()
			delete(m.mu.awayFrom, id)
			m.mu.Unlock()
			continue
		}
		if compacted > l.Store().CompactRevision() && l.Merge().Frozen == 0 {
			m.compact(id, l.Replica, compacted)
		}
		if to, away := m.away(l, described[id], now); away {
			m.handOver(id, l.Replica, to)
		}
	}
}

// home is the member that a shard should be owned by, zero for any: the one that
// it prefers, if that is there, or else the sequencer's. It is asked for when a
// preference has to be followed at once. A member whose replica differs from the others
// must not own the shard, if a sound one can.
func (m *Manager) home(d *kvdpb.Descriptor) (member uint64, asked bool) {
	sound := func(member uint64) bool { return !m.cfg.Placement.Corrupt(d.GetShard(), member) }
	if p := d.GetPreferredOwner(); p != 0 && (p == m.cfg.Member || m.cfg.Alive(p)) && sound(p) {
		return p, true
	}
	sequencer := m.cfg.Placement.Sequencer()
	follow := m.cfg.Placement.OwnersFollow() && sequencer != 0 && sound(sequencer)
	if !sound(m.cfg.Member) {
		if follow && m.cfg.Alive(sequencer) && voterOn(d, sequencer) != nil {
			return sequencer, true
		}
		for _, r := range d.GetReplicas() {
			if sound(r.Member) && m.cfg.Alive(r.Member) && voterOn(d, r.Member) != nil {
				return r.Member, true
			}
		}
	}
	if follow {
		return sequencer, false
	}
	return 0, false
}

// away tells whether a shard's ownership should move, and to which replica. While
// its replicas change, or it is merged, it stays where it is, unless it is the owner's that leaves.
func (m *Manager) away(l *local, d *kvdpb.Descriptor, now time.Time) (to *kvdpb.Replica, move bool) {
	home, asked := m.home(d)
	wait := handOverAfter
	if asked {
		wait = 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if home != 0 && home != m.cfg.Member && l.Pending() == nil && d.GetMerge() == nil && !changing(d) {
		to = voterOn(d, home)
	}
	if to == nil {
		delete(m.mu.awayFrom, d.GetShard())
		delete(m.mu.failed, d.GetShard())
		return nil, false
	}
	if f := m.mu.failed[d.Shard]; f.to == to.Replica && now.Before(f.again) {
		return nil, false
	}
	since, ok := m.mu.awayFrom[d.Shard]
	if !ok {
		m.mu.awayFrom[d.Shard] = now
		since = now
	}
	return to, now.Sub(since) >= wait
}

// voterOn returns the replica on a member if it votes and stays.
func voterOn(d *kvdpb.Descriptor, member uint64) *kvdpb.Replica {
	for _, r := range d.GetReplicas() {
		if r.Member == member && !r.NonVoting && !r.Leaving {
			return r
		}
	}
	return nil
}

const (
	// handOverFirst and handOverMost are how long a hand-over that failed is not
	// tried again: each try stops the shard for a moment.
	handOverFirst = time.Second
	handOverMost  = time.Minute
)

// failedHandOver is the memory of hand-overs to one replica that came to nothing.
type failedHandOver struct {
	to    uint64
	pause time.Duration
	again time.Time
}

// handOver gives a shard to another replica, once that has caught up: a replica
// that cannot lead at once would leave the shard without an owner meanwhile.
func (m *Manager) handOver(id uint64, r *shard.Replica, to *kvdpb.Replica) {
	m.background(id, func(ctx context.Context) {
		err := m.giveTo(ctx, r, to)
		m.mu.Lock()
		if err == nil {
			delete(m.mu.awayFrom, id)
			delete(m.mu.failed, id)
		} else {
			f := m.mu.failed[id]
			if f.to != to.Replica {
				f = failedHandOver{to: to.Replica}
			}
			f.pause = min(max(2*f.pause, handOverFirst), handOverMost)
			f.again = time.Now().Add(f.pause)
			m.mu.failed[id] = f
		}
		m.mu.Unlock()
		if err != nil {
			m.log.Warn("could not hand a shard over", zap.Uint64("shard", id), zap.Error(err))
			return
		}
		m.log.Info("handed a shard over", zap.Uint64("shard", id), zap.Uint64("member", to.Member))
	})
}

// giveTo releases a shard to another replica, unless that is behind.
func (m *Manager) giveTo(ctx context.Context, r *shard.Replica, to *kvdpb.Replica) error {
	if m.ask(ctx, r, to) != caughtUp {
		return fmt.Errorf("replica %d on member %016x has not caught up", to.Replica, to.Member)
	}
	return m.release(ctx, r, to)
}

// settlePatience bounds the wait for the next owner to apply the Release.
const settlePatience = 300 * time.Millisecond

// release releases a shard to a replica; nil is to whoever takes it.
func (m *Manager) release(ctx context.Context, r *shard.Replica, to *kvdpb.Replica) error {
	if to == nil {
		return r.Release(ctx, 0, nil)
	}
	return r.Release(ctx, to.Replica, func(ctx context.Context, index uint64) bool {
		ctx, cancel := context.WithTimeout(ctx, settlePatience)
		defer cancel()
		return m.reaches(ctx, r.Shard(), to, index) == caughtUp
	})
}

func (m *Manager) compact(id uint64, r *shard.Replica, revision int64) {
	m.background(id, func(ctx context.Context) {
		if err := r.Compact(ctx, revision); err != nil {
			m.log.Warn("could not log a compaction", zap.Uint64("shard", id), zap.Int64("revision", revision), zap.Error(err))
		}
	})
}

// CollectedRevision is the revision up to which every replica of this member has
// removed compacted history. A replica that is just being started holds none.
func (m *Manager) CollectedRevision() int64 {
	lowest := int64(-1)
	m.Each(func(r *shard.Replica) bool {
		store := r.Store()
		if store == nil {
			return true
		}
		if c := store.CollectedRevision(); lowest < 0 || c < lowest {
			lowest = c
		}
		return true
	})
	return max(lowest, 0)
}

// Drain releases every shard that this member owns, to whichever other replica
// takes over, before the member stops.
func (m *Manager) Drain(ctx context.Context) error {
	m.mu.Lock()
	m.mu.closed = true
	m.mu.Unlock()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	described := map[uint64]*kvdpb.Descriptor{}
	for _, d := range m.cfg.Placement.Shards() {
		described[d.Shard] = d
	}
	for id, l := range *m.replicas.Load() {
		if !l.Serving() {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			var to *kvdpb.Replica
			for _, r := range described[id].GetReplicas() {
				if r.Member != m.cfg.Member && !r.NonVoting && !r.Leaving && m.cfg.Alive(r.Member) {
					to = r
					break
				}
			}
			if err := m.release(ctx, l.Replica, to); err != nil && !errors.Is(err, shard.ErrClosed) {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}
