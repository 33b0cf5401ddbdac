package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

const (
	// freezePatience bounds how long requests of the shard are held up by a freeze
	// that does not come about: the wait for the latch, and for transactions over
	// several shards to be settled.
	freezePatience = 300 * time.Millisecond
	// quietPatience bounds what comes after the owner has stopped serving.
	quietPatience = time.Second
	settlePace    = 2 * time.Millisecond
)

// ErrFreezeAborted wraps the reason why a freeze was given up before it was
// proposed: the shard is served as before, in a later epoch if it had been stopped.
var ErrFreezeAborted = errors.New("freeze was given up before it was proposed")

// Freeze makes the shard, on its owner, ready to be absorbed by its left neighbour.
// right is its descriptor as the merge was decided on.
//
//  1. What is left of each lease is checkpointed while the shard is served still, which
//     takes its time where there are many.
//  2. The whole span is latched for writing: whatever was using it ends first.
//     Transactions over several shards that are anchored here are settled.
//  3. The tenure stops serving. From here on it never serves again, whatever comes
//     of the freeze.
//  4. What is left in the pipeline and with the leases goes into the log: of the leases,
//     those of which it says too much by now (leaseSlack).
//  5. Freeze is proposed, again if need be: in one epoch it applies once.
//
// After an error that does not wrap ErrFreezeAborted the freeze may have applied or
// may apply yet; then a later epoch finds the shard frozen, or serves all of it.
func (r *Replica) Freeze(ctx context.Context, attempt, left uint64, right *kvdpb.Descriptor) error {
	t := r.tenure.Load()
	abort := func(err error) error {
		return fmt.Errorf("shard %d: %w: %w", r.cfg.Shard, ErrFreezeAborted, err)
	}
	if t == nil || !t.serves() {
		return abort(r.notOwner())
	}
	if t.frozen.Load() {
		return abort(&RejectedError{Rejection: MergePending})
	}
	c := &kvdpb.ShardFreeze{Epoch: t.epoch, Attempt: attempt, Left: left, Start: right.GetStart(), End: right.GetEnd()}
	if _, err := t.lessor.note(ctx, 0); err != nil {
		return abort(err)
	}
	patient, cancel := context.WithTimeout(ctx, r.cfg.waits.freeze)
	defer cancel()
	guard, err := t.latchSpan(patient, t.served.Load().Clone())
	if err != nil {
		return abort(err)
	}
	err = t.parts.settled(patient)
	if err == nil {
		err = t.stopServing(c)
	}
	// Who comes now, or waited, finds the shard frozen, or served as before.
	t.latches.Release(guard)
	if err != nil {
		return abort(err)
	}
	if err := t.quiet(ctx, attempt); err != nil {
		t.end()
		return abort(err)
	}
	return r.proposeFrozen(ctx, t, "freeze", &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Freeze{Freeze: c}},
		func() bool { return r.Merge().Frozen == attempt })
}

// stopServing stops serving the shard, if the freeze fits it as it is.
func (t *tenure) stopServing(c *kvdpb.ShardFreeze) error {
	t.freezing.Lock()
	defer t.freezing.Unlock()
	v := t.r.view.Load()
	s := v.state()
	switch rejection := s.checkFreeze(c); {
	case rejection != Accepted:
		return &RejectedError{Rejection: rejection}
	case !t.served.Load().Equal(v.span):
		return &RejectedError{Rejection: SplitPending}
	case !t.serves():
		return t.r.notOwner()
	}
	t.frozen.Store(true)
	t.narrow(nothingOf(v.span))
	return nil
}

// nothingOf is the empty span at the beginning of one.
func nothingOf(span keyspace.Span) keyspace.Span {
	return keyspace.Span{Start: span.Start, End: span.Start}
}

// settled waits until no transaction over several shards has anything here. The
// caller holds the latch of the whole shard, so that nothing new comes.
func (x *parts) settled(ctx context.Context) error {
	for {
		x.mu.Lock()
		left := len(x.mu.records)
		for _, p := range x.mu.byID {
			if p.phase >= partPreparing {
				left++
			}
		}
		x.mu.Unlock()
		if left == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d transactions are not settled: %w", left, ctx.Err())
		}
		// Forgetting alone does not wake the pipeline.
		x.t.pipeline.kick()
		pause(ctx, settlePace)
	}
}

// quiet brings what the tenure has taken in before it stopped serving into the log.
func (t *tenure) quiet(ctx context.Context, attempt uint64) error {
	ctx, cancel := context.WithTimeout(ctx, t.r.cfg.waits.quiet)
	defer cancel()
	tooMuch, err := t.lessor.drain(ctx, t.r.slack.left(attempt))
	t.r.slack.spend(attempt, tooMuch)
	if err != nil {
		return err
	}
	for !t.pipeline.idle() {
		if t.over() {
			return t.r.notOwner()
		}
		if ctx.Err() != nil {
			return fmt.Errorf("finish what is in the pipeline: %w", ctx.Err())
		}
		t.pipeline.kick()
		pause(ctx, settlePace)
	}
	return nil
}

// idle tells whether nothing is in the pipeline.
func (p *pipeline) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.mu.queue) == 0 && len(p.mu.steps) == 0 && len(p.mu.inflight) == 0 && p.mu.asking == 0
}

// Surrender gives the frozen shard's keys up for ever, on its owner. The caller has
// seen that the left neighbour's copy is sealed.
func (r *Replica) Surrender(ctx context.Context, attempt uint64) error {
	_, epoch := r.Owner()
	return r.proposeMerge(ctx, "surrender", &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Surrender{
		Surrender: &kvdpb.ShardSurrender{Epoch: epoch, Attempt: attempt}}}, func(m MergeState) bool {
		return m.Frozen == attempt && m.Surrendered
	})
}

// Unfreeze ends an attempt to merge the shard away, on its owner. It returns nil
// also where that is over already, and fails with a *RejectedError of Surrendered
// where it is too late.
func (r *Replica) Unfreeze(ctx context.Context, attempt uint64) error {
	return r.proposeMerge(ctx, "unfreeze", &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Unfreeze{
		Unfreeze: &kvdpb.ShardUnfreeze{Attempt: attempt}}}, func(m MergeState) bool { return m.Over >= attempt })
}

// proposeMerge proposes a step of a merge, and goes by whether its effect is to be
// seen, whatever became of this proposal of it.
func (r *Replica) proposeMerge(ctx context.Context, what string, c *kvdpb.ShardCommand, applied func(MergeState) bool) error {
	err := r.propose(ctx, c)
	if applied(r.Merge()) {
		return nil
	}
	if err == nil {
		err = errors.New("it had no effect")
	}
	return fmt.Errorf("%s shard %d: %w", what, r.cfg.Shard, err)
}
