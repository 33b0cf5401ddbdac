package router

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/eval"
)

// across coordinates one attempt of a transaction over several shards (anchor
// commit; package shard, type parts, has the rules of the shards).
//
// # Steps
//
//  1. The spans of all shards are latched, shard by shard in key order, so that
//     two transactions never wait for each other. What the evaluation will surely
//     look at comes with the latches.
//  2. The transaction is evaluated here. Shards that only the branch not taken
//     would have touched are let go.
//  3. Without effects it is a read: the current revision is asked for under the
//     latches, and every shard says that nobody else served it by then.
//  4. Else every shard but the last in key order, the anchor, prepares, in
//     parallel: one raft commit.
//  5. The anchor commits: the second raft commit. Then the client is answered,
//     and the participants are told in the background.
//
// # What may fail
//
// Until the commit is sent the attempt can be given up at any time: it will never
// commit, since nobody else sends the commit. So whatever goes wrong before is
// answered by another attempt, which the client sees as latency. If the answer to
// the commit is lost, the anchor is asked; that question ends in "committed" or
// aborts. Only if the anchor cannot be asked in the client's time is the outcome
// ambiguous. Each attempt has an id of its own.
type across struct {
	r     *Router
	req   *pb.TxnRequest
	id    []byte
	parts []*shardPart
	// stopTouch ends the touching of latches.
	stopTouch func()
}

// shardPart is the transaction's part in one shard.
type shardPart struct {
	// hull covers the spans, which are what the transaction may touch.
	hull  keyspace.Span
	spans []*kvdpb.KeySpan
	// reads and heads are the keys whose values or heads come with the latches.
	reads, heads [][]byte
	values       map[string]*kvdpb.PartValue
	headOnly     map[string]bool
	// leases are those that keys of the part may be attached to, attachable those
	// of them that are there.
	leases, attachable []int64

	epoch uint64
	// asked: its latches were asked for, latched: and granted, in epoch.
	asked, latched bool
	// used: the evaluation looked at it, or has effects in it.
	used     bool
	effects  []*kvdpb.KeyEffect
	prepared bool
}

// errAgain wraps the reason for which an attempt was given up: nothing was done.
type errAgain struct{ cause error }

func (e *errAgain) Error() string { return "attempt was given up: " + e.cause.Error() }
func (e *errAgain) Unwrap() error { return e.cause }

// again turns the error of a step before the commit into what it means for the
// attempt.
func again(err error) error {
	var aborted *errAgain
	switch {
	case err == nil || errors.As(err, &aborted):
		return err
	case errors.Is(err, errSplit), errors.Is(err, shard.ErrLatchLost), judge(err) != final:
		return &errAgain{err}
	}
	return err
}

const (
	// touchEvery is the pace at which latches are kept while others are waited for.
	touchEvery = 700 * time.Millisecond
	// askEvery is the pace of questions for the outcome of a commit.
	askEvery = 20 * time.Millisecond
)

// doAcross carries out a transaction whose keys lie in several shards.
func (r *Router) doAcross(ctx context.Context, req *pb.TxnRequest) (Response, error) {
	if isReadOnly(req) {
		return r.readAcross(ctx, req)
	}
	f := r.takeFlight()
	defer r.putFlight(f)
	for attempt := 0; ; attempt++ {
		a := &across{r: r, req: req, id: make([]byte, 16)}
		// It never fails.
		_, _ = rand.Read(a.id)
		res, err := a.try(ctx)
		var aborted *errAgain
		if !errors.As(err, &aborted) {
			return res, err
		}
		r.learnFrom(aborted.cause)
		if err := r.pause(ctx, f, nil, attempt, aborted.cause); err != nil {
			return Response{}, err
		}
	}
}

// deleteAcross carries out a delete over several shards, as a transaction.
func (r *Router) deleteAcross(ctx context.Context, req *pb.DeleteRangeRequest) (Response, error) {
	res, err := r.doAcross(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: req}}}})
	if err != nil {
		return Response{}, err
	}
	m := res.Message.(*pb.TxnResponse).Responses[0].GetResponseDeleteRange()
	m.Header = &pb.ResponseHeader{Revision: res.Revision}
	return Response{Message: m, Revision: res.Revision}, nil
}

