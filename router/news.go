package router

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	firstProbe = 2 * time.Millisecond
	lastProbe  = 25 * time.Millisecond
	// idleWait bounds how long those wait who leave the probing to another.
	idleWait = 250 * time.Millisecond
)

// news is where requests wait for a shard that cannot serve them now: its owner
// was lost, does not serve yet, or the keys are on the move. Of all that wait
// for a shard one probes at short intervals; the others sleep until a request to
// the shard got through, the range map changed, or a longer time passed. So a
// thousand clients of a lost owner are not a thousand times the load.
type news struct {
	// waiting counts all waiters, so that a request that got through finds out
	// without a lock that nobody waits.
	waiting atomic.Int64
	mu      struct {
		sync.Mutex
		shards map[uint64]*shardNews
	}
}

type shardNews struct {
	waiters int
	probing bool
	// woken is closed to wake all waiters.
	woken chan struct{}
}

func newNews() *news {
	n := &news{}
	n.mu.shards = make(map[uint64]*shardNews)
	return n
}

// wait returns when the shard is worth another try, or with ctx's error. attempt
// counts the tries so far, from 0.
func (n *news) wait(ctx context.Context, shard uint64, attempt int) error {
	n.waiting.Add(1)
	defer n.waiting.Add(-1)
	s, probe := n.enter(shard)
	pause := idleWait
	if probe {
		pause = min(firstProbe<<min(attempt, 10), lastProbe)
	}
	timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
	defer timer.Stop()
	var err error
	select {
	case <-timer.C:
	case <-s.woken:
	case <-ctx.Done():
		err = ctx.Err()
	}
	n.leave(shard, s, probe)
	return err
}

func (n *news) enter(shard uint64) (s *shardNews, probe bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s = n.mu.shards[shard]
	if s == nil {
		s = &shardNews{woken: make(chan struct{})}
		n.mu.shards[shard] = s
	}
	s.waiters++
	if !s.probing {
		s.probing, probe = true, true
	}
	return s, probe
}

func (n *news) leave(shard uint64, s *shardNews, probe bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if probe {
		s.probing = false
	}
	s.waiters--
	if s.waiters == 0 && n.mu.shards[shard] == s {
		delete(n.mu.shards, shard)
	}
}

// served says that a request to the shard got through.
func (n *news) served(shard uint64) {
	if n.waiting.Load() == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wakeLocked(shard)
}

// all wakes everybody.
func (n *news) all() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for shard := range n.mu.shards {
		n.wakeLocked(shard)
	}
}

// wakeLocked wakes the waiters of a shard; later ones wait anew.
func (n *news) wakeLocked(shard uint64) {
	if s := n.mu.shards[shard]; s != nil {
		delete(n.mu.shards, shard)
		close(s.woken)
	}
}
