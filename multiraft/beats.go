package multiraft

import (
	"maps"
	"slices"
	"time"

	"github.com/lni/dragonboat/v4/raftpb"
)

// A leader tells each follower at each heartbeat that it is there, and each follower answers: for a member that leads a thousand groups that nobody
// writes to ten thousand messages a second out and as many in. So a follower of an idle group gets a heartbeat only
// two or three times in an election timeout. It is beats that withholds the others, and echoes that makes good for it on the other side.
//
//   - Safety: none rests on heartbeats. Any network may lose, delay and repeat them; beats loses some, echoes repeats some. The confirmation
//     of a read (a heartbeat with a hint) is never withheld, and read leases are made of nothing else.
//   - A group is idle towards a follower once, for an election timeout, no entries went there and heartbeats said the same: leader, term and
//     commit index. Whatever is new goes out with the next heartbeat, and all of them follow for an election timeout. So a follower that
//     lags, whose leader sends it entries after each answer, has the full pace.
//   - A follower that hears two heartbeats in an election timeout never elects, and a leader that has two answers in it keeps its place: a
//     member that works is as good as before.
//   - A member that is lost is noticed as soon as before: its connections end, nothing is repeated, and followers elect one to two election
//     timeouts after the last heartbeat that they had, which is no later than the last one that there was.
//   - A member that stands still for a while (a slow disk, a pause) must not lose idle groups sooner than busy ones, though what it withheld
//     left followers and leaders with less time. As long as anything withheld is standing, each heartbeat lets one message through at least,
//     so that silence tells. After silenceBeats of it the receiver gives its own replicas the last heartbeats and answers of that member
//     once more: those that it would have had at the full pace. Timers run from there, as if no heartbeat had been withheld, and up to
//     silenceBeats+1 heartbeats late.
//
// Quiescence, where an idle group sends nothing at all, was the other way: Dragonboat has it. There followers do not notice by themselves that
// their leader is lost, a follower that wakes deposes the leader that slept, and a proposal whose first message is lost wakes nobody.

// beats withholds heartbeats of idle groups on one connection. It takes the time with each call and has no other clock.
type beats struct {
	// heartbeat is the tick, election and idleAfter are those of Config.
	heartbeat, election, idleAfter time.Duration
	// sent holds what each follower was told last.
	sent map[beatKey]beat
	// limited are the leaders that were told last that this follower's memory is full.
	limited map[beatKey]bool
	// last is when anything was sent, swept when sent was last rid of groups that are gone.
	last, swept time.Time
}

// sweepElections is how often that is, in election timeouts.
const sweepElections = 60

type beatKey struct{ shard, to uint64 }

type beat struct {
	from, term, commit uint64
	// since is when the leader first said this, at when it said it last.
	since, at time.Time
}

// drop returns the messages that go out, in the same memory, and how many of them are heartbeats.
func (b *beats) drop(all []raftpb.Message, now time.Time) (out []raftpb.Message, heartbeats int) {
	if now.Sub(b.swept) >= sweepElections*b.election {
		b.swept = now
		maps.DeleteFunc(b.sent, func(_ beatKey, s beat) bool { return now.Sub(s.at) >= b.election })
	}
	out = slices.DeleteFunc(all, func(m raftpb.Message) bool {
		if b.withholds(&m, now) {
			return true
		}
		if m.Type == raftpb.Heartbeat {
			heartbeats++
		}
		b.last = now
		return false
	})
	return out, heartbeats
}

// withholds tells whether m need not go out, and remembers it otherwise.
func (b *beats) withholds(m *raftpb.Message, now time.Time) bool {
	key := beatKey{m.ShardID, m.To}
	switch m.Type {
	case raftpb.Heartbeat:
		// One with a hint confirms a read. It goes out, and is not counted on: echoes keeps no such.
		return m.Hint == 0 && m.HintHigh == 0 && b.withholdsBeat(key, m, now)
	case raftpb.Replicate:
		delete(b.sent, key)
	case raftpb.RateLimit:
		// Each election timeout a follower tells its leader how much of its memory entries take. A leader that was told nothing takes that for 0.
		if m.Hint == 0 && !b.limited[key] {
			return true
		}
		if m.Hint == 0 {
			delete(b.limited, key)
			return false
		}
		if b.limited == nil {
			b.limited = make(map[beatKey]bool)
		}
		b.limited[key] = true
	}
	return false
}

func (b *beats) withholdsBeat(key beatKey, m *raftpb.Message, now time.Time) bool {
	if b.sent == nil {
		b.sent = make(map[beatKey]beat)
	}
	s, known := b.sent[key]
	if !known || s.from != m.From || s.term != m.Term || s.commit != m.Commit {
		b.sent[key] = beat{from: m.From, term: m.Term, commit: m.Commit, since: now, at: now}
		return false
	}
	// Heartbeats come by a ticker, which is now and then early.
	early := b.heartbeat / 2
	if now.Sub(s.since) >= b.idleAfter && now.Sub(s.at) < b.election/2-early && now.Sub(b.last) < b.heartbeat-early {
		return true
	}
	s.at = now
	b.sent[key] = s
	return false
}
