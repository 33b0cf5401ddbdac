package shard

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// readings gets current revisions for a tenure's reads. Where the sequencer is
// this process that is a function call. Otherwise those that wait together share
// one answer, and those that come while it is under way share the next: an
// answer serves only who was waiting when it was asked for.
type readings struct {
	t *tenure

	mu struct {
		sync.Mutex
		waiting []reading
		running bool
	}
}

type reading struct {
	ctx  context.Context
	done func(Grant, error)
}

const (
	// readingPatience is how long one question may take before those who wait
	// are looked at again.
	readingPatience = time.Second
	readingRetry    = 10 * time.Millisecond
)

// get calls done with the current revision, asked for after this call began.
func (q *readings) get(ctx context.Context, done func(Grant, error)) {
	if g, ok := q.t.r.cfg.Sequencer.TryCurrent(); ok {
		q.t.lease.observe(g.Stamp)
		done(g, nil)
		return
	}
	q.mu.Lock()
	if len(q.mu.waiting) >= q.t.r.cfg.Limits.Reads {
		q.mu.Unlock()
		done(Grant{}, rpctypes.ErrGRPCRequestTooManyRequests)
		return
	}
	q.mu.waiting = append(q.mu.waiting, reading{ctx: ctx, done: done})
	start := !q.mu.running
	q.mu.running = true
	q.mu.Unlock()
	if start {
		go q.run()
	}
}

// run asks until nobody waits.
func (q *readings) run() {
	for {
		q.mu.Lock()
		waiting := q.mu.waiting
		q.mu.waiting = nil
		q.mu.running = len(waiting) > 0
		q.mu.Unlock()
		if len(waiting) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(q.t.ctx, readingPatience)
		g, err := q.t.r.cfg.Sequencer.Current(ctx)
		cancel()
		if err == nil {
			q.t.lease.observe(g.Stamp)
			for _, w := range waiting {
				w.done(g, nil)
			}
			continue
		}
		q.again(waiting)
	}
}

// again puts back those who still want an answer, after a while.
func (q *readings) again(waiting []reading) {
	if q.t.over() {
		for _, w := range waiting {
			w.done(Grant{}, q.t.r.notOwner())
		}
		return
	}
	rest := waiting[:0]
	for _, w := range waiting {
		if err := w.ctx.Err(); err != nil {
			w.done(Grant{}, err)
		} else {
			rest = append(rest, w)
		}
	}
	pause(q.t.ctx, readingRetry)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.waiting = append(rest, q.mu.waiting...)
}

// pause waits for d or for the end of ctx, and tells whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
