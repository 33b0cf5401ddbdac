package history

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// Log is every event of a run by revision, put together from watches of the whole key space, and the states between them.
type Log struct {
	// First is the first revision that may be missing no event: the log begins there, in an empty store.
	First int64
	// Revisions are those that have events, in order.
	Revisions []int64

	events map[int64][]*mvccpb.Event // each sorted by key
	states []*State                  // states[i] is the state after Revisions[i]
	empty  *State
}

// NewLog puts together what the given watches saw. They must watch the whole key space from the first write on. They complement each other, and where they
// overlap they must agree.
func NewLog(watches []*Watch) (*Log, error) {
	l := &Log{First: 2, events: map[int64][]*mvccpb.Event{}, empty: newState()}
	for _, w := range watches {
		mine := map[int64][]*mvccpb.Event{}
		for _, r := range w.Responses {
			for _, ev := range r.Events {
				// Without the previous value, which is not part of the event: some watches ask for it, others do not.
				mine[ev.Kv.ModRevision] = append(mine[ev.Kv.ModRevision], &mvccpb.Event{Type: ev.Type, Kv: ev.Kv})
			}
		}
		for rev, events := range mine {
			slices.SortFunc(events, byKey)
			if seen, ok := l.events[rev]; !ok {
				l.events[rev] = events
			} else if !sameEvents(seen, events) {
				return nil, fmt.Errorf("revision %d: %s saw %s, another watch saw %s", rev, w, describeEvents(events), describeEvents(seen))
			}
		}
	}
	for rev := range l.events {
		l.Revisions = append(l.Revisions, rev)
	}
	slices.Sort(l.Revisions)
	state := l.empty
	for _, rev := range l.Revisions {
		if rev < l.First {
			return nil, fmt.Errorf("an event of revision %d: the first write of a store has revision %d", rev, l.First)
		}
		state = state.after(rev, l.events[rev])
		l.states = append(l.states, state)
	}
	return l, nil
}

// Last is the last revision with events.
func (l *Log) Last() int64 {
	if len(l.Revisions) == 0 {
		return l.First - 1
	}
	return l.Revisions[len(l.Revisions)-1]
}

// At is the state at a revision.
func (l *Log) At(rev int64) *State {
	i, ok := slices.BinarySearch(l.Revisions, rev)
	if ok {
		i++
	}
	if i == 0 {
		return l.empty
	}
	return l.states[i-1]
}

// Events are those of one revision, sorted by key.
func (l *Log) Events(rev int64) []*mvccpb.Event { return l.events[rev] }

// Next is the first revision with events at or behind rev.
func (l *Log) Next(rev int64) (int64, bool) {
	i, _ := slices.BinarySearch(l.Revisions, rev)
	if i == len(l.Revisions) {
		return 0, false
	}
	return l.Revisions[i], true
}

func byKey(a, b *mvccpb.Event) int {
	return cmp.Or(bytes.Compare(a.Kv.Key, b.Kv.Key), cmp.Compare(a.Kv.Version, b.Kv.Version))
}

func sameEvents(a, b []*mvccpb.Event) bool {
	return slices.EqualFunc(a, b, func(x, y *mvccpb.Event) bool { return x.Type == y.Type && proto.Equal(x.Kv, y.Kv) })
}

func describeEvents(events []*mvccpb.Event) string {
	var b bytes.Buffer
	for i, e := range events {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %s=%q mod %d create %d version %d", e.Type, e.Kv.Key, e.Kv.Value, e.Kv.ModRevision, e.Kv.CreateRevision, e.Kv.Version)
	}
	if b.Len() == 0 {
		return "nothing"
	}
	return b.String()
}
