package shard

import (
	"context"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard/command"
	"github.com/kvd-io/kvd/shard/eval"
	"github.com/kvd-io/kvd/shard/latch"
)

// write is a request that may have effects, on its way through a tenure: latches,
// evaluation, then the pipeline, or the answer if there are no effects.
type write struct {
	r *Replica
	// t changes when another tenure adopts the write.
	t     *tenure
	req   *Request
	guard latch.Guard
	// spans are what the request touches, latches how.
	spans   []keyspace.Span
	latches []latch.Latch
	oneSpan [1]keyspace.Span
	one     [1]latch.Latch
	// leases are those that keys may be attached to, see attachments. refused:
	// some of them does not exist. attached counts the registrations that came to
	// nothing.
	leases   []int64
	refused  bool
	attached int
	// size is what it was admitted with.
	size   int
	bounds eval.Bounds

	// commit is set where the write is the commit of a transaction over several
	// shards that is anchored here.
	commit *commit

	result      *eval.Result
	effectBytes int
	revision    int64

	// unwatch ends the watching of the client's cancellation.
	unwatch atomic.Pointer[func() bool]
	// trace is nil unless the request is traced.
	trace *writeTrace
	// answered is set by whoever calls Done.
	answered atomic.Bool
}

// maxEffectBytes bounds the effects of one transaction, so that it fits into a
// raft command.
const maxEffectBytes = multiraft.MaxCommand - (64 << 10)

// doWrite begins a request that may have effects.
func (t *tenure) doWrite(req *Request) {
	w := &write{r: t.r, t: t, req: req, trace: newWriteTrace(req)}
	heavy := w.prepare()
	if err := t.pipeline.admit(w.size); err != nil {
		req.Done(nil, err)
		return
	}
	if err := t.serveable(w.spans); err != nil {
		w.end(err)
		return
	}
	if len(w.spans) > 0 {
		t.r.samples.wrote(w.spans[0].Start)
	}
	if req.Txn != nil && eval.NeedsBounds(req.Txn) {
		t.readings.get(req.Ctx, func(g Grant, err error) {
			if err != nil {
				w.end(err)
				return
			}
			w.bounds = eval.Bounds{Current: g.First, Compact: g.Stamp.CompactRevision}
			w.begin(true)
		})
		return
	}
	w.begin(heavy)
}

func (w *write) begin(heavy bool) {
	if len(w.leases) > 0 {
		w.attach(heavy)
		return
	}
	w.acquire(heavy)
}

// prepare finds what the request touches and tells whether its evaluation may
// take long.
func (w *write) prepare() (heavy bool) {
	if p := w.req.Put; p != nil {
		w.oneSpan[0] = keyspace.UserSpan(p.Key, nil)
		w.one[0] = latch.Latch{Span: w.oneSpan[0], Write: true}
		w.spans, w.latches = w.oneSpan[:], w.one[:]
		w.size = len(p.Key) + len(p.Value)
		if p.Lease != 0 {
			w.leases = []int64{p.Lease}
			w.latches = leaseLatches([]latch.Latch{w.one[0]}, w.leases)
		}
		return false
	}
	var touches []eval.Touch
	if d := w.req.Delete; d != nil {
		touches, w.size = eval.Spans(d), len(d.Key)+len(d.RangeEnd)
	} else {
		touches, w.size = eval.Spans(w.req.Txn), proto.Size(w.req.Txn)
	}
	w.spans, w.latches = make([]keyspace.Span, len(touches)), make([]latch.Latch, len(touches))
	for i, t := range touches {
		w.spans[i] = t.Span
		w.latches[i] = latch.Latch{Span: t.Span, Write: t.Write}
		heavy = heavy || !t.Span.IsKey()
	}
	w.leases = leasesOf(nil, w.req.Txn)
	w.latches = leaseLatches(w.latches, w.leases)
	return heavy
}

func (w *write) acquire(heavy bool) {
	switch w.t.latches.Acquire(&w.guard, w.latches, w) {
	case latch.Closed:
		w.end(w.r.notOwner())
	case latch.Granted:
		if heavy {
			w.r.cfg.Workers.Go(w.evaluate)
		} else {
			w.evaluate()
		}
	case latch.Queued:
		w.cancelWhenDone(func() { w.end(w.req.Ctx.Err()) })
	}
}

// cancelWhenDone gives up the wait for the latches when the client goes away, and
// then calls canceled.
func (w *write) cancelWhenDone(canceled func()) {
	if w.req.Ctx.Done() == nil {
		return
	}
	ctx := w.req.Ctx
	unwatch := context.AfterFunc(ctx, func() {
		if w.t.latches.Cancel(&w.guard) {
			canceled()
		}
	})
	w.unwatch.Store(&unwatch)
}

