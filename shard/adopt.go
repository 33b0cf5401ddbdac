package shard

import (
	"fmt"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/shard/command"
	"github.com/kvd-io/kvd/shard/latch"
	"github.com/kvd-io/kvd/shard/ownership"
)

// What was in flight when a tenure ended has one of three fates, which a later
// entry of the log decides:
//
//   - it applies after all: the next leader had it in its log;
//   - a claim of this process applies that follows directly on the tenure's
//     epoch: what has not applied by then never will, nobody else can have
//     answered a read at or above its revisions, and it is proposed again in the
//     new epoch with the same revisions;
//   - any other claim applies: it is dead, since another owner may have answered
//     reads above its revisions without it.

// claimed follows a claim that applied: this process's tenure begins, or its
// last one is over for good.
func (r *Replica) claimed(o ownership.State, direct bool) {
	old := r.tenure.Load()
	mine := o.IsOwner(r.cfg.Member, r.cfg.Replica, r.cfg.Incarnation)
	if old != nil {
		old.end()
	}
	if !mine {
		if old != nil {
			// Their epoch is over and they did not apply: they never will.
			old.forsake(r.notOwner())
		}
		return
	}
	r.counters.claims.Add(1)
	t := newTenure(r, o)
	if old != nil {
		if direct && old.epoch+1 == t.epoch {
			t.adopt(old)
		} else {
			old.forsake(r.notOwner())
		}
	}
	r.tenure.Store(t)
	t.start()
}

// applied takes in that a batch applied or was rejected.
func (t *tenure) applied(b *command.Batch, rejection Rejection, index uint64) {
	if b.Epoch == t.epoch {
		t.pipeline.applied(b.Seq, rejection, index)
	}
}

// adopt takes over what is in flight in the tenure whose epoch this one directly
// follows. The tenure has not started.
func (t *tenure) adopt(old *tenure) {
	n := 0
	for _, b := range old.pipeline.take() {
		if b.absorbs {
			// Whoever wanted it finds out what became of it.
			continue
		}
		if b.steps != nil {
			// Whoever sent them asks again: a Prepare of the old latches is dead, and
			// the rest is told by the new state.
			failSteps(b.steps, t.r.notOwner())
			continue
		}
		if err := t.pipeline.adopt(b); err != nil {
			// The batch is this process's own encoding, and its latches were held
			// side by side before.
			t.r.log.DPanic("writes in flight could not be taken over", zap.Error(err))
			for _, w := range b.writes {
				w.answer(t.r.ambiguous(err))
			}
			continue
		}
		n += len(b.writes)
	}
	if n > 0 {
		t.r.log.Info("writes in flight are proposed again in the next epoch",
			zap.Uint64("epoch", t.epoch), zap.Int("writes", n))
	}
}

// adopt puts a batch of the last epoch in flight, under this epoch's numbers and
// latches.
func (p *pipeline) adopt(b *batch) error {
	// The effects come from the command, not from the requests: a client that
	// was told "ambiguous" may have taken its request back.
	var c command.Batch
	if err := c.Decode(b.cmd); err != nil {
		return err
	}
	for _, w := range b.writes {
		w.t = p.t
		w.guard = latch.Guard{}
		if p.t.latches.Acquire(&w.guard, w.latches, w) != latch.Granted {
			return fmt.Errorf("latches of revision %d are not free", w.revision)
		}
		if w.commit != nil {
			p.t.parts.adopt(w.commit.part)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range b.writes {
		p.mu.admitted++
		p.mu.admittedBytes += w.size
	}
	c.Epoch, c.Seq = p.t.epoch, p.mu.nextSeq
	p.mu.ticket++
	p.mu.nextSeq++
	p.mu.inflight = append(p.mu.inflight, &batch{
		ticket: p.mu.ticket,
		seq:    c.Seq,
		writes: b.writes,
		cmd:    c.Encode(),
	})
	return nil
}

// settle takes in that a snapshot contains the batches of the tenure's epoch
// below nextSeq.
func (t *tenure) settle(nextSeq, index uint64) {
	for {
		seq, ok := t.pipeline.oldestSeq()
		if !ok || seq >= nextSeq {
			return
		}
		t.pipeline.applied(seq, Accepted, index)
	}
}

// oldestSeq returns the sequence number of the oldest batch in flight.
func (p *pipeline) oldestSeq() (seq uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.inflight) == 0 {
		return 0, false
	}
	return p.mu.inflight[0].seq, true
}

// forsake ends what is in flight with an error.
func (t *tenure) forsake(err error) {
	for _, b := range t.pipeline.take() {
		failSteps(b.steps, err)
		for _, w := range b.writes {
			t.pipeline.discharge(w.size)
			w.answer(err)
		}
	}
}
