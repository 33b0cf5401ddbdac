package placement

import (
	"encoding/binary"
	"fmt"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/protobuf/proto"
)

// Storage keeps the records of one placement replica. One goroutine uses it.
type Storage interface {
	// AppliedIndex is the index of the last write that is on disk.
	AppliedIndex() uint64
	// Scan calls fn for every record. The bytes are valid during the call.
	Scan(fn func(name, value []byte) error) error
	// Write makes the changes and the applied index visible as a whole. It need
	// not be durable before Sync; after a crash the storage is as it was after
	// some Write.
	Write(applied uint64, changes []Record) error
	// Sync makes everything written durable.
	Sync() error
	Close() error
}

// Record is one change of a storage: Value takes the place of what is kept under
// Name. A nil Value deletes.
type Record struct{ Name, Value []byte }

// recordPrefix begins the name of every record of a placement replica, among
// the local records of its store.
const recordPrefix = "placement/"

// Names of records. An id follows the kind as eight bytes, big endian.
var metaName = []byte(recordPrefix + "state")

const (
	memberKind = recordPrefix + "member/"
	shardKind  = recordPrefix + "shard/"
	deadKind   = recordPrefix + "dead/"
)

func recordName(kind string, id uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(kind), id)
}

// parseName splits a record's name. ok is false for a name that recordName does
// not make.
func parseName(name []byte) (kind string, id uint64, ok bool) {
	if len(name) < 8 {
		return "", 0, false
	}
	cut := len(name) - 8
	switch kind = string(name[:cut]); kind {
	case memberKind, shardKind, deadKind:
		return kind, binary.BigEndian.Uint64(name[cut:]), true
	}
	return "", 0, false
}

// loadState reads a state from its records.
func loadState(st Storage) (*State, error) {
	p := &kvdpb.PlacementState{}
	err := st.Scan(func(name, value []byte) error {
		if string(name) == string(metaName) {
			// The meta record holds no member, shard or dead id, and these are
			// appended to here: merging keeps both.
			return proto.UnmarshalOptions{Merge: true}.Unmarshal(value, p)
		}
		if known, err := loadAuth(p, name, value); known {
			return err
		}
		kind, id, ok := parseName(name)
		switch {
		case !ok:
			return fmt.Errorf("unknown record %q", name)
		case kind == memberKind:
			m := &kvdpb.Member{}
			if err := proto.Unmarshal(value, m); err != nil {
				return fmt.Errorf("record %q: %w", name, err)
			}
			p.Members = append(p.Members, m)
		case kind == shardKind:
			d := &kvdpb.Descriptor{}
			if err := proto.Unmarshal(value, d); err != nil {
				return fmt.Errorf("record %q: %w", name, err)
			}
			p.Shards = append(p.Shards, d)
		case kind == deadKind:
			p.Dead = append(p.Dead, id)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read placement records: %w", err)
	}
	return StateFromProto(p)
}

// takeChanges returns the records that changed since the last call.
func (s *State) takeChanges() ([]Record, error) {
	var out []Record
	add := func(name []byte, m proto.Message) error {
		value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			return fmt.Errorf("encode placement record %q: %w", name, err)
		}
		// A message of zero values is empty, which is not the same as deleted.
		out = append(out, Record{name, append([]byte{}, value...)})
		return nil
	}
	if s.dirty.meta {
		if err := add(metaName, s.meta()); err != nil {
			return nil, err
		}
	}
	for id := range s.dirty.members {
		if s.members[id] == nil {
			out = append(out, Record{Name: recordName(memberKind, id)})
			continue
		}
		if err := add(recordName(memberKind, id), s.members[id]); err != nil {
			return nil, err
		}
	}
	for id := range s.dirty.shards {
		s.order.set[id] = struct{}{}
		d := s.shards[id]
		if d == nil {
			out = append(out, Record{Name: recordName(shardKind, id)})
			continue
		}
		if err := add(recordName(shardKind, id), d); err != nil {
			return nil, err
		}
	}
	for id := range s.dirty.dead {
		out = append(out, Record{recordName(deadKind, id), []byte{1}})
	}
	if err := s.takeAuth(add); err != nil {
		return nil, err
	}
	for _, name := range s.dirty.auth.gone(s.auth) {
		out = append(out, Record{Name: name})
	}
	s.dirty.auth.clear()
	s.dirty.meta = false
	clear(s.dirty.members)
	clear(s.dirty.shards)
	clear(s.dirty.dead)
	return out, nil
}

// markAll makes every record of the state a change.
func (s *State) markAll() {
	s.dirty.meta = true
	s.dirty.auth.markAll(s.auth)
	for id := range s.members {
		s.dirty.members[id] = struct{}{}
	}
	for id := range s.shards {
		s.dirty.shards[id] = struct{}{}
	}
	for id := range s.dead {
		s.dirty.dead[id] = struct{}{}
	}
}
