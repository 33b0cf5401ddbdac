package manager

import (
	"context"
	"fmt"
	"maps"

	"go.uber.org/zap"
)

// retire stops a replica that placement does not name any more and removes all
// that it left, the durable mark apart, which keeps its id from coming back.
//
// Placement drops a replica only once it is out of its raft group, or its shard
// never lived or has given its keys to a neighbour; what this member has applied of placement may be older than the
// replica, so that is read anew.
func (m *Manager) retire(ctx context.Context, a action) error {
	d, err := m.current(ctx, a.shard, a.replica)
	if err != nil || d != nil {
		return err
	}
	if err := m.disk.setMark(a.shard, a.replica, markRemoved); err != nil {
		return err
	}
	m.mu.Lock()
	m.mu.found[place{a.shard, a.replica}] = true // so that a failure is tried again
	if l := (*m.replicas.Load())[a.shard]; l != nil && l.replica == a.replica {
		next := maps.Clone(*m.replicas.Load())
		delete(next, a.shard)
		m.replicas.Store(&next)
	}
	delete(m.mu.proposed, a.shard)
	delete(m.mu.awayFrom, a.shard)
	m.mu.Unlock()
	m.cfg.Changed(a.shard)
	if err := m.cfg.Raft.StopReplica(ctx, a.shard, a.replica); err != nil {
		return err
	}
	if m.cfg.Raft.HasReplica(a.shard, a.replica) {
		if err := m.cfg.Raft.RemoveReplicaData(ctx, a.shard, a.replica); err != nil {
			return fmt.Errorf("remove the raft log: %w", err)
		}
	}
	if err := m.disk.removeStore(a.shard, a.replica); err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.mu.found, place{a.shard, a.replica})
	m.mu.Unlock()
	m.log.Info("removed a replica that left its shard", zap.Uint64("shard", a.shard), zap.Uint64("replica", a.replica))
	return nil
}
