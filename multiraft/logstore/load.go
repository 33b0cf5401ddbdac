package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// ListNodeInfo implements raftio.ILogDB: the replicas that were ever started here and not removed.
func (s *Store) ListNodeInfo() ([]raftio.NodeInfo, error) {
	var all []raftio.NodeInfo
	err := s.scan([]byte{kindBootstrap}, []byte{kindBootstrap + 1}, func(key, _ []byte) (bool, error) {
		id, err := parseReplicaKey(key)
		all = append(all, id)
		return true, err
	})
	return all, err
}

// GetBootstrapInfo implements raftio.ILogDB.
func (s *Store) GetBootstrapInfo(shard, replica uint64) (raftpb.Bootstrap, error) {
	var info raftpb.Bootstrap
	err := s.get(replicaKey(kindBootstrap, raftio.NodeInfo{ShardID: shard, ReplicaID: replica}), func(b []byte) error {
		return unmarshal("bootstrap record", &info, b)
	})
	if errors.Is(err, pebble.ErrNotFound) {
		err = raftio.ErrNoBootstrapInfo
	}
	return info, err
}

// GetSnapshot implements raftio.ILogDB.
func (s *Store) GetSnapshot(shard, replica uint64) (raftpb.Snapshot, error) {
	return s.readSnapshot(raftio.NodeInfo{ShardID: shard, ReplicaID: replica})
}

func (s *Store) readSnapshot(id raftio.NodeInfo) (raftpb.Snapshot, error) {
	var snapshot raftpb.Snapshot
	err := s.get(replicaKey(kindSnapshot, id), func(b []byte) error { return unmarshal("snapshot record", &snapshot, b) })
	if errors.Is(err, pebble.ErrNotFound) {
		err = nil
	}
	return snapshot, err
}

// ReadRaftState implements raftio.ILogDB: the state and the range of the log from the snapshot on.
func (s *Store) ReadRaftState(shard, replica, snapshot uint64) (raftio.RaftState, error) {
	id := raftio.NodeInfo{ShardID: shard, ReplicaID: replica}
	r, err := s.replica(id)
	if err != nil {
		return raftio.RaftState{}, err
	}
	r.mu.Lock()
	rec, stored := r.mu.record, r.mu.stored
	r.mu.Unlock()
	if !stored {
		return raftio.RaftState{}, raftio.ErrNoSavedLog
	}
	state := raftio.RaftState{FirstIndex: snapshot,
		// A snapshot is taken of committed entries only, and may have become durable before the commit index did.
		State: raftpb.State{Term: rec.term, Vote: rec.vote, Commit: max(rec.commit, snapshot)}}
	if rec.last <= snapshot {
		return state, nil
	}
	first, err := s.firstIndex(id, snapshot, rec.last)
	if err != nil {
		return raftio.RaftState{}, err
	}
	if first > snapshot+1 {
		return raftio.RaftState{}, fmt.Errorf("%w: the log of %v begins at %d, its snapshot is at %d", ErrCorrupt, id, first, snapshot)
	}
	state.FirstIndex, state.EntryCount = first, rec.last-first+1
	return state, nil
}

// firstIndex finds the first entry in [from, last].
func (s *Store) firstIndex(id raftio.NodeInfo, from, last uint64) (uint64, error) {
	first, found := uint64(0), false
	err := s.scan(entryKey(id, from), entryKey(id, last+1), func(key, _ []byte) (bool, error) {
		if len(key) != entryKeyLen {
			return false, fmt.Errorf("%w: key %x", ErrCorrupt, key)
		}
		first, found = binary.BigEndian.Uint64(key[replicaKeyLen:]), true
		return false, nil
	})
	if err == nil && !found {
		err = fmt.Errorf("%w: the log of %v should reach from %d to %d and is empty", ErrCorrupt, id, from, last)
	}
	return first, err
}

// IterateEntries implements raftio.ILogDB: it appends the entries of [low, high), as far as there are, until their size exceeds maxSize.
func (s *Store) IterateEntries(entries []raftpb.Entry, size, shard, replica, low, high, maxSize uint64) ([]raftpb.Entry, uint64, error) {
	id := raftio.NodeInfo{ShardID: shard, ReplicaID: replica}
	r, err := s.replica(id)
	if err != nil {
		return nil, 0, err
	}
	r.mu.Lock()
	last, stored := r.mu.record.last, r.mu.stored
	r.mu.Unlock()
	if !stored {
		return entries, size, nil
	}
	high = min(high, last+1)
	if low >= high {
		return entries, size, nil
	}
	if low+1 == high {
		return s.oneEntry(entries, size, id, low)
	}
	next := low
	err = s.scan(entryKey(id, low), entryKey(id, high), func(key, value []byte) (bool, error) {
		if len(key) != entryKeyLen {
			return false, fmt.Errorf("%w: key %x", ErrCorrupt, key)
		}
		if binary.BigEndian.Uint64(key[replicaKeyLen:]) != next {
			return false, nil
		}
		e, err := decodeEntry(value, next)
		if err != nil {
			return false, err
		}
		entries = append(entries, e)
		size += uint64(e.SizeUpperLimit())
		next++
		return size <= maxSize, nil
	})
	if err != nil {
		return nil, 0, err
	}
	return entries, size, nil
}

func (s *Store) oneEntry(entries []raftpb.Entry, size uint64, id raftio.NodeInfo, index uint64) ([]raftpb.Entry, uint64, error) {
	var key [entryKeyLen]byte
	putEntryKey(key[:], id, index)
	err := s.get(key[:], func(b []byte) error {
		e, err := decodeEntry(b, index)
		entries = append(entries, e)
		size += uint64(e.SizeUpperLimit())
		return err
	})
	if errors.Is(err, pebble.ErrNotFound) {
		err = nil
	}
	if err != nil {
		return nil, 0, err
	}
	return entries, size, nil
}
