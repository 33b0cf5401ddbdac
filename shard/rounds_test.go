package shard

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func lined() *pipeline { return &pipeline{wake: make(chan struct{}, 1)} }

func kicked(p *pipeline) bool {
	select {
	case <-p.wake:
		return true
	default:
		return false
	}
}

func TestRoundsLineUpWhoWaits(t *testing.T) {
	r := NewRounds()
	a, b, c := lined(), lined(), lined()
	first, ok := r.begin(a)
	require.True(t, ok, "a shard alone does not wait")
	for _, p := range []*pipeline{b, c, b} {
		_, ok = r.begin(p)
		require.False(t, ok)
	}
	r.end(first)
	require.True(t, kicked(b) && kicked(c), "all that waited go together")
	second, ok := r.begin(b)
	require.True(t, ok)
	_, ok = r.begin(a)
	require.False(t, ok, "who comes later waits for the next round")
	same, ok := r.begin(c)
	require.True(t, ok)
	require.Equal(t, second, same)
	r.end(first)
	r.end(second)
	require.False(t, kicked(a), "the end of an earlier round does not count")
	r.end(second)
	require.True(t, kicked(a))
}

func TestRoundsDoNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRounds()
		stuck, b := lined(), lined()
		_, ok := r.begin(stuck)
		require.True(t, ok)
		for range 3 {
			_, ok = r.begin(b)
			require.False(t, ok)
			// Whoever waits may go away; the next one is still let in.
			r.leave(b)
			time.Sleep(patienceMost)
		}
		_, ok = r.begin(b)
		require.False(t, ok)
		time.Sleep(patienceMost)
		require.True(t, kicked(b))
		round, ok := r.begin(b)
		require.True(t, ok)
		r.end(round)
		_, ok = r.begin(b)
		require.True(t, ok, "what is stuck holds up nobody twice")
	})
}

func TestRoundsOfAStoppedPipelineEnd(t *testing.T) {
	r := NewRounds()
	a, b, c := lined(), lined(), lined()
	first, _ := r.begin(a)
	r.begin(b)
	r.end(first)
	r.begin(c)
	require.False(t, kicked(c))
	r.leave(b)
	require.True(t, kicked(c), "a part that was granted and will not be used is over")
}
