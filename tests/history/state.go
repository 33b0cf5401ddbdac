package history

import (
	"bytes"
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// State is the whole state of etcd at one revision. It never changes: applying something gives a new one.
type State struct {
	// Revision is the revision of the write that made this state.
	Revision int64
	kvs      []*mvccpb.KeyValue // sorted by key; shared between states
	older    *State
}

// newState is the empty store, whose revision is 1.
func newState() *State { return &State{Revision: 1} }

// at is the state that was current at a revision; nil if rev is before the first.
func (s *State) at(rev int64) *State {
	for s != nil && s.Revision > rev {
		s = s.older
	}
	return s
}

func (s *State) find(key []byte) (int, bool) {
	return sort.Find(len(s.kvs), func(i int) int { return bytes.Compare(key, s.kvs[i].Key) })
}

func (s *State) get(key []byte) *mvccpb.KeyValue {
	if i, ok := s.find(key); ok {
		return s.kvs[i]
	}
	return nil
}

// span is what a key and a range end name, with etcd's meaning of an empty end, and of "\x00".
func (s *State) span(key, end []byte) []*mvccpb.KeyValue {
	if len(end) == 0 {
		if i, ok := s.find(key); ok {
			return s.kvs[i : i+1]
		}
		return nil
	}
	from, _ := s.find(key)
	to := len(s.kvs)
	if !isOpen(end) {
		to, _ = s.find(end)
	}
	if to <= from {
		return nil
	}
	return s.kvs[from:to]
}

// attached are the keys of a lease.
func (s *State) attached(lease int64) []*mvccpb.KeyValue {
	var all []*mvccpb.KeyValue
	for _, kv := range s.kvs {
		if kv.Lease == lease {
			all = append(all, kv)
		}
	}
	return all
}

func isOpen(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// inSpan tells whether a key lies in what key and end name.
func inSpan(k, key, end []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(k, key)
	case isOpen(end):
		return bytes.Compare(k, key) >= 0
	}
	return bytes.Compare(k, key) >= 0 && bytes.Compare(k, end) < 0
}

// after is the state that events of a revision make of this one.
func (s *State) after(rev int64, events []*mvccpb.Event) *State {
	next := &State{Revision: rev, kvs: slices.Clone(s.kvs), older: s}
	for _, e := range events {
		i, ok := next.find(e.Kv.Key)
		switch {
		case e.Type == mvccpb.Event_DELETE && ok:
			next.kvs = slices.Delete(next.kvs, i, i+1)
		case e.Type == mvccpb.Event_DELETE:
		case ok:
			next.kvs[i] = e.Kv
		default:
			next.kvs = slices.Insert(next.kvs, i, e.Kv)
		}
	}
	return next
}
