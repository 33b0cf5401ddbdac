package shard

import "time"

// gateAfter is how long a queue may be held by transactions before new ones wait for it: about as long as one takes.
const gateAfter = 10 * time.Millisecond

// gate makes a transaction that is about to latch its part wait, if the queue has been held for long: without that, transactions which
// follow each other closely would hold it for ever, since there is always one prepared. It returns false if it need not wait, and else
// calls pass, on another goroutine, once the queue has moved or the tenure ends.
//
// Nobody waits in a ring. What is latched here was so before the gate closed, and is let through: the queue waits for those transactions
// alone, which wait only for latches, queues and gates of shards further right. In the last shard there is none, so it moves, and so does
// the one before.
func (p *pipeline) gate(pass func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.absorb != nil && !p.mu.stopped {
		// It gets its turn once what is prepared is decided.
		p.mu.gated = append(p.mu.gated, pass)
		return true
	}
	if p.mu.stopped || len(p.mu.held) == 0 || len(p.mu.queue) == 0 {
		return false
	}
	now := p.t.r.cfg.now()
	if p.mu.heldSince.IsZero() {
		p.mu.heldSince = now
	}
	if now.Sub(p.mu.heldSince) < gateAfter {
		return false
	}
	p.mu.gated = append(p.mu.gated, pass)
	return true
}

// openGateLocked lets everybody pass: the queue has moved, or never will.
func (p *pipeline) openGateLocked() {
	p.mu.heldSince = time.Time{}
	for _, pass := range p.mu.gated {
		p.t.r.cfg.Workers.Go(pass)
	}
	p.mu.gated = nil
}
