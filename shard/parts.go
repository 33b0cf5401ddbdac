package shard

import (
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/eval"
	"github.com/kvd-io/kvd/shard/latch"
)

// parts are the transactions over several shards that a tenure takes part in
// (anchor commit).
//
// # The protocol
//
// A coordinator (package router) latches all spans of a transaction, shard by
// shard in key order, evaluates it on what it reads under the latches, has every
// shard but the last write a Prepare with its effects, and then has the last one,
// the anchor, commit: the anchor's entry carries the revision, its own effects
// and the transaction's record, and is the commit point. The participants are
// told afterwards. A shard that only compares or reads prepares like any other:
// its latches must hold until the commit, whoever owns it by then.
//
// # Invariants
//
//  1. Prepare and commit need the latches of their evaluation, granted in this
//     tenure: they are taken once, and never for a second time under the same
//     transaction id. So once an anchor's latch is gone without a commit, the
//     transaction can never commit.
//  2. From a Prepare to the apply of its decision its latches are held. They
//     belong to the replicated state: a new tenure takes them before it serves.
//  3. A Prepare goes into the log behind every write that has asked for a
//     revision. While one is undecided, nobody of the shard asks for a revision:
//     neither writes nor commits of which this is the anchor. Prepares do go on,
//     for else two transactions could wait for each other. Commits wait only for
//     transactions whose anchor lies further right, so they never wait in a ring.
//  4. Decisions are applied in the order of their revisions. A revision is asked
//     for after all parts are prepared, so a part's revision lies above every one
//     that was learned here before it was prepared: its floor. A decision is sent
//     once no undecided part has a floor below its revision. That it is due is found
//     and its turn in the pipeline taken under one lock.
//  5. "Absent, therefore aborted" is said by an entry of the anchor's log, and
//     only where the commit is not in the pipeline.
//  6. A record is forgotten only when every participant has applied the outcome,
//     as its own log says.
//
// Latches that nothing was prepared under belong to the coordinator as long as it
// is heard of; after partPatience they are given up. A coordinator that gives up lets
// them go, also those that it has only asked for. A prepared part whose
// decision does not come asks for it itself, and an anchor's owner sees to it
// that records are forgotten (recover).
//
// Tried and dropped: a commit at the shard with the most effects. Only a fixed
// order of anchors keeps held queues from waiting in a ring.
type parts struct {
	t *tenure

	mu struct {
		sync.Mutex
		closed bool
		byID   map[string]*part
		// learned is the largest revision that was learned by a decision.
		learned int64
		// records are outcomes of transactions anchored here that are not forgotten.
		records map[string]*settling
		// recovering: the goroutine of recover runs.
		recovering bool
	}
}

type partPhase uint8

const (
	partLatching partPhase = iota
	partLatched
	partPreparing
	partPrepared
	partCommitting
)

// part is one transaction's part in this shard.
type part struct {
	x  *parts
	id string
	// w holds the latches, and takes the commit of an anchor through the pipeline.
	w     write
	latch *kvdpb.PartLatch

	// Guarded by parts.mu.
	phase partPhase
	// req is the request to be answered by the end of the phase.
	req      *Request
	deadline time.Time
	timer    *time.Timer
	prepared *kvdpb.Prepared
	since    time.Time
	// ticket is its Prepare's. floor lies below the revision that it will get.
	ticket uint64
	floor  int64
	// decided: the outcome is known. sent: its decision is in the pipeline.
	decided, sent bool
	revision      int64
	waiting       []*Request
}

// settling is an outcome whose participants have not all applied it, as far as
// is known here.
type settling struct {
	record *kvdpb.TxnRecord
	since  time.Time
}

// partPatience is how long latches that nothing was prepared under are held for
// a coordinator that is not heard of; coordinators touch them several times as
// often.
const partPatience = 3 * time.Second

// maxTxnID bounds the ids of transactions, in bytes.
const maxTxnID = 64

