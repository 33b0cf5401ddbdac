package manager

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/shard"
)

// follow does what the owners of this member owe to placement: they live with
// the sequencer, so that asking for revisions and readings is a function call,
// and they log compactions, so that their replicas collect history.
func (m *Manager) follow() {
	sequencer := m.cfg.Placement.Sequencer()
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
		if to, away := m.away(id, l, sequencer, now); away {
			m.handOver(id, l.Replica, sequencer, to)
		}
	}
}

// away tells whether a shard's ownership should move to the sequencer's member,
// and which replica that is.
func (m *Manager) away(id uint64, l *local, sequencer uint64, now time.Time) (to uint64, move bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	replica, there := uint64(0), false
	if sequencer != 0 && sequencer != m.cfg.Member && l.Pending() == nil {
		replica, there = replicaOf(l.Descriptor(), sequencer)
	}
	if !there {
		delete(m.mu.awayFrom, id)
		return 0, false
	}
	since, ok := m.mu.awayFrom[id]
	if !ok {
		m.mu.awayFrom[id] = now
		return 0, false
	}
	return replica, now.Sub(since) >= handOverAfter
}

func (m *Manager) handOver(id uint64, r *shard.Replica, member, replica uint64) {
	m.background(id, func(ctx context.Context) {
		err := r.Release(ctx, replica)
		m.mu.Lock()
		delete(m.mu.awayFrom, id)
		m.mu.Unlock()
		if err != nil {
			m.log.Warn("could not hand a shard over to the sequencer's member", zap.Uint64("shard", id), zap.Error(err))
			return
		}
		m.log.Info("handed a shard over to the sequencer's member", zap.Uint64("shard", id), zap.Uint64("member", member))
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
	for _, l := range *m.replicas.Load() {
		if !l.Serving() {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			to := uint64(0)
			for _, r := range l.Descriptor().GetReplicas() {
				if r.Member != m.cfg.Member && !r.NonVoting {
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
