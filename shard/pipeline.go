package shard

import (
	"runtime"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/multiraft"
)

// pipeline takes a tenure's evaluated writes to their revisions and into the log.
//
// # Steps of a write
//
//  1. It is admitted, within bounds of number and size, and holds its latches.
//  2. Evaluated, it joins the queue, the only order there is.
//  3. The pipeline's goroutine takes whatever is waiting at the head of the
//     queue, up to the size of a batch, leaves out those whose clients have gone,
//     and asks for that many revisions. From here on the writes have asked:
//     only the loss of ownership ends them.
//  4. With the revisions it proposes them as one command, the next of the
//     epoch's sequence, and the batch is in flight.
//  5. The local apply takes the batch out of flight and completes its writes.
//
// # Invariants
//
//   - One goroutine allots and proposes, so revisions, sequence and log order are
//     the same order.
//
//   - Whoever holds a revision holds its latches until the write applied or is dead.
//
//   - A batch's command never changes within an epoch. So proposing it again is
//     harmless at any time: whichever copy comes first in sequence applies, and
//     every other one is rejected as out of sequence. Only the oldest batch in
//     flight is watched, since nothing behind it can apply before it.
//
//   - While a batch is in flight the next one gathers; a second and third are
//     sent only when they are full, since a raft proposal costs about the same
//     whatever it carries. For the same reason the goroutine lets others run first
//     while fewer writes wait than clients that were just answered may send (yield).
//
//   - Steps of transactions over several shards (steps) that need no revision go
//     into the log ahead of the queue, and behind everything that has asked: the
//     goroutine takes them between two batches. From the moment a Prepare is sent
//     until its decision is applied the queue is held: nothing behind it asks for
//     a revision, because the transaction's own may still be smaller. Transactions
//     that come while it has been held for long wait for it (gate).
//
//   - The entry that absorbs a neighbour (Absorb) is such a step, with a turn of its
//     own: when nothing is held.
//
// Tried and dropped: letting the caller that finds the pipeline idle propose on
// its own goroutine. It saves a hop for a lone client, and halves the batches of
// many.
type pipeline struct {
	t *tenure
	// wake has room for one signal to the goroutine.
	wake chan struct{}

	mu struct {
		sync.Mutex
		// admitted counts writes from arrival to their end, and their bytes.
		admitted, admittedBytes int
		queue                   []*write
		queueBytes              int
		// steps wait for their place in the log.
		steps []txnStep
		// held are the tickets of Prepares that are sent and not settled, heldSince
		// is when a transaction first met the present queue held, gated are those
		// that wait until the queue has moved.
		held      []uint64
		heldSince time.Time
		gated     []func()
		// absorb is set once the right neighbour is to be absorbed.
		absorb *absorption
		// stopped: nothing is taken from the queue any more. handed: what was in
		// flight has been taken over by another tenure, or is dead.
		stopped, handed bool
		// drained is not nil while writes are refused until it is closed, when
		// none is admitted any more.
		drained  chan struct{}
		inflight []*batch
		nextSeq  uint64
		// returning is how many writes will wait if every client of the last batch
		// that applied sends another one; 0 after a batch of one.
		returning int

		// Every batch that asks gets a ticket. asking is the ticket of the
		// request for revisions that is under way, 0 if none.
		ticket, asking uint64
		waiting        []barrier
	}
}

// batch is a group of writes that got its revisions, or of steps that need none.
type batch struct {
	ticket, seq uint64
	writes      []*write
	steps       []txnStep
	// absorbs: it is an Absorb.
	absorbs bool
	cmd     []byte
	// proposal is nil when the batch has to be proposed (again).
	proposal Proposal
}

const (
	resendFirst = 2 * time.Millisecond
	resendMost  = 200 * time.Millisecond

	// yields bounds how often a batch lets others run before it is gathered. Three
	// were as good as thirty with 100 clients on 8 shards and three members.
	yields = 3
)

func (p *pipeline) init(t *tenure) {
	p.t = t
	p.wake = make(chan struct{}, 1)
}

func (p *pipeline) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// admit counts in a write of the given size, or refuses it.
func (p *pipeline) admit(size int) error {
	l := &p.t.r.cfg.Limits
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.stopped || p.mu.drained != nil {
		return p.t.r.notOwner()
	}
	if p.mu.admitted >= l.Writes || (p.mu.admitted > 0 && p.mu.admittedBytes+size > l.WriteBytes) {
		return rpctypes.ErrGRPCRequestTooManyRequests
	}
	p.mu.admitted++
	p.mu.admittedBytes += size
	return nil
}

