package logstore

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// Extension is what is to follow the last entry of a replica's log.
type Extension struct {
	Shard, Replica uint64
	// Entries are given without index and term.
	Entries []raftpb.Entry
}

// Extend appends to the logs of replicas that do not run, and declares everything in these logs committed. It happens to all of them or, on an error or in a
// crash, to none; when it returns nil it is durable, whatever Options.NoSync says. A replica whose log never held anything is an error.
//
// This is no step of raft: it takes part in the decision that the other replicas of these groups are gone for good.
func (s *Store) Extend(all []Extension) error {
	b := s.db.NewBatch()
	defer b.Close()
	for i := range all {
		if err := s.extend(b, &all[i]); err != nil {
			return err
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("logstore: writing: %w", err)
	}
	return nil
}

func (s *Store) extend(b *pebble.Batch, x *Extension) error {
	r, err := s.replica(raftio.NodeInfo{ShardID: x.Shard, ReplicaID: x.Replica})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.mu.stored {
		return fmt.Errorf("logstore: extending the log of %v: %w", r.id, raftio.ErrNoSavedLog)
	}
	rec := &r.mu.record
	last := max(rec.last, r.mu.snapshot)
	for _, e := range x.Entries {
		last++
		e.Index, e.Term = last, rec.term
		size, err := putEntry(b, r.id, &e)
		if err != nil {
			return err
		}
		s.growLocked(r, int64(size))
	}
	rec.last, rec.commit = last, last
	r.putRecordLocked(b)
	return nil
}
