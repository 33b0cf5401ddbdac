package shard

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/shard/command"
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
//   - Whoever holds a revision holds its latches until the write applied or is dead.
//   - A batch's command never changes within an epoch. So proposing it again is
//     harmless at any time: whichever copy comes first in sequence applies, and
//     every other one is rejected as out of sequence. Only the oldest batch in
//     flight is watched, since nothing behind it can apply before it.
//   - While a batch is in flight the next one gathers; a second and third are
//     sent only when they are full, since a raft proposal costs about the same
//     whatever it carries.
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
		// stopped: nothing is taken from the queue any more. handed: what was in
		// flight has been taken over by another tenure, or is dead.
		stopped, handed bool
		// drained is not nil while writes are refused until it is closed, when
		// none is admitted any more.
		drained  chan struct{}
		inflight []*batch
		nextSeq  uint64

		// Every batch that asks gets a ticket. asking is the ticket of the
		// request for revisions that is under way, 0 if none.
		ticket, asking uint64
		waiting        []barrier
	}
}

// batch is a group of writes that got its revisions.
type batch struct {
	ticket, seq uint64
	writes      []*write
	cmd         []byte
	// proposal is nil when the batch has to be proposed (again).
	proposal Proposal
}

// barrier waits until everything that has asked with a ticket up to upto is
// settled: applied, dead, or without a revision.
type barrier struct {
	upto uint64
	done func(ok bool)
}

const (
	resendFirst = 2 * time.Millisecond
	resendMost  = 200 * time.Millisecond
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
	case len(p.mu.queue) == 0 || p.mu.stopped:
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
		if err := p.send(); err != nil {
			timer.Reset(delay)
			armed = true
			delay = min(2*delay, resendMost)
		}
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

// send proposes all that may be proposed now. An error means to try again later.
func (p *pipeline) send() error {
	for {
		b := p.unproposed()
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
	if p.readyLocked() {
		n, size := 0, 0
		for n < len(p.mu.queue) && len(writes) < l.BatchWrites {
			w := p.mu.queue[n]
			if w.req.Ctx.Err() != nil {
				gone = append(gone, w)
			} else if len(writes) > 0 && size+w.effectBytes > l.BatchBytes {
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
	grant, err := p.t.r.cfg.Sequencer.Allocate(p.t.ctx, len(writes))
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
	}
	b.seq = p.mu.nextSeq
	b.cmd = c.Encode()
	b.proposal = nil
	p.mu.nextSeq++
	p.mu.inflight = append(p.mu.inflight, b)
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

// stop takes nothing from the queue any more and ends what is in it.
func (p *pipeline) stop() {
	p.mu.Lock()
	p.mu.stopped = true
	queue := p.mu.queue
	p.mu.queue, p.mu.queueBytes = nil, 0
	waiting := p.mu.waiting
	p.mu.waiting = nil
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
	p.mu.Unlock()
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
	if len(p.mu.inflight) > 0 {
		return p.mu.inflight[0].ticket
	}
	if p.mu.asking != 0 {
		return p.mu.asking
	}
	return p.mu.ticket + 1
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
