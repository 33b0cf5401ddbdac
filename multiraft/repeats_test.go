package multiraft

import (
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/raftpb"
)

func TestRepeats(t *testing.T) {
	r := repeats{after: 500 * time.Millisecond}
	start := time.Now()
	big := func(shard, to, term, prev uint64) raftpb.Message {
		return raftpb.Message{Type: raftpb.Replicate, ShardID: shard, To: to, Term: term, LogIndex: prev,
			Entries: []raftpb.Entry{{Cmd: make([]byte, repeatSize/2)}, {Cmd: make([]byte, repeatSize/2)}}}
	}
	small := raftpb.Message{Type: raftpb.Replicate, ShardID: 2, To: 3, Term: 5, LogIndex: 10, Entries: []raftpb.Entry{{Cmd: make([]byte, 100)}}}
	heartbeat := raftpb.Message{Type: raftpb.Heartbeat, ShardID: 2, To: 3, Term: 5}
	for _, step := range []struct {
		name string
		at   time.Duration
		m    raftpb.Message
		sent bool
	}{
		{"the first", 0, big(2, 3, 5, 10), true},
		{"the same again", 100 * time.Millisecond, big(2, 3, 5, 10), false},
		{"a small one", 100 * time.Millisecond, small, true},
		{"a heartbeat", 100 * time.Millisecond, heartbeat, true},
		{"another shard", 100 * time.Millisecond, big(4, 3, 5, 10), true},
		{"the same after a while", 500 * time.Millisecond, big(2, 3, 5, 10), true},
		{"and again", 999 * time.Millisecond, big(2, 3, 5, 10), false},
		{"what follows", 999 * time.Millisecond, big(2, 3, 5, 12), true},
		{"back to the start", 999 * time.Millisecond, big(2, 3, 5, 10), true},
		{"another term", 999 * time.Millisecond, big(2, 3, 6, 10), true},
		{"another replica", 999 * time.Millisecond, big(2, 4, 6, 10), true},
	} {
		got := r.drop([]raftpb.Message{step.m}, start.Add(step.at))
		if (len(got) == 1) != step.sent {
			t.Errorf("%s: %d messages go out", step.name, len(got))
		}
	}
	mixed := r.drop([]raftpb.Message{heartbeat, big(2, 4, 6, 10), small}, start.Add(time.Second))
	if len(mixed) != 2 || mixed[0].Type != raftpb.Heartbeat || len(mixed[1].Entries) != 1 {
		t.Errorf("of heartbeat, repetition and small message these go out: %v", mixed)
	}
}
