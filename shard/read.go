package shard

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard/eval"
	"github.com/kvd-io/kvd/shard/latch"
	"github.com/kvd-io/kvd/shard/ownership"
)

// read is a linearizable read on its way through a tenure.
//
// # Steps
//
//  1. R, the current revision, is asked for after the read arrived.
//  2. The reading that came with R must be covered by the read lease: when R was
//     given, nobody else served this shard. So every write of the shard with a
//     revision up to R is either applied here, by an earlier epoch, or is one of
//     this tenure's that had asked for its revision before R came back.
//  3. The read waits for those of them that overlap it. Whoever asks for a
//     revision holds its latches from before until it applied, so waiting for
//     the write latches that are held now, after R came back, is enough. Writes
//     that only wait for their latches will ask later and get more than R.
//  4. The snapshot is taken.
//  5. The tenure must still serve the span. A tenure that ended, or froze the
//     span for a split, before the snapshot might have let go of a write in
//     flight without its having applied.
//  6. The answer is the state at R, or at the snapshot's revision if that is
//     larger: every revision of the shard up to it has applied, and whoever
//     began after the read ended gets a larger one.
//
// # Which reading is needed
//
// The lease has to cover a reading taken between the read's arrival and its
// answer, and the answer must be no older than the revision that came with that
// reading. The one that comes with R is such a reading, so a second one after
// the snapshot adds nothing: if another owner begins to serve after R was given,
// its writes have revisions above R and end after this read began, so the read
// may go before them. What must not be used is a reading that was seen, or asked
// for, before the read arrived: a paused owner would find itself inside a lease
// that others have waited out.
type read struct {
	t     *tenure
	req   *Request
	guard latch.Guard
	spans []keyspace.Span
	one   [1]keyspace.Span
	grant Grant
}

// do serves a request.
func (t *tenure) do(req *Request) {
	switch {
	case req.Range != nil:
		t.doRead(req)
	case req.Part != nil:
		t.doPart(req)
	case req.Txn != nil && isRead(req.Txn):
		t.doRead(req)
	default:
		t.doWrite(req)
	}
}

// doRead begins a linearizable read.
func (t *tenure) doRead(req *Request) {
	r := &read{t: t, req: req}
	if req.Range != nil {
		r.one[0] = keyspace.UserSpan(req.Range.Key, req.Range.RangeEnd)
		r.spans = r.one[:]
	} else {
		for _, touch := range eval.Spans(req.Txn) {
			r.spans = append(r.spans, touch.Span)
		}
	}
	if err := t.serveable(r.spans); err != nil {
		req.Done(nil, err)
		return
	}
	if t.reads.Add(1) > int64(t.r.cfg.Limits.Reads) {
		r.done(nil, rpctypes.ErrGRPCRequestTooManyRequests)
		return
	}
	if req.ReadRev > 0 && req.ReadStamp != (ownership.Stamp{}) {
		t.lease.observe(req.ReadStamp)
		t.lease.ensure(req.Ctx, req.ReadStamp, func(err error) {
			if errors.Is(err, errOldReading) {
				t.confirm(req.Ctx, r.confirmed)
				return
			}
			r.confirmed(Grant{First: req.ReadRev, Stamp: req.ReadStamp}, err)
		})
		return
	}
	// The common case, without closures: local sequencer, lease in force.
	if g, ok := t.r.cfg.Sequencer.TryCurrent(); ok {
		t.lease.observe(g.Stamp)
		if t.lease.covers(g.Stamp) {
			r.confirmed(g, nil)
			return
		}
	}
	t.confirm(req.Ctx, r.confirmed)
}

// confirmed goes on with step 3.
func (r *read) confirmed(g Grant, err error) {
	if err != nil {
		r.done(nil, err)
		return
	}
	if !r.req.checked(g.Stamp.AuthVersion) {
		r.done(nil, ErrOldAuth)
		return
	}
	r.grant = g
	switch r.t.latches.WaitWriters(&r.guard, r.spans, r) {
	case latch.Closed:
		r.done(nil, r.t.r.notOwner())
	case latch.Granted:
		if r.heavy() {
			r.t.r.cfg.Workers.Go(r.look)
		} else {
			r.look()
		}
	}
}

// Latched implements latch.Waiter.
func (r *read) Latched(_ *latch.Guard, ok bool) {
	if !ok {
		r.done(nil, r.t.r.notOwner())
		return
	}
	r.t.r.cfg.Workers.Go(r.look)
}