// try makes one attempt.
func (a *across) try(ctx context.Context) (Response, error) {
	if err := a.plan(); err != nil {
		return Response{}, again(err)
	}
	ctx, cancel := context.WithTimeout(ctx, a.r.cfg.RequestTimeout)
	defer cancel()
	a.keep()
	defer a.stopTouch()
	if err := a.latch(ctx); err != nil {
		a.abandon()
		return Response{}, again(err)
	}
	res, err := a.evaluate(ctx)
	if err != nil {
		a.abandon()
		return Response{}, again(err)
	}
	if len(res.Effects) == 0 {
		rev, err := a.confirm(ctx)
		if err != nil {
			a.abandon()
			return Response{}, again(err)
		}
		res.Finish(rev)
		return Response{Message: res.Txn, Revision: rev}, nil
	}
	// From here on the client's cancellation is obeyed no more: what is prepared
	// is brought to an end.
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.r.cfg.RequestTimeout)
	defer cancel()
	rev, err := a.finish(finish, res)
	if err != nil {
		return Response{}, err
	}
	res.Finish(rev)
	return Response{Message: res.Txn, Revision: rev}, nil
}

// plan cuts what the transaction may touch at the borders of shards.
func (a *across) plan() error {
	byShard := map[uint64]*shardPart{}
	for _, t := range eval.Spans(a.req) {
		if t.Span.Empty() {
			continue
		}
		pieces, ok := a.r.routes.split(t.Span)
		if !ok {
			return errNoRoute
		}
		for _, piece := range pieces {
			p := byShard[piece.desc.Shard]
			if p == nil {
				p = &shardPart{values: map[string]*kvdpb.PartValue{}, headOnly: map[string]bool{}}
				byShard[piece.desc.Shard] = p
				a.insert(p, piece.span)
			}
			p.spans = append(p.spans, &kvdpb.KeySpan{Start: piece.span.Start, End: piece.span.End, Write: t.Write})
			p.cover(piece.span)
		}
	}
	if len(a.parts) == 0 {
		return errNoRoute
	}
	a.wants(a.req)
	return nil
}

// insert keeps the parts in key order. Shards do not overlap, so any of their
// spans orders them.
func (a *across) insert(p *shardPart, span keyspace.Span) {
	p.hull = span
	at := len(a.parts)
	for at > 0 && string(a.parts[at-1].hull.Start) > string(span.Start) {
		at--
	}
	a.parts = append(a.parts, nil)
	copy(a.parts[at+1:], a.parts[at:])
	a.parts[at] = p
}

func (p *shardPart) cover(span keyspace.Span) {
	if string(span.Start) < string(p.hull.Start) {
		p.hull.Start = span.Start
	}
	if string(span.End) > string(p.hull.End) {
		p.hull.End = span.End
	}
}

// request makes a step for a part.
func (a *across) request(p *shardPart) *kvdpb.PartRequest {
	return &kvdpb.PartRequest{Txn: a.id, Epoch: p.epoch}
}

// latch latches all parts, in key order.
func (a *across) latch(ctx context.Context) error {
	for _, p := range a.parts {
		m := a.request(p)
		m.Step = &kvdpb.PartRequest_Latch{Latch: &kvdpb.PartLatch{Spans: p.spans, Reads: p.reads, Heads: p.heads, Leases: p.leases}}
		p.asked = true
		reply, err := a.r.part(ctx, p.hull, m, true)
		if err != nil {
			return err
		}
		if len(reply.GetValues()) != len(p.reads)+len(p.heads) {
			return errFrame
		}
		for i, v := range reply.GetValues() {
			if i < len(p.reads) {
				p.values[string(p.reads[i])] = v
				continue
			}
			key := string(p.heads[i-len(p.reads)])
			if p.values[key] == nil {
				p.values[key], p.headOnly[key] = v, true
			}
		}
		p.attachable = reply.GetLeases()
		a.r.across.Lock()
		p.epoch, p.latched = reply.GetEpoch(), true
		a.r.across.Unlock()
	}
	return nil
}