// init takes over what is prepared and recorded in the replicated state. It runs
// on the apply goroutine, before the tenure does anything.
func (x *parts) init(t *tenure, state *txnTable) {
	x.t = t
	x.mu.byID = make(map[string]*part)
	x.mu.records = make(map[string]*settling)
	for id, r := range state.records {
		if t.r.fsm.span.Contains(r.GetAnchor()) {
			x.mu.records[id] = &settling{record: r}
		}
	}
	for id, prepared := range state.prepared {
		p := &part{x: x, id: id, phase: partPrepared, prepared: prepared}
		p.w = write{r: t.r, t: t}
		p.setSpans(prepared.GetSpans(), prepared.GetLeases())
		// They were held side by side before, and nobody else holds any yet.
		if t.latches.Acquire(&p.w.guard, p.w.latches, p) != latch.Granted {
			t.r.log.DPanic("latches of prepared transactions conflict")
		}
		t.pipeline.hold(p)
		x.mu.byID[id] = p
	}
}

func (p *part) setSpans(spans []*kvdpb.KeySpan, leases []int64) {
	p.w.leases = leases
	p.w.spans = spansOf(spans)
	p.w.latches = make([]latch.Latch, len(spans))
	for i, s := range spans {
		p.w.latches[i] = latch.Latch{Span: p.w.spans[i], Write: s.GetWrite()}
	}
	p.w.latches = leaseLatches(p.w.latches, leases)
}

// doPart serves a step of a transaction over several shards.
func (t *tenure) doPart(req *Request) {
	x := &t.parts
	if t.frozen.Load() {
		req.Done(nil, ErrSpanMoving)
		return
	}
	if n := len(req.Part.GetTxn()); n == 0 || n > maxTxnID {
		req.Done(nil, rpctypes.ErrGRPCInvalidClientAPIVersion)
		return
	}
	switch s := req.Part.GetStep().(type) {
	case *kvdpb.PartRequest_Latch:
		x.doLatch(req, s.Latch)
	case *kvdpb.PartRequest_Decide:
		x.doDecide(req, s.Decide.GetRevision())
	case *kvdpb.PartRequest_Inquire:
		x.doInquire(req, s.Inquire)
	case *kvdpb.PartRequest_Forget:
		x.forget(string(req.Part.GetTxn()))
		t.replyPart(req, &kvdpb.PartReply{})
	case *kvdpb.PartRequest_Scan:
		x.doScan(req, s.Scan)
	case *kvdpb.PartRequest_Prepare:
		x.doPrepare(req, s.Prepare.GetPrepared())
	case *kvdpb.PartRequest_Commit:
		x.doCommit(req, s.Commit)
	case *kvdpb.PartRequest_Confirm:
		x.doConfirm(req, s.Confirm)
	case *kvdpb.PartRequest_Touch:
		x.doTouch(req)
	case *kvdpb.PartRequest_Release:
		x.doRelease(req)
	default:
		req.Done(nil, rpctypes.ErrGRPCInvalidClientAPIVersion)
	}
}

func (t *tenure) replyPart(req *Request, m *kvdpb.PartReply) {
	m.Epoch = t.epoch
	req.Done(&Reply{Part: m, Revision: m.GetRevision(), Applied: t.r.applied.Load(), Generation: t.r.view.Load().generation()}, nil)
}

// latchedLocked returns the part that a request names if it is latched in this
// epoch and nothing more.
func (x *parts) latchedLocked(req *Request) *part {
	p := x.mu.byID[string(req.Part.GetTxn())]
	if p == nil || p.phase != partLatched || req.Part.GetEpoch() != x.t.epoch || x.mu.closed {
		return nil
	}
	return p
}

// take removes a latched part, whose latches are then the caller's to release.
func (x *parts) take(req *Request) *part {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.latchedLocked(req)
	if p != nil {
		x.removeLocked(p)
	}
	return p
}

// doRelease lets go what the request's coordinator holds here, or is about to get. One
// that gave up while it waited for its latches knows no epoch: they may be granted at
// that very moment, and nobody would use them.
func (x *parts) doRelease(req *Request) {
	x.mu.Lock()
	p := x.latchedLocked(req)
	if p == nil && req.Part.GetEpoch() == 0 && !x.mu.closed {
		if p = x.mu.byID[string(req.Part.GetTxn())]; p != nil && p.phase > partLatched {
			p = nil
		}
	}
	latched := p != nil && p.phase == partLatched
	if p != nil {
		// Of one that is not latched yet, begin finds that it is gone.
		x.removeLocked(p)
	}
	x.mu.Unlock()
	if latched {
		p.letGo()
	}
	x.t.replyPart(req, &kvdpb.PartReply{})
}

