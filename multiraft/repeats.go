package multiraft

import (
	"slices"
	"time"

	"github.com/lni/dragonboat/v4/raftpb"
)

const (
	// repeatHeartbeats is how many heartbeat intervals a follower has to answer a large message before the same entries are sent again.
	repeatHeartbeats = 5
	// repeatSize is the size of entries, in bytes, from which on a message counts as large.
	repeatSize = 16 << 10
)

// repeats drops messages that carry what has just been sent.
//
// A leader that does not know how far a follower is sends it the entries that it lacks again with every answer to a heartbeat, and each
// confirmation of a read is a heartbeat too: some twenty times a second and group. A member that comes back under load has to read all
// that before it can answer: it was seen to take ten seconds for what it could have in one, with the leaders' members kept busy as well.
// Raft lets any message be lost, so dropping is safe; what was really lost is sent once more after some heartbeats.
type repeats struct {
	after time.Duration
	// sent are the last large messages, by shard.
	sent map[uint64]sentEntries
}

type sentEntries struct {
	replica, term, prev uint64
	at                  time.Time
}

// drop returns the messages without repetitions, in the same memory.
func (r *repeats) drop(all []raftpb.Message, now time.Time) []raftpb.Message {
	return slices.DeleteFunc(all, func(m raftpb.Message) bool { return r.repeated(&m, now) })
}

// repeated tells whether m starts where the last message to its replica did, not long ago, and remembers it otherwise.
func (r *repeats) repeated(m *raftpb.Message, now time.Time) bool {
	if m.Type != raftpb.Replicate || !large(m.Entries) {
		return false
	}
	last, ok := r.sent[m.ShardID]
	if ok && last.replica == m.To && last.term == m.Term && last.prev == m.LogIndex && now.Sub(last.at) < r.after {
		return true
	}
	if r.sent == nil {
		r.sent = make(map[uint64]sentEntries)
	}
	r.sent[m.ShardID] = sentEntries{replica: m.To, term: m.Term, prev: m.LogIndex, at: now}
	return false
}

func large(entries []raftpb.Entry) bool {
	size := 0
	for i := range entries {
		if size += len(entries[i].Cmd); size >= repeatSize {
			return true
		}
	}
	return false
}
