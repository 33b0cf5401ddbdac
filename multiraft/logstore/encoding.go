package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// ErrCorrupt means that the store holds what this package would not have written.
var ErrCorrupt = errors.New("logstore: corrupt")

const (
	kindBootstrap byte = 1
	kindState     byte = 2
	kindSnapshot  byte = 3
	kindEntry     byte = 4

	replicaKeyLen = 1 + 8 + 8
	entryKeyLen   = replicaKeyLen + 8

	stateVersion = 1
	stateLen     = 1 + 4*8
)

func putReplicaKey(dst []byte, kind byte, id raftio.NodeInfo) {
	dst[0] = kind
	binary.BigEndian.PutUint64(dst[1:], id.ShardID)
	binary.BigEndian.PutUint64(dst[9:], id.ReplicaID)
}

func putEntryKey(dst []byte, id raftio.NodeInfo, index uint64) {
	putReplicaKey(dst, kindEntry, id)
	binary.BigEndian.PutUint64(dst[replicaKeyLen:], index)
}

func replicaKey(kind byte, id raftio.NodeInfo) []byte {
	k := make([]byte, replicaKeyLen)
	putReplicaKey(k, kind, id)
	return k
}

func entryKey(id raftio.NodeInfo, index uint64) []byte {
	k := make([]byte, entryKeyLen)
	putEntryKey(k, id, index)
	return k
}

// afterReplica is the smallest key behind all keys of a kind that belong to the replica.
func afterReplica(kind byte, id raftio.NodeInfo) []byte {
	k := replicaKey(kind, id)
	for i := len(k) - 1; i >= 0; i-- {
		if k[i]++; k[i] != 0 {
			break
		}
	}
	return k
}

func parseReplicaKey(key []byte) (raftio.NodeInfo, error) {
	if len(key) != replicaKeyLen {
		return raftio.NodeInfo{}, fmt.Errorf("%w: key %x", ErrCorrupt, key)
	}
	return raftio.NodeInfo{ShardID: binary.BigEndian.Uint64(key[1:]), ReplicaID: binary.BigEndian.Uint64(key[9:])}, nil
}

// record is a replica's state and the last index of its log.
type record struct {
	term, vote, commit uint64
	last               uint64
}

func putRecord(dst []byte, r record) {
	dst[0] = stateVersion
	binary.BigEndian.PutUint64(dst[1:], r.term)
	binary.BigEndian.PutUint64(dst[9:], r.vote)
	binary.BigEndian.PutUint64(dst[17:], r.commit)
	binary.BigEndian.PutUint64(dst[25:], r.last)
}

func decodeRecord(b []byte) (record, error) {
	if len(b) != stateLen || b[0] != stateVersion {
		return record{}, fmt.Errorf("%w: state of %d bytes", ErrCorrupt, len(b))
	}
	return record{
		term:   binary.BigEndian.Uint64(b[1:]),
		vote:   binary.BigEndian.Uint64(b[9:]),
		commit: binary.BigEndian.Uint64(b[17:]),
		last:   binary.BigEndian.Uint64(b[25:]),
	}, nil
}

// unmarshal decodes one of Dragonboat's records, whose decoders may panic on garbage.
func unmarshal(what string, m interface{ Unmarshal([]byte) error }, b []byte) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %s: %v", ErrCorrupt, what, r)
		}
	}()
	if err := m.Unmarshal(b); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, what, err)
	}
	return nil
}

func decodeEntry(b []byte, index uint64) (raftpb.Entry, error) {
	var e raftpb.Entry
	if err := unmarshal("entry", &e, b); err != nil {
		return e, err
	}
	if e.Index != index {
		return e, fmt.Errorf("%w: entry %d under the key of %d", ErrCorrupt, e.Index, index)
	}
	return e, nil
}
