package shard

import (
	"context"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// TxnResolver finishes transactions over several shards whose coordinator does
// not. Package router is one.
type TxnResolver interface {
	// Inquire asks the anchor of a transaction for its outcome.
	Inquire(ctx context.Context, record *kvdpb.TxnRecord) (*kvdpb.PartReply, error)
	// Settle tells all participants the outcome, and returns nil once each of
	// them has applied it.
	Settle(ctx context.Context, record *kvdpb.TxnRecord) error
}

const (
	// inquireAfter is how long a part is prepared before it asks for its outcome,
	// settleAfter how long a record stands before its participants are told again.
	// Both come by themselves within milliseconds unless somebody was lost.
	inquireAfter = time.Second
	settleAfter  = 2 * time.Second
	// recoverPace is how often what is left over is looked at, recoverPatience
	// bounds one question, recoverParallel how many are asked at once.
	recoverPace     = 250 * time.Millisecond
	recoverPatience = 2 * time.Second
	recoverParallel = 16
)

// recover sees to it that what is left over is finished, until nothing is.
func (x *parts) recover() {
	if x.t.r.cfg.Txns == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.recovering || x.mu.closed || x.idleLocked() || !x.t.serves() {
		return
	}
	x.mu.recovering = true
	x.t.goroutines.Add(1)
	go func() {
		defer x.t.goroutines.Done()
		for pause(x.t.ctx, recoverPace) && !x.recovered() {
			x.recoverOnce()
		}
	}()
}

// idleLocked tells whether nothing is prepared and nothing recorded.
func (x *parts) idleLocked() bool {
	if len(x.mu.records) > 0 {
		return false
	}
	for _, p := range x.mu.byID {
		if p.phase == partPrepared {
			return false
		}
	}
	return true
}

// recovered ends the goroutine if there is nothing to do.
func (x *parts) recovered() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.idleLocked() {
		x.mu.recovering = false
		return true
	}
	return false
}

// recoverOnce asks for the outcomes that are overdue, and settles old records.
func (x *parts) recoverOnce() {
	now := time.Now()
	var questions, records []*kvdpb.TxnRecord
	x.mu.Lock()
	for _, p := range x.mu.byID {
		if p.phase == partPrepared && !p.decided && now.Sub(p.since) >= inquireAfter {
			questions = append(questions, &kvdpb.TxnRecord{
				Txn: p.prepared.GetTxn(), Anchor: p.prepared.GetAnchor(), Participants: p.prepared.GetParticipants(),
			})
		}
	}
	for _, s := range x.mu.records {
		if now.Sub(s.since) >= settleAfter {
			records = append(records, s.record)
		}
	}
	x.mu.Unlock()
	ctx, cancel := context.WithTimeout(x.t.ctx, recoverPatience)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(recoverParallel)
	for _, q := range questions {
		g.Go(func() error {
			x.inquire(ctx, q)
			return nil
		})
	}
	for _, r := range records {
		g.Go(func() error {
			if err := x.t.r.cfg.Txns.Settle(ctx, r); err != nil {
				x.t.r.log.Debug("a transaction's participants cannot all be told its outcome yet", zap.Error(err))
				return nil
			}
			x.forget(string(r.GetTxn()))
			return nil
		})
	}
	// The tasks keep their errors to themselves.
	_ = g.Wait()
	// Forgetting alone does not wake the pipeline.
	x.t.pipeline.kick()
}

// inquire asks the anchor for the outcome of a part.
func (x *parts) inquire(ctx context.Context, q *kvdpb.TxnRecord) {
	reply, err := x.t.r.cfg.Txns.Inquire(ctx, q)
	if err != nil || reply.GetOutcome() == kvdpb.PartReply_PENDING {
		x.t.r.log.Debug("the outcome of a prepared transaction is not known yet", zap.Error(err))
		return
	}
	x.t.r.counters.recovered.Add(1)
	x.mu.Lock()
	if p := x.mu.byID[string(q.GetTxn())]; p != nil && p.phase == partPrepared && !x.mu.closed {
		x.decideLocked(p, reply.GetRevision())
		x.sendDueLocked()
	}
	x.mu.Unlock()
}