// Latched implements latch.Waiter.
func (w *write) Latched(_ *latch.Guard, ok bool) {
	if unwatch := w.unwatch.Load(); unwatch != nil {
		(*unwatch)()
	}
	if !ok {
		w.end(w.r.notOwner())
		return
	}
	w.r.cfg.Workers.Go(w.evaluate)
}

// evaluate computes the effects under the latches.
func (w *write) evaluate() {
	w.trace.evaluate()
	if err := w.req.Ctx.Err(); err != nil {
		w.abandon(err)
		return
	}
	// A split may have frozen the span while the write waited for its latches.
	if err := w.t.serveable(w.spans); err != nil {
		w.abandon(err)
		return
	}
	reader := latchedReader{t: w.t}
	var err error
	switch {
	case w.req.Put != nil:
		w.result, err = eval.Put(&reader, w.req.Put)
	case w.req.Delete != nil:
		w.result, err = eval.DeleteRange(w.req.Ctx, &reader, w.req.Delete)
	default:
		w.result, err = eval.Txn(w.req.Ctx, &reader, w.req.Txn, w.bounds)
	}
	reader.close()
	if err != nil {
		if !w.reattach(err) {
			w.abandon(w.r.readError(err))
		}
		return
	}
	if len(w.result.Effects) == 0 {
		w.answerRead()
		return
	}
	w.effectBytes = command.TxnOverhead
	for i := range w.result.Effects {
		w.effectBytes += command.EffectSize(&w.result.Effects[i])
	}
	if w.effectBytes > maxEffectBytes {
		w.abandon(rpctypes.ErrGRPCRequestTooLarge)
		return
	}
	w.trace.queue()
	if !w.t.pipeline.enqueue(w) {
		w.abandon(w.r.notOwner())
	}
}

// answerRead answers a request that turned out to have no effects: it is a
// linearizable read. Its revision is asked for while the latches are held, so
// the state at that revision is the state it was evaluated on; the reading that
// comes with it was asked for after the look and must be inside the read lease.
func (w *write) answerRead() {
	w.t.confirm(w.req.Ctx, func(g Grant, err error) {
		if err == nil && !w.t.serves() {
			err = w.r.notOwner()
		}
		if err == nil && !w.req.checked(g.Stamp.AuthVersion) {
			err = ErrOldAuth
		}
		if err != nil {
			w.abandon(err)
			return
		}
		w.t.latches.Release(&w.guard)
		w.t.pipeline.discharge(w.size)
		w.revision = g.First
		w.succeed(w.r.applied.Load())
	})
}

// succeed answers the request.
func (w *write) succeed(index uint64) {
	if !w.answered.CompareAndSwap(false, true) {
		return
	}
	w.unwatchClient()
	w.trace.end(w)
	w.result.Finish(w.revision)
	if w.commit != nil {
		w.commit.part.committed(w, index)
		return
	}
	w.req.Done(&Reply{
		Put:        w.result.Put,
		Delete:     w.result.Delete,
		Txn:        w.result.Txn,
		Revision:   w.revision,
		Applied:    index,
		Generation: w.r.view.Load().generation(),
	}, nil)
}

// abandon ends a write that holds its latches and will never apply.
func (w *write) abandon(err error) {
	w.t.latches.Release(&w.guard)
	w.end(err)
}

// end ends a write that holds no latches.
func (w *write) end(err error) {
	w.t.pipeline.discharge(w.size)
	if w.commit != nil {
		w.t.parts.remove(w.commit.part)
	}
	w.answer(err)
}

func (w *write) answer(err error) {
	if w.answered.CompareAndSwap(false, true) {
		w.unwatchClient()
		w.trace.end(w)
		w.req.Done(nil, err)
	}
}

// watchClient answers a write in flight whose client goes away or runs out of
// time. The write itself goes on.
func (w *write) watchClient() {
	if w.req.Ctx.Done() == nil {
		return
	}
	unwatch := context.AfterFunc(w.req.Ctx, func() {
		w.answer(w.r.ambiguous(w.req.Ctx.Err()))
	})
	w.unwatch.Store(&unwatch)
	if w.answered.Load() {
		unwatch()
	}
}

func (w *write) unwatchClient() {
	if unwatch := w.unwatch.Load(); unwatch != nil {
		(*unwatch)()
	}
}

// isRead tells whether a transaction can have no effects, whatever its branch.
func isRead(txn *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{txn.Success, txn.Failure} {
		for _, op := range ops {
			switch o := op.Request.(type) {
			case *pb.RequestOp_RequestPut, *pb.RequestOp_RequestDeleteRange:
				return false
			case *pb.RequestOp_RequestTxn:
				if !isRead(o.RequestTxn) {
					return false
				}
			}
		}
	}
	return true
}
