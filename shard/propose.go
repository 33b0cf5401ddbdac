package shard

import (
	"errors"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/shard/command"
)

// send proposes all that may be proposed now. An error means to try again later.
func (p *pipeline) send() error {
	for {
		b := p.unproposed()
		if b == nil {
			b = p.launchAbsorb()
		}
		if b == nil {
			b = p.launchSteps()
		}
		if b == nil {
			writes, ticket := p.gather()
			if len(writes) == 0 {
				return nil
			}
			var err error
			if b, err = p.allot(writes, ticket); err != nil || b == nil {
				return err
			}
		}
		proposal, err := p.t.r.cfg.Raft.Propose(b.cmd)
		if errors.Is(err, multiraft.ErrTooLarge) {
			// Requests are bounded well below this.
			p.t.r.log.Error("batch is too large for the log", zap.Int("bytes", len(b.cmd)), zap.Error(err))
			p.condemn(b)
		}
		if err != nil {
			return err
		}
		p.mu.Lock()
		b.proposal = proposal
		p.mu.Unlock()
	}
}

// unproposed returns the oldest batch in flight that has to be proposed.
func (p *pipeline) unproposed() *batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.mu.inflight {
		if b.proposal == nil {
			return b
		}
	}
	return nil
}

// gather takes the next batch off the queue, without those whose clients have
// gone, and marks it as asking.
func (p *pipeline) gather() (writes []*write, ticket uint64) {
	l := &p.t.r.cfg.Limits
	var gone []*write
	p.mu.Lock()
	if len(p.mu.steps) == 0 && p.readyLocked() {
		n, size := 0, 0
		for n < len(p.mu.queue) && len(writes) < l.BatchWrites {
			w := p.mu.queue[n]
			if w.req.Ctx.Err() != nil {
				gone = append(gone, w)
			} else if len(writes) > 0 && (size+w.effectBytes > l.BatchBytes || w.req.Auth != writes[0].req.Auth) {
				break
			} else {
				size += w.effectBytes
				writes = append(writes, w)
			}
			p.mu.queueBytes -= w.effectBytes
			n++
		}
		clear(p.mu.queue[:n])
		p.mu.queue = p.mu.queue[n:]
		p.openGateLocked()
		if len(writes) > 0 {
			p.mu.ticket++
			p.mu.asking = p.mu.ticket
		}
	}
	ticket = p.mu.asking
	p.mu.Unlock()
	for _, w := range gone {
		w.abandon(w.req.Ctx.Err())
	}
	return writes, ticket
}

// allot gets revisions for gathered writes and puts them in flight. It returns
// neither batch nor error if the tenure ended meanwhile.
func (p *pipeline) allot(writes []*write, ticket uint64) (*batch, error) {
	grant, err := p.t.r.cfg.Sequencer.Allocate(p.t.ctx, len(writes), writes[0].req.Auth)
	if errors.Is(err, ErrOldAuth) {
		p.unchecked(writes)
		return nil, nil
	}
	if err != nil {
		p.refused(writes)
		return nil, err
	}
	p.t.lease.observe(grant.Stamp)
	for i, w := range writes {
		w.revision = grant.First + int64(i)
	}
	b := &batch{ticket: ticket, writes: writes}
	p.mu.Lock()
	p.mu.asking = 0
	stopped, handed := p.mu.stopped, p.mu.handed
	if !handed {
		p.launchLocked(b)
	}
	p.mu.Unlock()
	switch {
	case handed:
		// A claim applied meanwhile. The revisions stay unused.
		for _, w := range writes {
			w.abandon(p.t.r.notOwner())
		}
		return nil, nil
	case stopped:
		// They wait for that claim like everything in flight.
		for _, w := range writes {
			w.watchClient()
		}
		return nil, nil
	}
	return b, nil
}

// launchLocked puts a batch in flight as the next of the epoch's sequence.
func (p *pipeline) launchLocked(b *batch) {
	c := command.Batch{Epoch: p.t.epoch, Seq: p.mu.nextSeq, Txns: make([]command.Txn, len(b.writes))}
	for i, w := range b.writes {
		c.Txns[i] = command.Txn{Revision: w.revision, Effects: w.result.Effects}
		if w.commit != nil {
			c.Txns[i].Record, c.Txns[i].Subs = w.commit.record, w.commit.subs
		}
	}
	b.seq = p.mu.nextSeq
	b.cmd = c.Encode()
	b.proposal = nil
	p.mu.nextSeq++
	p.mu.inflight = append(p.mu.inflight, b)
}

// unchecked ends writes that were checked under another version of auth than
// the present one. They got no revisions.
func (p *pipeline) unchecked(writes []*write) {
	p.mu.Lock()
	p.mu.asking = 0
	p.settledLocked()
	p.mu.Unlock()
	for _, w := range writes {
		w.abandon(ErrOldAuth)
	}
	p.kick()
}

// refused puts writes that got no revisions back to the head of the queue, or
// ends them with the tenure. They have not asked any more.
func (p *pipeline) refused(writes []*write) {
	p.mu.Lock()
	p.mu.asking = 0
	p.settledLocked()
	stopped := p.mu.stopped
	if !stopped {
		p.mu.queue = append(append(make([]*write, 0, len(writes)+len(p.mu.queue)), writes...), p.mu.queue...)
		for _, w := range writes {
			p.mu.queueBytes += w.effectBytes
		}
	}
	p.mu.Unlock()
	if stopped {
		for _, w := range writes {
			w.abandon(p.t.r.notOwner())
		}
	}
}
