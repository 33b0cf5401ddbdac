package manager

import (
	"context"
	"errors"
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
	sequencer := uint64(0)
	if m.cfg.Placement.OwnersFollow() {
		sequencer = m.cfg.Placement.Sequencer()
	}
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
		if compacted > l.Store().CompactRevision() {
			m.compact(id, l.Replica, compacted)
		}
		if to, away := m.away(l, described[id], sequencer, now); away {
			m.handOver(id, l.Replica, to.Member, to.Replica)
		}
	}
}

// away tells whether a shard's ownership should move to the member that the
// shard prefers, or else to the sequencer's, and which replica that is.
func (m *Manager) away(l *local, d *kvdpb.Descriptor, sequencer uint64, now time.Time) (to *kvdpb.Replica, move bool) {
	wait := handOverAfter
	home := sequencer
	if p := d.GetPreferredOwner(); p != 0 && (p == m.cfg.Member || m.cfg.Alive(p)) {
		home, wait = p, 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if home != 0 && home != m.cfg.Member && l.Pending() == nil {
		to = voterOn(d, home)
	}
	if to == nil {
		delete(m.mu.awayFrom, d.GetShard())
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

func (m *Manager) handOver(id uint64, r *shard.Replica, member, replica uint64) {
	m.background(id, func(ctx context.Context) {
		err := r.Release(ctx, replica)
		m.mu.Lock()
		delete(m.mu.awayFrom, id)
		m.mu.Unlock()
		if err != nil {
			m.log.Warn("could not hand a shard over", zap.Uint64("shard", id), zap.Error(err))
			return
		}
		m.log.Info("handed a shard over", zap.Uint64("shard", id), zap.Uint64("member", member))
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
// removed compacted history.
func (m *Manager) CollectedRevision() int64 {
	lowest := int64(-1)
	m.Each(func(r *shard.Replica) bool {
		if c := r.Store().CollectedRevision(); lowest < 0 || c < lowest {
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
			to := uint64(0)
			for _, r := range described[id].GetReplicas() {
				if r.Member != m.cfg.Member && !r.NonVoting && !r.Leaving && m.cfg.Alive(r.Member) {
					to = r.Replica
					break
				}
			}
			if err := l.Release(ctx, to); err != nil && !errors.Is(err, shard.ErrClosed) {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}
