package shard

import (
	"context"
	"slices"
)

// barrier waits until everything that has asked with a ticket up to upto is
// settled: applied, dead, or without a revision.
type barrier struct {
	upto uint64
	done func(ok bool)
}

// applied takes in that a batch of the tenure's epoch applied, or was rejected.
func (p *pipeline) applied(seq uint64, rejection Rejection, index uint64) {
	p.mu.Lock()
	if len(p.mu.inflight) == 0 || p.mu.inflight[0].seq != seq || rejection == OutOfSequence {
		// A repeated copy, or one that came before its turn.
		p.mu.Unlock()
		return
	}
	b := p.mu.inflight[0]
	if rejection != Accepted {
		p.mu.Unlock()
		p.condemn(b)
		return
	}
	p.mu.inflight[0] = nil
	p.mu.inflight = p.mu.inflight[1:]
	p.mu.returning = 0
	if len(b.writes) > 1 {
		p.mu.returning = len(p.mu.queue) + len(b.writes)
	}
	p.mu.Unlock()
	if b.steps != nil {
		p.stepsApplied(b, index)
		return
	}
	// Heads and latches come before the barriers, so that whoever waited for
	// the batch finds it done.
	for _, w := range b.writes {
		p.t.heads.applied(w.revision, w.result.Effects)
		p.t.latches.Release(&w.guard)
	}
	p.mu.Lock()
	for _, w := range b.writes {
		p.dischargeLocked(w.size)
	}
	p.settledLocked()
	ready := p.readyLocked()
	p.mu.Unlock()
	if ready {
		p.kick()
	}
	for _, w := range b.writes {
		w.trace.apply(p.t.r.fsm.began)
		w.succeed(index)
	}
}

// condemn ends a batch that can never apply, and the tenure with it: nothing
// behind it applies in this epoch either. The next claim proposes that again.
func (p *pipeline) condemn(b *batch) {
	p.mu.Lock()
	p.mu.inflight = slices.DeleteFunc(p.mu.inflight, func(o *batch) bool { return o == b })
	p.mu.Unlock()
	p.t.end()
	for _, w := range b.writes {
		w.abandon(p.t.r.notOwner())
	}
	failSteps(b.steps, p.t.r.notOwner())
}

// stop takes nothing from the queue any more and ends what is in it.
func (p *pipeline) stop() {
	p.mu.Lock()
	p.mu.stopped = true
	queue := p.mu.queue
	p.mu.queue, p.mu.queueBytes = nil, 0
	steps := p.mu.steps
	p.mu.steps = nil
	waiting := p.mu.waiting
	p.mu.waiting = nil
	p.openGateLocked()
	var unsettled []*write
	for _, b := range p.mu.inflight {
		unsettled = append(unsettled, b.writes...)
	}
	p.mu.Unlock()
	for _, b := range waiting {
		b.done(false)
	}
	for _, w := range queue {
		w.abandon(p.t.r.notOwner())
	}
	failSteps(steps, p.t.r.notOwner())
	// From now on it may take long to learn their fate.
	for _, w := range unsettled {
		w.watchClient()
	}
}

// take removes and returns everything in flight, for good.
func (p *pipeline) take() []*batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.handed = true
	batches := p.mu.inflight
	p.mu.inflight = nil
	return batches
}

// barrier calls done once everything that has asked for a revision by now is
// settled; with false if the tenure ends before.
func (p *pipeline) barrier(done func(ok bool)) {
	p.mu.Lock()
	if p.mu.stopped {
		p.mu.Unlock()
		done(false)
		return
	}
	if p.oldestTicketLocked() > p.mu.ticket {
		p.mu.Unlock()
		done(true)
		return
	}
	p.mu.waiting = append(p.mu.waiting, barrier{upto: p.mu.ticket, done: done})
	p.mu.Unlock()
}

// oldestTicketLocked returns the smallest ticket that is not settled, or one
// that was not given yet.
func (p *pipeline) oldestTicketLocked() uint64 {
	oldest := p.mu.ticket + 1
	if len(p.mu.inflight) > 0 {
		oldest = p.mu.inflight[0].ticket
	} else if p.mu.asking != 0 {
		oldest = p.mu.asking
	}
	for _, t := range p.mu.held {
		oldest = min(oldest, t)
	}
	return oldest
}

// settledLocked releases the barriers that wait for nothing more.
func (p *pipeline) settledLocked() {
	if len(p.mu.waiting) == 0 {
		return
	}
	oldest := p.oldestTicketLocked()
	n := 0
	for n < len(p.mu.waiting) && p.mu.waiting[n].upto < oldest {
		n++
	}
	if n == 0 {
		return
	}
	ready := p.mu.waiting[:n:n]
	p.mu.waiting = p.mu.waiting[n:]
	p.t.r.cfg.Workers.Go(func() {
		for _, b := range ready {
			b.done(true)
		}
	})
}

// drain refuses new writes and waits until every admitted one has ended. Then the
// pipeline is stopped.
func (p *pipeline) drain(ctx context.Context) error {
	p.mu.Lock()
	if p.mu.stopped || p.mu.drained != nil {
		p.mu.Unlock()
		return p.t.r.notOwner()
	}
	drained := make(chan struct{})
	p.mu.drained = drained
	if p.mu.admitted == 0 {
		p.mu.stopped = true
		close(drained)
	}
	p.mu.Unlock()
	select {
	case <-drained:
		return nil
	case <-p.t.ctx.Done():
		return p.t.r.notOwner()
	case <-ctx.Done():
		return ctx.Err()
	}
}
