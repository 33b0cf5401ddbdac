package shard

import (
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// enqueueStep gives a step its turn: behind what has asked for a revision, ahead
// of what has not.
func (p *pipeline) enqueueStep(s txnStep) error {
	p.mu.Lock()
	if p.mu.stopped {
		p.mu.Unlock()
		return p.t.r.notOwner()
	}
	if len(p.mu.steps) >= p.t.r.cfg.Limits.Writes {
		p.mu.Unlock()
		return rpctypes.ErrGRPCRequestTooManyRequests
	}
	p.mu.steps = append(p.mu.steps, s)
	p.mu.Unlock()
	if s.forget == "" {
		p.kick()
	}
	return nil
}

// enqueueDecisions gives the decisions of prepared parts their turn, all of them
// or none. They are as many as there are parts at most, which are bounded, and
// what is full gets empty by them: only a pipeline that has stopped refuses them.
func (p *pipeline) enqueueDecisions(due []txnStep) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.stopped {
		return p.t.r.notOwner()
	}
	p.mu.steps = append(p.mu.steps, due...)
	p.kick()
	return nil
}

// launchSteps puts the steps that wait in flight as one command, the next of the
// epoch's sequence. It returns nil where there are none.
func (p *pipeline) launchSteps() *batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.stopped || len(p.mu.steps) == 0 {
		return nil
	}
	n, size := 0, 0
	c := &kvdpb.ShardTransactions{Epoch: p.t.epoch, Seq: p.mu.nextSeq}
	for n < len(p.mu.steps) && (n == 0 || size < maxStepBytes) {
		s := &p.mu.steps[n]
		n++
		switch {
		case s.prepare != nil:
			size += proto.Size(s.prepare.prepared)
			c.Prepares = append(c.Prepares, s.prepare.prepared)
		case s.decide != nil:
			c.Decisions = append(c.Decisions, &kvdpb.TxnDecision{Txn: []byte(s.decide.txn), Revision: s.decide.revision})
		case s.abort != nil:
			c.Aborts = append(c.Aborts, s.abort.record)
		default:
			c.Forgets = append(c.Forgets, []byte(s.forget))
		}
		if n < len(p.mu.steps) && s.prepare == nil && p.mu.steps[n].prepare != nil {
			// Apply takes prepares first: one that comes after a decision of its own
			// queue is a later command's.
			break
		}
	}
	cmd, err := proto.Marshal(&kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Transactions{Transactions: c}})
	steps := slices.Clone(p.mu.steps[:n])
	p.mu.steps = slices.Delete(p.mu.steps, 0, n)
	if err != nil {
		// Marshalling a message without required fields does not fail.
		p.t.r.log.DPanic("steps of transactions cannot be encoded", zap.Error(err))
		go failSteps(steps, p.t.r.ambiguous(err))
		return nil
	}
	p.mu.ticket++
	b := &batch{ticket: p.mu.ticket, seq: c.Seq, steps: steps, cmd: cmd}
	for _, s := range steps {
		if s.prepare != nil {
			s.prepare.ticket = p.mu.ticket
			p.mu.held = append(p.mu.held, p.mu.ticket)
		}
	}
	p.mu.nextSeq++
	p.mu.inflight = append(p.mu.inflight, b)
	return b
}

// hold counts in a part that was prepared before the tenure began.
func (p *pipeline) hold(part *part) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.admitted++
	p.mu.ticket++
	part.ticket = p.mu.ticket
	p.mu.held = append(p.mu.held, part.ticket)
}

// unhold counts out a part whose decision has applied.
func (p *pipeline) unhold(part *part) {
	p.mu.Lock()
	if i := slices.Index(p.mu.held, part.ticket); i >= 0 {
		p.mu.held = slices.Delete(p.mu.held, i, i+1)
	}
	p.dischargeLocked(part.w.size)
	p.settledLocked()
	p.mu.Unlock()
	p.kick()
}

// stepsApplied takes in that a command with steps applied. It runs on the apply
// goroutine.
func (p *pipeline) stepsApplied(b *batch, index uint64) {
	x := &p.t.parts
	for _, s := range b.steps {
		switch {
		case s.prepare != nil:
			x.prepareApplied(s.prepare)
		case s.decide != nil:
			x.decisionApplied(s.decide)
		case s.abort != nil:
			x.abortApplied(s.abort)
		default:
			x.mu.Lock()
			delete(x.mu.records, s.forget)
			x.mu.Unlock()
		}
	}
	p.mu.Lock()
	p.settledLocked()
	ready := p.readyLocked()
	p.mu.Unlock()
	if ready {
		p.kick()
	}
}

func (x *parts) prepareApplied(p *part) {
	x.mu.Lock()
	p.phase = partPrepared
	p.floor = x.mu.learned
	req := p.req
	x.mu.Unlock()
	x.t.replyPart(req, &kvdpb.PartReply{})
	x.recover()
}

// decisionApplied ends a part, and sends the decisions that waited for it.
func (x *parts) decisionApplied(d *decision) {
	x.mu.Lock()
	p := d.part
	if p == nil {
		// It may have been prepared just before it was aborted.
		if q := x.mu.byID[d.txn]; q != nil && q.phase == partPrepared {
			p = q
		}
	}
	told := d.waiting
	if p != nil {
		told = append(told, p.waiting...)
		p.waiting = nil
		x.removeLocked(p)
		x.sendDueLocked()
	}
	x.mu.Unlock()
	if p != nil {
		if d.revision != 0 {
			effects, _ := effectsOf(p.prepared.GetEffects())
			x.t.heads.applied(d.revision, effects)
		}
		x.t.latches.Release(&p.w.guard)
		x.t.pipeline.unhold(p)
	}
	for _, req := range told {
		x.t.replyPart(req, &kvdpb.PartReply{})
	}
}

// abortApplied answers a question whose transaction now has an outcome, if it had
// none.
func (x *parts) abortApplied(q *inquiry) {
	id := string(q.record.GetTxn())
	r := x.t.r.fsm.txns.records[id]
	x.mu.Lock()
	if r != nil && x.mu.records[id] == nil && !x.mu.closed {
		x.mu.records[id] = &settling{record: r, since: time.Now()}
	}
	x.mu.Unlock()
	if r == nil {
		q.req.Done(nil, x.t.r.ambiguous(ErrLatchLost))
		return
	}
	x.t.replyPart(q.req, outcomeOf(r))
	x.recover()
}

// failSteps ends steps that did not get into the log, or of which it is not known.
func failSteps(steps []txnStep, err error) {
	for _, s := range steps {
		switch {
		case s.prepare != nil:
			s.prepare.x.prepareFailed(s.prepare, err)
		case s.decide != nil:
			for _, req := range s.decide.waiting {
				req.Done(nil, err)
			}
			if p := s.decide.part; p != nil {
				p.x.decisionFailed(p, err)
			}
		case s.abort != nil:
			s.abort.req.Done(nil, err)
		}
	}
}

// prepareFailed ends a part whose Prepare is not in the log.
func (x *parts) prepareFailed(p *part, err error) {
	x.remove(p)
	x.t.latches.Release(&p.w.guard)
	x.t.pipeline.discharge(p.w.size)
	p.req.Done(nil, err)
}

// decisionFailed has the decision of a part asked for again.
func (x *parts) decisionFailed(p *part, err error) {
	x.mu.Lock()
	p.sent = false
	told := p.waiting
	p.waiting = nil
	x.mu.Unlock()
	for _, req := range told {
		req.Done(nil, err)
	}
}
