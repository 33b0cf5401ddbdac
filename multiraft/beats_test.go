package multiraft

import (
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/stretchr/testify/require"
)

const (
	beatEvery  = 100 * time.Millisecond
	beatExpiry = time.Second
)

func heartbeatOf(shard, term, commit uint64) raftpb.Message {
	return raftpb.Message{Type: raftpb.Heartbeat, ShardID: shard, From: 1, To: 2, Term: term, Commit: commit}
}

// TestBeats walks through what is withheld from one follower, with another group that always has something to say.
func TestBeats(t *testing.T) {
	b := beats{heartbeat: beatEvery, election: beatExpiry, idleAfter: beatExpiry}
	start := time.Now()
	entries := raftpb.Message{Type: raftpb.Replicate, ShardID: 1, From: 1, To: 2, Term: 5}
	hinted := heartbeatOf(1, 5, 10)
	hinted.Hint = 7
	limit := func(size uint64) raftpb.Message {
		return raftpb.Message{Type: raftpb.RateLimit, ShardID: 1, From: 1, To: 2, Hint: size}
	}
	for _, step := range []struct {
		name     string
		from, to int // in tenths of a second
		m        raftpb.Message
		sent     int
	}{
		{"at first all go out", 0, 9, heartbeatOf(1, 5, 10), 10},
		{"then each fifth", 10, 29, heartbeatOf(1, 5, 10), 4},
		{"all reads do", 30, 33, hinted, 4},
		{"and change nothing", 34, 38, heartbeatOf(1, 5, 10), 1},
		{"another commit index", 39, 48, heartbeatOf(1, 5, 11), 10},
		{"is old soon", 49, 58, heartbeatOf(1, 5, 11), 2},
		{"entries", 59, 59, entries, 1},
		{"are no idle group's", 60, 69, heartbeatOf(1, 5, 11), 10},
		{"another term", 70, 79, heartbeatOf(1, 6, 11), 10},
		{"nothing is wrong with the memory", 80, 82, limit(0), 0},
		{"now it is", 83, 84, limit(1 << 20), 2},
		{"and no more", 85, 88, limit(0), 1},
	} {
		sent := 0
		for at := step.from; at <= step.to; at++ {
			got, _ := b.drop([]raftpb.Message{{Type: raftpb.ReplicateResp, ShardID: 9, To: 2}, step.m}, start.Add(time.Duration(at)*beatEvery))
			sent += len(got) - 1
		}
		require.Equal(t, step.sent, sent, step.name)
	}
	// Where nothing else goes out, each heartbeat does: silence would mean something.
	b = beats{heartbeat: beatEvery, election: beatExpiry, idleAfter: beatExpiry}
	for i := range 50 {
		_, heartbeats := b.drop([]raftpb.Message{heartbeatOf(1, 5, 10)}, start.Add(time.Duration(i)*beatEvery))
		require.Equal(t, 1, heartbeats)
	}
}

// TestIdleGroupsSendFewMessages holds what a thousand idle groups send to a bound, by count and not by the clock of a machine.
func TestIdleGroupsSendFewMessages(t *testing.T) {
	const groups, seconds = 1000, 20
	b := beats{heartbeat: beatEvery, election: beatExpiry, idleAfter: beatExpiry}
	now := time.Now()
	sent := 0
	for i := range (seconds + 1) * 10 {
		var all []raftpb.Message
		for shard := range uint64(groups) {
			all = append(all, heartbeatOf(shard+1, 5, 10))
			if i%10 == 0 {
				all = append(all, raftpb.Message{Type: raftpb.RateLimit, ShardID: shard + 1, From: 1, To: 2})
			}
		}
		if got, _ := b.drop(all, now); i >= 10 {
			sent += len(got)
		}
		now = now.Add(beatEvery)
	}
	require.LessOrEqual(t, sent, groups*seconds*21/10, "messages in %d seconds to one follower of each of %d groups", seconds, groups)
	require.Len(t, b.sent, groups)
	// What is remembered of groups that are gone goes, too.
	for range sweepElections + 1 {
		now = now.Add(beatExpiry)
		b.drop([]raftpb.Message{heartbeatOf(1, 5, 10)}, now)
	}
	require.Len(t, b.sent, 1)
}

