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
	idleWait   = 250 * time.Millisecond
)

// news is where requests wait for a shard that cannot serve them now: its owner
// was lost, does not serve yet, or the keys are on the move. Of all that wait
// for a shard one probes at short intervals; the others sleep until a request to
// the shard got through, the range map changed, or a longer time passed. So a
// thousand clients of a lost owner are not a thousand times the load.
//
// Those whose keys are on the move wait apart, for requests to the keys that stay
// get through all the time and mean nothing to them.
type news struct {
	// idle is how long those wait at most who do not probe.
	idle time.Duration
	// waiting counts all waiters, so that a request that got through finds out
	// without a lock that nobody waits.
	waiting atomic.Int64
	mu      struct {
		sync.Mutex
		shards map[place]*shardNews
	}
}

// place is what requests wait at.
type place struct {
	shard  uint64
	moving bool
}

type shardNews struct {
	waiters int
	probing bool
	// woken is closed to wake all waiters.
	woken chan struct{}
}

func newNews() *news {
	n := &news{idle: idleWait}
	n.mu.shards = make(map[place]*shardNews)
	return n
}

// wait returns when the place is worth another try, or with ctx's error. attempt
// counts the tries so far, from 0.
func (n *news) wait(ctx context.Context, at place, attempt int) error {
	n.waiting.Add(1)
	defer n.waiting.Add(-1)
	s, probe := n.enter(at)
	pause := n.idle
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
	n.leave(at, s, probe)
	return err
}

func (n *news) enter(at place) (s *shardNews, probe bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s = n.mu.shards[at]
	if s == nil {
		s = &shardNews{woken: make(chan struct{})}
		n.mu.shards[at] = s
	}
	s.waiters++
	if !s.probing {
		s.probing, probe = true, true
	}
	return s, probe
}

func (n *news) leave(at place, s *shardNews, probe bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if probe {
		s.probing = false
	}
	s.waiters--
	if s.waiters == 0 && n.mu.shards[at] == s {
		delete(n.mu.shards, at)
	}
}

// served says that a request to the place got through.
func (n *news) served(at place) {
	if n.waiting.Load() == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wakeLocked(at)
}

// all wakes everybody.
func (n *news) all() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for at := range n.mu.shards {
		n.wakeLocked(at)
	}
}

// wakeLocked wakes the waiters at a place; later ones wait anew.
func (n *news) wakeLocked(at place) {
	if s := n.mu.shards[at]; s != nil {
		delete(n.mu.shards, at)
		close(s.woken)
	}
}
