package logstore

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// SaveRaftState implements raftio.ILogDB. The worker's number is of no interest: there is one store.
func (s *Store) SaveRaftState(updates []raftpb.Update, _ uint64) error {
	var b *pebble.Batch
	for i := range updates {
		u := &updates[i]
		if len(u.EntriesToSave) == 0 && raftpb.IsEmptyState(u.State) && raftpb.IsEmptySnapshot(u.Snapshot) {
			continue
		}
		r, err := s.replica(raftio.NodeInfo{ShardID: u.ShardID, ReplicaID: u.ReplicaID})
		if err != nil {
			return err
		}
		if b, err = s.save(b, r, u); err != nil {
			return err
		}
	}
	if b == nil {
		return nil
	}
	defer b.Close()
	return s.commit(b)
}

// save adds one replica's update to the batch, which it makes if something must be written now.
func (s *Store) save(b *pebble.Batch, r *replica, u *raftpb.Update) (*pebble.Batch, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := &r.mu.record
	must := false
	if !raftpb.IsEmptyState(u.State) {
		must = !r.mu.stored || rec.term != u.State.Term || rec.vote != u.State.Vote
		r.mu.dirty = r.mu.dirty || must || rec.commit != u.State.Commit
		rec.term, rec.vote, rec.commit = u.State.Term, u.State.Vote, u.State.Commit
	}
	restored := !raftpb.IsEmptySnapshot(u.Snapshot) && u.Snapshot.Index > r.mu.snapshot
	if !must && !restored && len(u.EntriesToSave) == 0 {
		return b, nil
	}
	if b == nil {
		b = s.db.NewBatch()
	}
	if restored {
		// The log begins anew behind the snapshot.
		rec.last = u.Snapshot.Index
		if err := s.putSnapshotLocked(b, r, &u.Snapshot); err != nil {
			return b, err
		}
	}
	if n := len(u.EntriesToSave); n > 0 {
		for i := range u.EntriesToSave {
			size, err := putEntry(b, r.id, &u.EntriesToSave[i])
			if err != nil {
				return b, err
			}
			s.growLocked(r, int64(size))
		}
		rec.last = u.EntriesToSave[n-1].Index
	}
	r.putRecordLocked(b)
	return b, nil
}

func putEntry(b *pebble.Batch, id raftio.NodeInfo, e *raftpb.Entry) (size int, err error) {
	size = e.Size()
	op := b.SetDeferred(entryKeyLen, size)
	putEntryKey(op.Key, id, e.Index)
	if _, err := e.MarshalTo(op.Value); err != nil {
		return 0, fmt.Errorf("logstore: encoding an entry: %w", err)
	}
	return size, op.Finish()
}

func (s *Store) putSnapshotLocked(b *pebble.Batch, r *replica, snapshot *raftpb.Snapshot) error {
	value, err := snapshot.Marshal()
	if err != nil {
		return fmt.Errorf("logstore: encoding a snapshot record: %w", err)
	}
	if err := b.Set(replicaKey(kindSnapshot, r.id), value, nil); err != nil {
		return fmt.Errorf("logstore: %w", err)
	}
	s.shrinkLocked(r, snapshot.Index)
	r.mu.snapshot = snapshot.Index
	return nil
}

// SaveSnapshots implements raftio.ILogDB. Only the newest snapshot's record is kept.
func (s *Store) SaveSnapshots(updates []raftpb.Update) error {
	for i := range updates {
		u := &updates[i]
		if raftpb.IsEmptySnapshot(u.Snapshot) {
			continue
		}
		r, err := s.replica(raftio.NodeInfo{ShardID: u.ShardID, ReplicaID: u.ReplicaID})
		if err != nil {
			return err
		}
		if err := s.saveSnapshot(r, &u.Snapshot); err != nil {
			return err
		}
	}
	return nil
}

// saveSnapshot keeps the replica locked until the record is durable: a newer one, from another member, must not be overwritten by it.
func (s *Store) saveSnapshot(r *replica, snapshot *raftpb.Snapshot) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if snapshot.Index <= r.mu.snapshot {
		return nil
	}
	b := s.db.NewBatch()
	defer b.Close()
	if err := s.putSnapshotLocked(b, r, snapshot); err != nil {
		return err
	}
	return s.commit(b)
}

// SaveBootstrapInfo implements raftio.ILogDB.
func (s *Store) SaveBootstrapInfo(shard, replica uint64, info raftpb.Bootstrap) error {
	value, err := info.Marshal()
	if err != nil {
		return fmt.Errorf("logstore: encoding a bootstrap record: %w", err)
	}
	if err := s.db.Set(replicaKey(kindBootstrap, raftio.NodeInfo{ShardID: shard, ReplicaID: replica}), value, s.write); err != nil {
		return fmt.Errorf("logstore: writing: %w", err)
	}
	return nil
}

// RemoveEntriesTo implements raftio.ILogDB. The entry at index itself stays until the next time, so that the log is never empty.
func (s *Store) RemoveEntriesTo(shard, replica, index uint64) error {
	r, err := s.replica(raftio.NodeInfo{ShardID: shard, ReplicaID: replica})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if index <= r.mu.removed {
		return nil
	}
	// Losing this in a crash only means that the entries are removed later.
	if err := s.db.DeleteRange(entryKey(r.id, r.mu.removed), entryKey(r.id, index), pebble.NoSync); err != nil {
		return fmt.Errorf("logstore: removing entries: %w", err)
	}
	r.mu.removed = index
	return nil
}

// CompactEntriesTo implements raftio.ILogDB. There is nothing to do: Pebble drops files that a range deletion covers by itself.
func (s *Store) CompactEntriesTo(uint64, uint64, uint64) (<-chan struct{}, error) {
	done := make(chan struct{})
	close(done)
	return done, nil
}

// RemoveNodeData implements raftio.ILogDB.
func (s *Store) RemoveNodeData(shard, replica uint64) error {
	id := raftio.NodeInfo{ShardID: shard, ReplicaID: replica}
	b := s.db.NewBatch()
	defer b.Close()
	for _, kind := range [...]byte{kindBootstrap, kindState, kindSnapshot} {
		if err := b.Delete(replicaKey(kind, id), nil); err != nil {
			return fmt.Errorf("logstore: %w", err)
		}
	}
	if err := b.DeleteRange(replicaKey(kindEntry, id), afterReplica(kindEntry, id), nil); err != nil {
		return fmt.Errorf("logstore: %w", err)
	}
	if err := s.commit(b); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.mu.replicas[id]; r != nil {
		r.mu.Lock()
		s.growLocked(r, -r.mu.unsaved)
		r.mu.Unlock()
		delete(s.mu.replicas, id)
	}
	return nil
}

// ImportSnapshot implements raftio.ILogDB. Dragonboat's repair tool is its only user; kvd restores by other means.
func (s *Store) ImportSnapshot(raftpb.Snapshot, uint64) error {
	return fmt.Errorf("logstore: importing a snapshot is not supported")
}
