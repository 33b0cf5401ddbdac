package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/latch"
)

// Split cuts the child's span off this shard, on the owner. generation is what
// parent and child have afterwards.
//
//  1. The right span is latched for writing, as a whole: whatever was using it
//     ends first.
//  2. The tenure freezes it: from here on it never serves it again, whatever
//     comes of the split. Only a claim that follows directly on its own epoch
//     and finds the split not applied shows that it never will be; then the new
//     tenure serves the whole span.
//  3. Split is proposed, again if need be: in one epoch it applies once.
//
// begin, which may be nil, is called between the two first steps: with an error it gives
// the split up, from then on that goes forward.
//
// An error that wraps ErrSplitAborted means that nothing was proposed and the
// span is served as before. After any other error the split may have applied or
// may apply yet.
func (r *Replica) Split(ctx context.Context, child *kvdpb.Descriptor, generation uint64, begin func() error) error {
	t := r.tenure.Load()
	abort := func(err error) error {
		return fmt.Errorf("shard %d: %w: %w", r.cfg.Shard, ErrSplitAborted, err)
	}
	if t == nil || !t.serves() {
		return abort(r.notOwner())
	}
	right := keyspace.Span{Start: bytes.Clone(child.GetStart()), End: bytes.Clone(child.GetEnd())}
	c := &kvdpb.ShardSplit{Epoch: t.epoch, Child: child, Generation: generation}
	guard, err := t.latchSpan(ctx, right)
	if err != nil {
		return abort(err)
	}
	if begin != nil {
		if err := begin(); err != nil {
			t.latches.Release(guard)
			return abort(err)
		}
	}
	// Under the latch of the right span no other split of this shard is under
	// way, unless it froze another part.
	if err := t.freeze(c, right); err != nil {
		t.latches.Release(guard)
		return abort(err)
	}
	// Who comes now, or waited, finds the span frozen.
	t.latches.Release(guard)
	// Without the split only a new claim thaws the span.
	return r.proposeFrozen(ctx, t, "split", &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Split{Split: c}}, func() bool {
		p := r.Pending()
		return p != nil && p.GetShard() == child.GetShard()
	})
}

// latchSpan waits for the write latch of a span.
func (t *tenure) latchSpan(ctx context.Context, span keyspace.Span) (*latch.Guard, error) {
	guard, granted := &latch.Guard{}, make(waitChan, 1)
	switch t.latches.Acquire(guard, []latch.Latch{{Span: span, Write: true}}, granted) {
	case latch.Closed:
		return nil, t.r.notOwner()
	case latch.Granted:
		return guard, nil
	}
	select {
	case ok := <-granted:
		if !ok {
			return nil, t.r.notOwner()
		}
		return guard, nil
	case <-ctx.Done():
		if !t.latches.Cancel(guard) && <-granted {
			t.latches.Release(guard)
		}
		return nil, ctx.Err()
	}
}

// waitChan is a latch.Waiter for a goroutine that waits.
type waitChan chan bool

func (c waitChan) Latched(_ *latch.Guard, ok bool) { c <- ok }

// freeze stops serving the right span, if the split fits the shard as it is.
func (t *tenure) freeze(c *kvdpb.ShardSplit, right keyspace.Span) error {
	t.freezing.Lock()
	defer t.freezing.Unlock()
	v := t.r.view.Load()
	served := *t.served.Load()
	s := v.state()
	switch rejection := s.checkSplit(c); {
	case rejection != Accepted:
		return &RejectedError{Rejection: rejection}
	case !bytes.Equal(served.End, right.End):
		return &RejectedError{Rejection: SplitPending}
	case !t.serves():
		return t.r.notOwner()
	}
	t.moving.Store(true)
	t.narrow(keyspace.Span{Start: served.Start, End: right.Start})
	return nil
}

// proposeFrozen proposes what a tenure has stopped serving a span for, until it
// applied, or its epoch is over. After an error the tenure is: another one decides
// what becomes of the span, which stays frozen until then.
func (r *Replica) proposeFrozen(ctx context.Context, t *tenure, what string, c *kvdpb.ShardCommand, applied func() bool) error {
	for {
		err := r.propose(ctx, c)
		if applied() {
			return nil
		}
		var rejected *RejectedError
		switch {
		case errors.As(err, &rejected), t.over():
		case ctx.Err() != nil:
			err = ctx.Err()
		default:
			pause(ctx, driveRetryFirst)
			continue
		}
		t.end()
		return fmt.Errorf("%s shard %d: %w", what, r.cfg.Shard, err)
	}
}

// SplitDone drops the frozen span of a child that lives on its own, on the owner.
// It returns nil also where the split is done already.
func (r *Replica) SplitDone(ctx context.Context, child uint64) error {
	_, epoch := r.Owner()
	err := r.propose(ctx, &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_SplitDone{
		SplitDone: &kvdpb.ShardSplitDone{Epoch: epoch, Child: child}}})
	var rejected *RejectedError
	if errors.As(err, &rejected) && rejected.Rejection == NoSuchSplit {
		return nil
	}
	if err != nil {
		return fmt.Errorf("shard %d: end split of child %d: %w", r.cfg.Shard, child, err)
	}
	return nil
}

// Seed makes dir the store that the pending child's replica on this member begins
// with, durably. It does nothing where dir exists, and may be repeated at any
// time while the split is pending: what the seed holds is a function of the
// Split entry and of the frozen span alone. It is an error if that child's
// split is not pending here.
func (r *Replica) Seed(child uint64, dir string) error {
	parent := r.store.Load()
	record, err := parent.GetLocal(stateRecord)
	if err != nil {
		return fmt.Errorf("shard %d: read state: %w", r.cfg.Shard, err)
	}
	var s state
	if err := s.load(record, nil); err != nil {
		return fmt.Errorf("shard %d: %w", r.cfg.Shard, err)
	}
	if s.pending.GetShard() != child {
		return fmt.Errorf("shard %d: no split to child %d is pending", r.cfg.Shard, child)
	}
	local, err := s.seed()
	if err == nil {
		err = seedLeases(local, parent, spanOf(s.pending))
	}
	if err != nil {
		return err
	}
	if err := seedRecords(parent, spanOf(s.pending), local); err != nil {
		return fmt.Errorf("shard %d: seed of child %d: %w", r.cfg.Shard, child, err)
	}
	if err := r.cfg.Engine.Seed(dir, parent, spanOf(s.pending), s.pendingRevision, local); err != nil {
		return fmt.Errorf("shard %d: seed of child %d: %w", r.cfg.Shard, child, err)
	}
	return nil
}