// discharge counts out a write that ended.
func (p *pipeline) discharge(size int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dischargeLocked(size)
}

func (p *pipeline) dischargeLocked(size int) {
	p.mu.admitted--
	p.mu.admittedBytes -= size
	if p.mu.admitted == 0 && p.mu.drained != nil && !p.mu.stopped {
		close(p.mu.drained)
		p.mu.stopped = true
	}
}

// enqueue appends an evaluated write to the queue and tells whether it did: a
// tenure that is over takes none.
func (p *pipeline) enqueue(w *write) bool {
	p.mu.Lock()
	if p.mu.stopped {
		p.mu.Unlock()
		return false
	}
	p.mu.queue = append(p.mu.queue, w)
	p.mu.queueBytes += w.effectBytes
	// Otherwise the apply of what is in flight wakes the goroutine.
	ready := p.readyLocked()
	p.mu.Unlock()
	if ready {
		p.kick()
	}
	return true
}

// readyLocked tells whether the next batch may be sent.
func (p *pipeline) readyLocked() bool {
	l := &p.t.r.cfg.Limits
	switch n := len(p.mu.inflight); {
	case p.mu.stopped:
		return false
	case p.absorbsLocked() || len(p.mu.steps) > 0:
		return true
	case len(p.mu.queue) == 0 || len(p.mu.held) > 0:
		return false
	case n == 0:
		return true
	case n >= l.Depth || p.mu.inflight[n-1].proposal == nil:
		return false
	}
	return len(p.mu.queue) >= l.BatchWrites || p.mu.queueBytes >= l.BatchBytes
}

// run is the pipeline's goroutine; it ends with the tenure.
func (p *pipeline) run() {
	delay := resendFirst
	timer := time.NewTimer(0)
	<-timer.C
	defer timer.Stop()
	armed := false
	for {
		oldest, proposal, outcome := p.oldest()
		select {
		case <-p.t.ctx.Done():
			return
		case <-p.wake:
		case s := <-outcome:
			if p.outcome(oldest, proposal, s) {
				timer.Reset(delay)
				armed = true
				delay = min(2*delay, resendMost)
			} else {
				delay = resendFirst
			}
		case <-timer.C:
			armed = false
		}
		if armed || !p.t.serves() {
			continue
		}
		p.yield()
		if err := p.send(); err != nil {
			timer.Reset(delay)
			armed = true
			delay = min(2*delay, resendMost)
		}
	}
}

// yield lets what is ready to run go first while the next batch could still grow
// by clients that were just answered. Where CPU is short, and the entries of many
// shards are what it goes into, batches get larger; where it is not, nobody is
// ready and no time passes.
func (p *pipeline) yield() {
	for range yields {
		p.mu.Lock()
		grows := len(p.mu.inflight) == 0 && len(p.mu.steps) == 0 && len(p.mu.queue) < p.mu.returning
		p.mu.Unlock()
		if !grows {
			return
		}
		runtime.Gosched()
	}
}

// oldest returns the batch in flight that applies next, its proposal, and the
// channel of its outcome.
func (p *pipeline) oldest() (*batch, Proposal, <-chan multiraft.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.inflight) == 0 || p.mu.inflight[0].proposal == nil {
		return nil, nil, nil
	}
	b := p.mu.inflight[0]
	return b, b.proposal, b.proposal.Done()
}

// outcome takes in what became of a batch's proposal and tells whether it must be
// proposed again. If the batch applied, it is no longer in flight. Otherwise,
// whatever the outcome, it is proposed again, after a while: this copy was not
// appended, or came too early, or its fate is not known.
func (p *pipeline) outcome(b *batch, proposal Proposal, s multiraft.Signal) (again bool) {
	o := proposal.Outcome(s)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.inflight) == 0 || p.mu.inflight[0] != b || b.proposal != proposal {
		return false
	}
	b.proposal = nil
	p.t.r.counters.resent.Add(1)
	p.t.r.log.Debug("batch did not apply, it is proposed again",
		zap.Uint64("epoch", p.t.epoch), zap.Uint64("seq", b.seq), zap.Stringer("outcome", o.Kind), zap.Error(o.Err))
	return true
}

// resend proposes again everything in flight.
func (p *pipeline) resend() {
	p.mu.Lock()
	for _, b := range p.mu.inflight {
		b.proposal = nil
	}
	p.mu.Unlock()
	p.kick()
}
