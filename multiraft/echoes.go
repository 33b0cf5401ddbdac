package multiraft

import (
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/raftpb"
)

// silenceBeats is for how many heartbeats a member must have sent no raft message to count as silent. One that is busy is now and then late
// by one; taking it for silent costs one message for each group, as many as a single heartbeat of all groups.
const silenceBeats = 2

// echoes keeps the last heartbeats and answers to heartbeats of each member, and repeats them when the member falls silent; see beats. It
// takes the time with each call and has no other clock. It is safe for concurrent use.
type echoes struct {
	heartbeat, election time.Duration
	// runs tells whether a replica of a shard runs here: nothing is kept of others, whatever a member sends.
	runs func(shard uint64) bool

	mu struct {
		sync.Mutex
		members map[uint64]*echo
	}
}

// echo is one member's.
type echo struct {
	// heard is when the last message came, repeated says that its messages were repeated since.
	heard    time.Time
	repeated bool
	last     map[uint64]lastBeat
}

// lastBeat is what a repetition is made of. It tells no commit index: whatever became of the log here meanwhile, that is no news.
type lastBeat struct {
	at             time.Time
	kind           raftpb.MessageType
	to, from, term uint64
}

// hear takes in messages that came from a member.
func (e *echoes) hear(member uint64, all []raftpb.Message, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.mu.members[member]
	if m == nil {
		m = &echo{last: make(map[uint64]lastBeat)}
		if e.mu.members == nil {
			e.mu.members = make(map[uint64]*echo)
		}
		e.mu.members[member] = m
	}
	m.heard, m.repeated = now, false
	for i := range all {
		r := &all[i]
		if (r.Type != raftpb.Heartbeat && r.Type != raftpb.HeartbeatResp) || r.Hint != 0 || r.HintHigh != 0 {
			continue
		}
		if _, known := m.last[r.ShardID]; known || e.runs(r.ShardID) {
			m.last[r.ShardID] = lastBeat{at: now, kind: r.Type, to: r.To, from: r.From, term: r.Term}
		}
	}
}

// due returns what members would have said that have fallen silent. What was an election timeout old by then is forgotten: its sender had
// ceased to say it before. After an election timeout of silence there is nothing to make good any more.
func (e *echoes) due(now time.Time) []raftpb.Message {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []raftpb.Message
	for _, m := range e.mu.members {
		silence := now.Sub(m.heard)
		if m.repeated || silence < silenceBeats*e.heartbeat {
			continue
		}
		m.repeated = true
		if silence >= e.election {
			clear(m.last)
		}
		for shard, l := range m.last {
			if m.heard.Sub(l.at) >= e.election {
				delete(m.last, shard)
				continue
			}
			all = append(all, raftpb.Message{Type: l.kind, ShardID: shard, To: l.to, From: l.from, Term: l.term})
		}
	}
	return all
}

// lose forgets a member whose connection has ended: it is lost, and will not go on as if nothing had been.
func (e *echoes) lose(member uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.mu.members, member)
}

// forget drops what was heard of a shard whose replica here has ended.
func (e *echoes) forget(shard uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.mu.members {
		delete(m.last, shard)
	}
}
