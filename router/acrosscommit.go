package router

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kvd-io/kvd/auth"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/eval"
)

// settlePatience bounds how long a coordinator goes on telling participants an
// outcome; then the owner of the anchor sees to it.
const settlePatience = 5 * time.Second

func (a *across) anchor() *shardPart { return a.parts[len(a.parts)-1] }

// record is the transaction's record, without its revision.
func (a *across) record() *kvdpb.TxnRecord {
	r := &kvdpb.TxnRecord{Txn: a.id, Anchor: a.anchor().spans[0].GetStart()}
	for _, p := range a.parts[:len(a.parts)-1] {
		r.Participants = append(r.Participants, &kvdpb.KeySpan{Start: p.hull.Start, End: p.hull.End})
	}
	return r
}

// finish prepares and commits. An error of type *errAgain means that the attempt
// is aborted.
func (a *across) finish(ctx context.Context, res *eval.Result) (revision int64, err error) {
	record := a.record()
	if err := a.prepare(ctx, record); err != nil {
		a.abort(record)
		return 0, again(err)
	}
	p := a.anchor()
	m := a.request(p)
	m.Step = &kvdpb.PartRequest_Commit{Commit: &kvdpb.PartCommit{Record: record, Effects: p.effects}}
	reply, err := a.r.part(ctx, p.hull, m, true)
	a.stopTouch()
	if auth.IsOld(err) {
		// It got no revision and never will.
		a.abort(record)
		return 0, err
	}
	if err != nil {
		reply, err = a.outcome(ctx, record, err)
	}
	if err != nil {
		return 0, err
	}
	if reply.GetOutcome() != kvdpb.PartReply_COMMITTED {
		a.abort(record)
		return 0, &errAgain{shard.ErrLatchLost}
	}
	record.Revision = reply.GetRevision()
	a.settle(record)
	return record.Revision, nil
}

// prepare has all parts but the anchor's prepared.
func (a *across) prepare(ctx context.Context, record *kvdpb.TxnRecord) error {
	var group errgroup.Group
	for _, p := range a.parts[:len(a.parts)-1] {
		m := a.request(p)
		m.Step = &kvdpb.PartRequest_Prepare{Prepare: &kvdpb.PartPrepare{Prepared: &kvdpb.Prepared{
			Anchor: record.Anchor, Effects: p.effects, Participants: record.Participants,
		}}}
		group.Go(func() error {
			_, err := a.r.part(ctx, p.hull, m, true)
			if err == nil {
				a.r.across.Lock()
				p.prepared = true
				a.r.across.Unlock()
			}
			return err
		})
	}
	return group.Wait()
}

// outcome finds out what became of a commit that ended in an error. Some errors
// say that nothing was written; else the anchor is asked until it knows.
func (a *across) outcome(ctx context.Context, record *kvdpb.TxnRecord, cause error) (*kvdpb.PartReply, error) {
	if v := judge(cause); v == stale || v == later || errors.Is(cause, shard.ErrLatchLost) {
		return &kvdpb.PartReply{Outcome: kvdpb.PartReply_ABORTED}, nil
	}
	for {
		reply, err := a.r.inquire(ctx, record, true)
		if err == nil && reply.GetOutcome() != kvdpb.PartReply_PENDING {
			return reply, nil
		}
		wait := time.NewTimer(askEvery)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			// The participants ask by themselves.
			return nil, &shard.AmbiguousError{Cause: errors.Join(cause, err)}
		}
	}
}

// abort ends an attempt whose commit was not sent, or is known not to have
// happened and never to happen.
func (a *across) abort(record *kvdpb.TxnRecord) {
	a.stopTouch()
	a.release(a.parts[len(a.parts)-1:])
	if len(record.Participants) == 0 {
		return
	}
	a.r.background(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, settlePatience)
		defer cancel()
		// Participants that are not told ask by themselves.
		_ = a.r.Settle(ctx, &kvdpb.TxnRecord{Txn: a.id, Participants: record.Participants})
	})
}

// settle tells the participants that the transaction is committed, and the
// anchor that they know.
func (a *across) settle(record *kvdpb.TxnRecord) {
	a.r.background(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, settlePatience)
		defer cancel()
		if a.r.Settle(ctx, record) != nil {
			return
		}
		// The owner of the anchor does both again if this does not get there.
		_, _ = a.r.part(ctx, keyspace.Key(record.Anchor), &kvdpb.PartRequest{
			Txn: record.Txn, Step: &kvdpb.PartRequest_Forget{Forget: &kvdpb.PartForget{}}}, true)
	})
}

// Settle tells all participants of a transaction its outcome. It returns nil once
// each of them has applied it.
func (r *Router) Settle(ctx context.Context, record *kvdpb.TxnRecord) error {
	var group errgroup.Group
	for _, p := range record.GetParticipants() {
		group.Go(func() error {
			return r.everyPart(ctx, keyspace.Span{Start: p.GetStart(), End: p.GetEnd()}, &kvdpb.PartRequest{
				Txn: record.GetTxn(), Step: &kvdpb.PartRequest_Decide{Decide: &kvdpb.PartDecide{Revision: record.GetRevision()}}})
		})
	}
	return group.Wait()
}

// Inquire asks the anchor of a transaction for its outcome. One that has not
// committed, and whose coordinator is not heard of, is aborted by that.
func (r *Router) Inquire(ctx context.Context, record *kvdpb.TxnRecord) (*kvdpb.PartReply, error) {
	return r.inquire(ctx, record, false)
}

func (r *Router) inquire(ctx context.Context, record *kvdpb.TxnRecord, force bool) (*kvdpb.PartReply, error) {
	return r.part(ctx, keyspace.Key(record.GetAnchor()), &kvdpb.PartRequest{
		Txn: record.GetTxn(), Step: &kvdpb.PartRequest_Inquire{Inquire: &kvdpb.PartInquire{Record: record, Force: force}}}, false)
}
