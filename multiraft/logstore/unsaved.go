package logstore

import "fmt"

// A replica that starts reads its log from its newest snapshot on. How much that is, is known here: what was written since.

// Unsaved is the part of a replica's log that its newest snapshot does not contain.
type Unsaved struct {
	Shard, Replica uint64
	// Entries is their number; Bytes is about what they take on disk, and counts overwritten ones too.
	Entries uint64
	Bytes   int64
}

// UnsavedBytes is the sum of all replicas' unsaved bytes. It is cheap.
func (s *Store) UnsavedBytes() int64 { return s.unsaved.Load() }

// MostUnsaved returns the replica with the most unsaved bytes among those that ok accepts; none is the zero value.
func (s *Store) MostUnsaved(ok func(shard, replica uint64) bool) Unsaved {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var most Unsaved
	for id, r := range s.mu.replicas {
		u := r.unsaved()
		if u.Bytes > most.Bytes && ok(id.ShardID, id.ReplicaID) {
			most = u
		}
	}
	return most
}

func (r *replica) unsaved() Unsaved {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := Unsaved{Shard: r.id.ShardID, Replica: r.id.ReplicaID, Bytes: r.mu.unsaved}
	if r.mu.record.last > r.mu.snapshot {
		u.Entries = r.mu.record.last - r.mu.snapshot
	}
	return u
}

// growLocked counts n more bytes of a replica's log.
func (s *Store) growLocked(r *replica, n int64) {
	r.mu.unsaved += n
	s.unsaved.Add(n)
}

// shrinkLocked counts off what a snapshot at index contains, as if all entries were of one size.
func (s *Store) shrinkLocked(r *replica, index uint64) {
	last, before := r.mu.record.last, r.mu.snapshot
	left := int64(0)
	if last > index && index >= before {
		left = int64(float64(r.mu.unsaved) * float64(last-index) / float64(last-before))
	}
	s.growLocked(r, left-r.mu.unsaved)
}

// measure tells how many bytes of a replica's log its snapshot does not contain, as far as they are on disk: all of them, when the store was just opened.
func (s *Store) measure(r *replica) (int64, error) {
	if r.mu.record.last <= r.mu.snapshot {
		return 0, nil
	}
	size, err := s.db.EstimateDiskUsage(entryKey(r.id, r.mu.snapshot+1), entryKey(r.id, r.mu.record.last+1))
	if err != nil {
		return 0, fmt.Errorf("logstore: measuring the log of %v: %w", r.id, err)
	}
	return int64(size), nil
}