func (x *parts) remove(p *part) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removeLocked(p)
}

func (x *parts) removeLocked(p *part) {
	if x.mu.byID[p.id] == p {
		delete(x.mu.byID, p.id)
	}
	if p.timer != nil {
		p.timer.Stop()
	}
}

// letGo releases the latches of a part that has been taken out of the table.
func (p *part) letGo() {
	p.w.t.latches.Release(&p.w.guard)
	p.w.t.pipeline.discharge(p.w.size)
}

// doLatch begins a part.
func (x *parts) doLatch(req *Request, l *kvdpb.PartLatch) {
	p := &part{x: x, id: string(req.Part.GetTxn()), latch: l, req: req}
	p.w = write{r: x.t.r, t: x.t, req: req}
	p.setSpans(l.GetSpans(), l.GetLeases())
	for i := range p.w.spans {
		if p.w.spans[i].Empty() || !keyspace.All().ContainsSpan(p.w.spans[i]) {
			req.Done(nil, rpctypes.ErrGRPCEmptyKey)
			return
		}
		p.w.size += len(p.w.spans[i].Start) + len(p.w.spans[i].End)
	}
	if err := x.t.pipeline.admit(p.w.size); err != nil {
		req.Done(nil, err)
		return
	}
	err := x.t.serveable(p.w.spans)
	if err == nil && !x.add(p) {
		err = ErrLatchLost
	}
	if err != nil {
		x.t.pipeline.discharge(p.w.size)
		req.Done(nil, err)
		return
	}
	if !x.t.pipeline.gate(p.register) {
		p.register()
	}
}

// register sees to it that the leases of the part are registered, and goes on to its latches.
func (p *part) register() {
	p.x.t.attachments.ensure(p.w.leases, p.w.spans, func(refused bool, err error) {
		if err != nil {
			p.refuse(err)
			return
		}
		p.w.refused = refused
		p.acquire()
	})
}

func (p *part) acquire() {
	x, req := p.x, p.req
	switch x.t.latches.Acquire(&p.w.guard, p.w.latches, p) {
	case latch.Closed:
		p.refuse(x.t.r.notOwner())
	case latch.Granted:
		p.granted()
	case latch.Queued:
		p.w.cancelWhenDone(func() { p.refuse(req.Ctx.Err()) })
	}
}

// add puts a new part into the table, unless its transaction has had one.
func (x *parts) add(p *part) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.closed || x.mu.byID[p.id] != nil || x.mu.records[p.id] != nil {
		return false
	}
	x.mu.byID[p.id] = p
	return true
}

// refuse ends a part that never held its latches.
func (p *part) refuse(err error) {
	p.x.remove(p)
	p.w.t.pipeline.discharge(p.w.size)
	p.req.Done(nil, err)
}

// Latched implements latch.Waiter.
func (p *part) Latched(_ *latch.Guard, ok bool) {
	p.w.unwatchClient()
	if !ok {
		p.refuse(p.w.r.notOwner())
		return
	}
	p.granted()
}

// granted goes on under the latches, on a goroutine that may read the disk.
func (p *part) granted() { p.w.r.cfg.Workers.Go(p.begin) }

// begin answers the latch request with what it wants to know.
func (p *part) begin() {
	err := p.req.Ctx.Err()
	if err == nil {
		// A split may have frozen a span while the part waited.
		err = p.w.t.serveable(p.w.spans)
	}
	reply := &kvdpb.PartReply{}
	if err == nil {
		err = p.read(reply)
	}
	if err == nil {
		err = p.attachable(reply)
	}
	if err != nil {
		p.w.t.latches.Release(&p.w.guard)
		p.refuse(p.w.r.readError(err))
		return
	}
	x := p.x
	x.mu.Lock()
	closed := x.mu.closed || x.mu.byID[p.id] != p
	if !closed {
		p.phase = partLatched
		p.deadline = time.Now().Add(partPatience)
		p.timer = time.AfterFunc(partPatience, p.expire)
	}
	x.mu.Unlock()
	if closed {
		// The tenure is over, or the coordinator has given up.
		p.w.t.latches.Release(&p.w.guard)
		p.refuse(p.w.r.notOwner())
		return
	}
	p.w.t.replyPart(p.req, reply)
}