// TestEchoes walks through what a member's silence means.
func TestEchoes(t *testing.T) {
	start := time.Now()
	at := func(tenths int) time.Time { return start.Add(time.Duration(tenths) * beatEvery) }
	e := echoes{heartbeat: beatEvery, election: beatExpiry, runs: func(shard uint64) bool { return shard < 100 }}
	hinted := heartbeatOf(9, 4, 10)
	hinted.Hint = 1
	answer := raftpb.Message{Type: raftpb.HeartbeatResp, ShardID: 2, From: 7, To: 8, Term: 3}
	e.hear(5, []raftpb.Message{heartbeatOf(1, 4, 10), answer, hinted, heartbeatOf(100, 4, 10),
		{Type: raftpb.ReplicateResp, ShardID: 3, From: 1, To: 2, Term: 3}}, at(0))
	e.hear(6, []raftpb.Message{heartbeatOf(4, 5, 10)}, at(1))
	require.Empty(t, e.due(at(1)))
	require.ElementsMatch(t, []raftpb.Message{heartbeatOf(1, 4, 0), answer}, e.due(at(2)),
		"both, without a commit index; nothing else, and of no shard that does not run here")
	require.Equal(t, []raftpb.Message{heartbeatOf(4, 5, 0)}, e.due(at(3)), "the other member's")
	require.Empty(t, e.due(at(4)), "once in a silence")
	e.hear(5, []raftpb.Message{heartbeatOf(1, 4, 11)}, at(9))
	require.Len(t, e.due(at(11)), 2, "both again")
	e.hear(5, []raftpb.Message{heartbeatOf(1, 4, 11)}, at(12))
	require.Equal(t, []raftpb.Message{heartbeatOf(1, 4, 0)}, e.due(at(14)), "the answer is too old")
	e.hear(5, []raftpb.Message{answer}, at(15))
	e.forget(2)
	require.Equal(t, []raftpb.Message{heartbeatOf(1, 4, 0)}, e.due(at(17)), "that replica has ended")
	e.hear(5, nil, at(18))
	require.Empty(t, e.due(at(28)), "after a pause of this process there is nothing to make good")
	e.hear(5, []raftpb.Message{answer}, at(29))
	e.lose(5)
	require.Empty(t, e.due(at(31)), "the member is lost")
}

// TestStallsOfIdleGroups compares an idle group with a busy one when the leader's member stands still: followers' timers, which elect after ten
// ticks at the earliest, may run a little longer but not expire where those of a busy group would not. Time is virtual, in milliseconds.
func TestStallsOfIdleGroups(t *testing.T) {
	const stallAt = 5000
	idleTicks := func(stall, phase, shift int, repeat bool) (most int) {
		b, e := beats{heartbeat: beatEvery, election: beatExpiry, idleAfter: beatExpiry}, echoes{heartbeat: beatEvery, election: beatExpiry, runs: func(uint64) bool { return true }}
		base := time.Now()
		ticks := 0 // of the follower of group 2 since a heartbeat
		begin := stallAt + phase
		for ms := range begin + 3000 {
			now := base.Add(time.Duration(ms) * time.Millisecond)
			var got []raftpb.Message
			if ms%100 == 0 && (ms < begin || ms > begin+stall) {
				got, _ = b.drop([]raftpb.Message{heartbeatOf(1, 5, 10), heartbeatOf(2, 5, 10)}, now)
				require.NotEmpty(t, got, "a heartbeat without any message")
				e.hear(1, got, now)
			}
			if ms%100 == shift {
				if repeat {
					got = append(got, e.due(now)...)
				}
				ticks++
				most = max(most, ticks)
			}
			for _, m := range got {
				if m.ShardID == 2 {
					ticks = 0
				}
			}
		}
		return most
	}
	lost := 0
	for _, stall := range []int{50, 150, 250, 350, 500, 650, 800} {
		for phase := 0; phase < 600; phase += 35 { // of the stall, in the rhythm of what is withheld
			for _, shift := range []int{0, 30, 60, 90} { // of the follower's ticks
				require.Less(t, idleTicks(stall, phase, shift, true), 10, "stall of %d ms after %d, ticks at %d", stall, stallAt+phase, shift)
				if idleTicks(stall, phase, shift, false) >= 10 {
					lost++
				}
			}
		}
	}
	require.NotZero(t, lost, "without repetitions some of these stalls would have cost an election")
}