// heavy tells whether the read may take long.
func (r *read) heavy() bool {
	if r.req.Confirm {
		return false
	}
	for i := range r.spans {
		if !r.spans[i].IsKey() {
			return true
		}
	}
	return false
}

func (r *read) done(reply *Reply, err error) {
	r.t.reads.Add(-1)
	r.req.Done(reply, err)
}

// look takes the snapshot and answers.
func (r *read) look() {
	if err := r.req.Ctx.Err(); err != nil {
		r.done(nil, err)
		return
	}
	if r.req.Confirm {
		r.confirm()
		return
	}
	if slot := r.glance(); slot != nil {
		reply, err := r.evaluate(slot.sn)
		slot.Unlock()
		r.done(reply, err)
		return
	}
	sn := r.t.r.store.Load().NewSnapshot()
	reply, err := r.evaluate(sn)
	sn.Close()
	r.done(reply, err)
}

// glance returns a snapshot at hand that shows the key of a point read as it is
// now; nil if there is none or the read is another one.
func (r *read) glance() *windowSlot {
	if len(r.spans) != 1 || r.req.Range == nil || r.req.ReadRev != 0 || r.req.Range.Revision != 0 || !r.spans[0].IsKey() {
		return nil
	}
	return r.t.windows.borrow(r.t.heads.get(r.spans[0].Start))
}

// evaluate reads the answer from a snapshot.
func (r *read) evaluate(sn *mvcc.Snapshot) (*Reply, error) {
	if err := r.t.serveable(r.spans); err != nil {
		return nil, err
	}
	reply := &Reply{
		Revision:   max(r.grant.First, sn.LastRevision()),
		Applied:    sn.AppliedIndex(),
		Generation: r.t.r.view.Load().generation(),
	}
	rev := int64(0)
	if r.req.ReadRev > 0 {
		reply.Revision = r.req.ReadRev
		if sn.LastRevision() > r.req.ReadRev {
			rev = r.req.ReadRev
		}
	}
	b := eval.Bounds{Current: reply.Revision, Compact: r.grant.Stamp.CompactRevision}
	var err error
	switch {
	case r.req.Range != nil:
		reply.Range, err = rangeAt(r.req.Ctx, sn, r.req.Range, rev, b)
	default:
		reply.Txn, err = txnAt(r.req.Ctx, sn, r.req.Txn, b)
	}
	if err != nil {
		return nil, r.t.r.readError(err)
	}
	return reply, nil
}

// confirm answers without the data: a replica of this generation that has applied
// this index has the state at this revision.
func (r *read) confirm() {
	reply := &Reply{
		Revision:   r.grant.First,
		Applied:    r.t.r.applied.Load(),
		Generation: r.t.r.view.Load().generation(),
	}
	if r.req.ReadRev > 0 {
		reply.Revision = r.req.ReadRev
	}
	err := r.t.serveable(r.spans)
	if err == nil && r.req.Range != nil {
		// The copy need not have heard of the compaction yet.
		err = readable(r.req.Range.Revision, eval.Bounds{Current: reply.Revision, Compact: r.grant.Stamp.CompactRevision})
	}
	if err != nil {
		r.done(nil, err)
		return
	}
	r.done(reply, nil)
}

// readable tells why the revision that a client asked for cannot be read.
func readable(rev int64, b eval.Bounds) error {
	switch {
	case rev > b.Current:
		return rpctypes.ErrGRPCFutureRev
	case rev > 0 && rev < b.Compact:
		return rpctypes.ErrGRPCCompacted
	}
	return nil
}

// rangeAt evaluates a range whose newest state is that at rev (zero: the
// reader's newest), known as b.Current.
func rangeAt(ctx context.Context, reader eval.Reader, req *pb.RangeRequest, rev int64, b eval.Bounds) (*pb.RangeResponse, error) {
	if err := readable(req.Revision, b); err != nil {
		return nil, err
	}
	if req.Revision > 0 && req.Revision < b.Current {
		rev = req.Revision
	}
	resp, err := eval.Range(ctx, reader, req, rev)
	if err != nil {
		return nil, err
	}
	resp.Header.Revision = b.Current
	return resp, nil
}

func txnAt(ctx context.Context, reader eval.Reader, req *pb.TxnRequest, b eval.Bounds) (*pb.TxnResponse, error) {
	res, err := eval.Txn(ctx, reader, req, b)
	if err != nil {
		return nil, err
	}
	res.Finish(b.Current)
	return res.Txn, nil
}
