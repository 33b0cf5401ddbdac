package router

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestOneProbes: of many that wait for a shard, one tries at short intervals; the
// rest follow once it got through.
func TestOneProbes(t *testing.T) {
	n := newNews()
	n.idle = time.Hour
	at := place{shard: 7}
	var tries atomic.Int64
	var open atomic.Bool
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			for attempt := 0; ; attempt++ {
				tries.Add(1)
				if open.Load() {
					n.served(at)
					return
				}
				if err := n.wait(context.Background(), at, attempt); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	require.Eventually(t, func() bool { return tries.Load() >= 210 }, time.Minute, time.Millisecond)
	open.Store(true)
	wg.Wait()
	require.Empty(t, n.mu.shards)
	require.Zero(t, n.waiting.Load())
}

// TestMovingKeysWaitApart: requests to the keys that stay do not wake those whose
// keys move.
func TestMovingKeysWaitApart(t *testing.T) {
	n := newNews()
	moving := place{shard: 7, moving: true}
	s, probe := n.enter(moving)
	require.True(t, probe)
	_, probe = n.enter(moving)
	require.False(t, probe, "two of them probe")
	n.waiting.Store(2)
	n.served(place{shard: 7})
	select {
	case <-s.woken:
		t.Fatal("woken by another place")
	default:
	}
	n.served(moving)
	<-s.woken
	later, probe := n.enter(moving)
	require.True(t, probe)
	require.NotSame(t, s, later)
	n.leave(moving, s, true)
	n.leave(moving, s, false)
	require.Same(t, later, n.mu.shards[moving], "who leaves late takes nothing away")
	n.all()
	<-later.woken
	n.leave(moving, later, true)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.enter(moving)
	require.ErrorIs(t, n.wait(ctx, moving, 30), context.Canceled)
}