// expire gives up the latches of a coordinator that has not been heard of.
func (p *part) expire() {
	x := p.x
	x.mu.Lock()
	if x.mu.byID[p.id] != p || p.phase != partLatched || x.mu.closed {
		x.mu.Unlock()
		return
	}
	if left := time.Until(p.deadline); left > 0 {
		p.timer.Reset(left)
		x.mu.Unlock()
		return
	}
	x.removeLocked(p)
	x.mu.Unlock()
	x.t.r.counters.expired.Add(1)
	p.letGo()
}

func (x *parts) doTouch(req *Request) {
	x.mu.Lock()
	p := x.latchedLocked(req)
	if p != nil {
		p.deadline = time.Now().Add(partPatience)
	}
	x.mu.Unlock()
	if p == nil {
		req.Done(nil, ErrLatchLost)
		return
	}
	x.t.replyPart(req, &kvdpb.PartReply{})
}

// doConfirm ends the part of a transaction that has no effects. Its revision was
// asked for under all of its latches, so nothing it read has changed up to that
// revision, unless another owner had served by then; the lease says that none
// had.
func (x *parts) doConfirm(req *Request, c *kvdpb.PartConfirm) {
	s := stampOf(c)
	x.t.lease.observe(s)
	x.t.lease.ensure(req.Ctx, s, func(err error) {
		p := x.take(req)
		switch {
		case p == nil:
			err = ErrLatchLost
		case err == nil && !x.t.serves():
			err = x.t.r.notOwner()
		}
		if p != nil {
			p.letGo()
		}
		if err != nil {
			req.Done(nil, err)
			return
		}
		x.t.replyPart(req, &kvdpb.PartReply{Revision: c.GetRevision()})
	})
}

// close ends the parts of a tenure that is over. What is in the pipeline is
// answered from there.
func (x *parts) close() {
	x.mu.Lock()
	x.mu.closed = true
	var told []*Request
	for _, p := range x.mu.byID {
		if p.timer != nil {
			p.timer.Stop()
		}
		told = append(told, p.waiting...)
		p.waiting = nil
	}
	x.mu.Unlock()
	for _, req := range told {
		req.Done(nil, x.t.r.notOwner())
	}
}

// adopt takes over the part of a commit in flight from the tenure before.
func (x *parts) adopt(p *part) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p.x = x
	x.mu.byID[p.id] = p
}

// commit is what a write needs to be the commit of a transaction.
type commit struct {
	part   *part
	txn    *kvdpb.TxnRecord
	record []byte
	subs   []int64
}

// committed answers a commit that applied.
func (p *part) committed(w *write, index uint64) {
	x := p.x
	id := p.id
	outcome := kvdpb.PartReply_COMMITTED
	x.mu.Lock()
	x.removeLocked(p)
	r := x.t.r.fsm.txns.records[id]
	switch {
	case r.GetRevision() != w.revision:
		// The entry was void.
		outcome = kvdpb.PartReply_ABORTED
	case !x.mu.closed:
		x.mu.records[id] = &settling{record: r, since: time.Now()}
	}
	x.mu.Unlock()
	w.req.Done(&Reply{
		Part:     &kvdpb.PartReply{Epoch: x.t.epoch, Revision: w.revision, Outcome: outcome},
		Revision: w.revision, Applied: index, Generation: x.t.r.view.Load().generation(),
	}, nil)
	x.recover()
}

// commitResult is the result that a commit finishes: its response is the coordinator's.
func commitResult(es []*kvdpb.KeyEffect) (*eval.Result, []int64) {
	effects, subs := effectsOf(es)
	return &eval.Result{Effects: effects}, subs
}