// keep touches the latches as long as the attempt lasts.
func (a *across) keep() {
	ctx, cancel := context.WithCancel(a.r.ctx)
	timer := time.AfterFunc(touchEvery, func() { a.touch(ctx) })
	a.stopTouch = func() {
		timer.Stop()
		cancel()
	}
}

func (a *across) touch(ctx context.Context) {
	for ctx.Err() == nil {
		a.r.across.Lock()
		var latched []*shardPart
		for _, p := range a.parts {
			if p.latched && !p.prepared {
				latched = append(latched, p)
			}
		}
		a.r.across.Unlock()
		for _, p := range latched {
			m := a.request(p)
			m.Step = &kvdpb.PartRequest_Touch{Touch: &kvdpb.PartTouch{}}
			// A latch that is lost shows at the next step that needs it.
			_, _ = a.r.part(ctx, p.hull, m, true)
		}
		wait := time.NewTimer(touchEvery)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
		}
	}
}

// evaluate runs the transaction on what the latches protect, and hands its
// effects to the parts.
func (a *across) evaluate(ctx context.Context) (*eval.Result, error) {
	var bounds eval.Bounds
	if eval.NeedsBounds(a.req) {
		g, err := a.r.current(ctx)
		if err != nil {
			return nil, err
		}
		bounds = eval.Bounds{Current: g.First, Compact: g.Stamp.CompactRevision}
	}
	res, err := eval.Txn(ctx, &latchedParts{a: a}, a.req, bounds)
	if err != nil {
		return nil, err
	}
	for i := range res.Effects {
		e := &res.Effects[i]
		p := a.partOf(e.Key)
		if p == nil {
			return nil, errNoRoute
		}
		p.used = true
		p.effects = append(p.effects, &kvdpb.KeyEffect{
			Key: e.Key, Value: e.Value, Create: e.Create, Version: e.Version, Lease: e.Lease, Detach: e.Detach,
			Tombstone: e.Tombstone, Sub: int64(i),
		})
	}
	a.narrow()
	return res, nil
}

// partOf returns the part whose latches cover a key.
func (a *across) partOf(key []byte) *shardPart {
	for _, p := range a.parts {
		if p.hull.Contains(key) {
			return p
		}
	}
	return nil
}

// narrow lets go the parts that the evaluation did not use.
func (a *across) narrow() {
	a.r.across.Lock()
	var used, unused []*shardPart
	for _, p := range a.parts {
		if p.used {
			used = append(used, p)
		} else {
			unused = append(unused, p)
		}
	}
	if len(used) > 0 {
		a.parts = used
	} else {
		// Every compare of nothing holds, and nothing was done: one part is enough
		// to confirm that.
		a.parts, unused = unused[:1], unused[1:]
	}
	a.r.across.Unlock()
	a.release(unused)
}

// release gives up latches, in the background: also those that were asked for and may
// have been granted unheard. A whole shard would else wait for them to expire, and so
// would those who ask for them then.
func (a *across) release(parts []*shardPart) {
	for _, p := range parts {
		if !p.asked {
			continue
		}
		m := a.request(p)
		m.Step = &kvdpb.PartRequest_Release{Release: &kvdpb.PartRelease{}}
		a.r.background(func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, touchEvery)
			defer cancel()
			// Latches that are not heard of any more expire.
			_, _ = a.r.part(ctx, p.hull, m, true)
		})
	}
}

// abandon gives up an attempt in which nothing was prepared.
func (a *across) abandon() {
	a.stopTouch()
	a.release(a.parts)
}

// confirm asks for the revision at which a transaction without effects was
// evaluated, under its latches, which it gives up.
func (a *across) confirm(ctx context.Context) (int64, error) {
	g, err := a.r.current(ctx)
	if err != nil {
		return 0, err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, p := range a.parts {
		m := a.request(p)
		m.Step = &kvdpb.PartRequest_Confirm{Confirm: &kvdpb.PartConfirm{
			Revision: g.First, SeqEpoch: g.Stamp.SeqEpoch, Reading: int64(g.Stamp.Reading),
		}}
		group.Go(func() error {
			_, err := a.r.part(ctx, p.hull, m, true)
			return err
		})
	}
	return g.First, group.Wait()
}
