package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

const (
	// transferRetry is how long a request to lead may take before it is made
	// again; it is not guaranteed to arrive. handOverPatience bounds the whole.
	transferRetry    = 300 * time.Millisecond
	handOverPatience = 2 * time.Second
)

// Release hands the shard over in an orderly way, so that the next owner need
// not wait: the tenure takes in nothing new, what it has admitted is finished,
// reads stop, and only then Release is proposed. Whatever comes of it, this
// process never serves again in the epoch. Then replica to is asked to lead. If
// leadership does not move in a while, this replica claims again and Release
// fails. With to zero it returns once Release has applied, and leaves the shard
// to whoever claims it. It does nothing where this replica does not serve.
//
// A replica that has not applied what it knows to be committed ignores the request
// to lead, and its leader then refuses to make another one for an election
// timeout. So before it is made, settled, unless it is nil, waits until replica to
// has applied a raft index; if it returns false, the request is made all the same.
func (r *Replica) Release(ctx context.Context, to uint64, settled func(ctx context.Context, index uint64) bool) error {
	t := r.tenure.Load()
	if t == nil || !t.serves() {
		return nil
	}
	if _, err := t.lessor.drain(ctx, 0); err != nil {
		// Their next owner counts from the checkpoints before.
		r.log.Info("leases could not be checkpointed before the hand-over", zap.Error(err))
	}
	if err := t.pipeline.drain(ctx); err != nil {
		// Some writes are in flight. A claim of the next epoch takes them over.
		t.end()
		return fmt.Errorf("release shard %d: finish writes: %w", r.cfg.Shard, err)
	}
	r.holdBack()
	t.end()
	err := r.propose(ctx, &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Release{
		Release: &kvdpb.Release{Epoch: t.epoch}}})
	if err == nil && to != 0 {
		if settled != nil {
			index, _ := r.Applied()
			settled(ctx, index)
		}
		err = r.transfer(ctx, to)
	}
	if err != nil {
		r.letGo()
		return fmt.Errorf("release shard %d: %w", r.cfg.Shard, err)
	}
	return nil
}

// transfer asks a replica to lead until this one leads no more.
func (r *Replica) transfer(ctx context.Context, to uint64) error {
	ctx, cancel := context.WithTimeout(ctx, handOverPatience)
	defer cancel()
	for r.leading() {
		err := r.cfg.Raft.TransferLeader(to)
		if err := r.awaitLoss(ctx); err == nil {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("leadership did not move to replica %d: %w", to, errors.Join(ctx.Err(), err))
		}
	}
	return nil
}

// awaitLoss waits a while for the loss of leadership.
func (r *Replica) awaitLoss(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, transferRetry)
	defer cancel()
	for {
		changed := r.changes()
		if !r.leading() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Compact tells the group that history below rev may be collected. Only the
// owner does; elsewhere it returns nil. It is harmless to repeat.
func (r *Replica) Compact(ctx context.Context, rev int64) error {
	if !r.Serving() || r.Store().CompactRevision() >= rev {
		return nil
	}
	err := r.propose(ctx, &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Compact{
		Compact: &kvdpb.ShardCompact{Revision: rev}}})
	if err != nil {
		return fmt.Errorf("compact shard %d at revision %d: %w", r.cfg.Shard, rev, err)
	}
	return nil
}

// Nudge puts an entry without effect into the log and waits until it is applied.
func (r *Replica) Nudge(ctx context.Context) error {
	err := r.propose(ctx, &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Compact{
		Compact: &kvdpb.ShardCompact{Revision: r.Store().CompactRevision()}}})
	if err != nil {
		return fmt.Errorf("shard %d: %w", r.cfg.Shard, err)
	}
	return nil
}
