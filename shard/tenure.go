package shard

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard/latch"
	"github.com/kvd-io/kvd/shard/ownership"
)

// tenure is the owner's runtime: one ownership (epoch) of this process, from its
// Claim's apply to its end. Whoever serves a request picks up the replica's
// tenure once and stays with it, so that everything that belongs to an
// ownership (latches, heads, lease, pipeline) ends with it at once.
//
// A tenure passes through its phases in order: waiting (the claim applied, the
// wait-out runs), serving (Serving applied), over. What is over never serves
// again; the next claim makes a new one. The writes that were in flight then
// stay with the old tenure until a claim applies: they are adopted by the new
// tenure if its claim follows directly, and dead otherwise.
type tenure struct {
	r     *Replica
	epoch uint64
	// mustWait is what the claim said of the wait-out.
	mustWait bool

	phase atomic.Int32
	// served is what the tenure serves of the shard's span. It only shrinks.
	served atomic.Pointer[keyspace.Span]
	// frozen: the shard is being merged away, and nothing of it is served.
	frozen atomic.Bool
	// moving is true from a split's freeze until it applied; freezing makes
	// freezes exclude each other.
	moving   atomic.Bool
	freezing sync.Mutex

	latches  *latch.Manager
	heads    *heads
	windows  windows
	lease    leaseKeeper
	readings readings
	pipeline pipeline
	parts    parts

	lessor      *lessor
	attachments attachments

	// ctx ends with the tenure.
	ctx    context.Context
	cancel context.CancelFunc
	// goroutines are those that wait waits for.
	goroutines sync.WaitGroup

	reads atomic.Int64
}

const (
	phaseWaiting int32 = iota
	phaseServing
	phaseOver
)

func newTenure(r *Replica, o ownership.State) *tenure {
	t := &tenure{
		r:        r,
		epoch:    o.Epoch,
		mustWait: o.MustWait,
		latches:  latch.New(),
		heads:    newHeads(r.cfg.Limits.Heads),
	}
	span := r.fsm.span
	if r.fsm.frozen != nil {
		t.frozen.Store(true)
		span = nothingOf(span)
	}
	t.served.Store(&span)
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.windows.t = t
	t.windows.current.Store(newWindow(1))
	t.lease.t = t
	t.readings.t = t
	t.lessor = newLessor(t)
	t.attachments.t = t
	t.pipeline.init(t)
	t.parts.init(t, &r.fsm.txns)
	return t
}

func (t *tenure) serves() bool { return t.phase.Load() == phaseServing }

func (t *tenure) over() bool { return t.phase.Load() == phaseOver }

// start begins the tenure's own work.
func (t *tenure) start() {
	t.goroutines.Add(2)
	go func() {
		defer t.goroutines.Done()
		t.pipeline.run()
	}()
	go func() {
		defer t.goroutines.Done()
		t.lessor.run()
	}()
}

// serve begins service, once Serving has applied.
func (t *tenure) serve() {
	if t.phase.CompareAndSwap(phaseWaiting, phaseServing) {
		t.pipeline.kick()
		t.parts.recover()
		close(t.lessor.begun)
		t.r.cfg.OnOwner(t.r.cfg.Shard)
	}
}

// end stops reads, allotments and proposals, for good. Requests that have not
// asked for a revision are told to go elsewhere; writes that have stay in
// flight.
func (t *tenure) end() {
	before := t.phase.Swap(phaseOver)
	if before == phaseOver {
		return
	}
	// The phase comes first: whoever still finds a latch free, or is called by
	// the closing of the latches, sees it.
	t.cancel()
	t.pipeline.stop()
	t.latches.Close()
	t.parts.close()
	t.windows.close()
	t.r.notifyChange()
	if before == phaseServing {
		t.r.counters.ended.Add(1)
		t.r.cfg.OnOwner(t.r.cfg.Shard)
	}
}

// wait waits for the tenure's goroutines. It must have ended.
func (t *tenure) wait() { t.goroutines.Wait() }

// narrow shrinks what the tenure serves.
func (t *tenure) narrow(span keyspace.Span) { t.served.Store(&span) }

// serveable tells why spans cannot be served now, or nil.
func (t *tenure) serveable(spans []keyspace.Span) error {
	if !t.serves() {
		return t.r.notOwner()
	}
	served := t.served.Load()
	for i := range spans {
		if !served.ContainsSpan(spans[i]) {
			return t.r.spanError(spans)
		}
	}
	return nil
}
