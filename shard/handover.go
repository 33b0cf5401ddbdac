package shard

import (
	"context"
	"fmt"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Release hands the shard over in an orderly way, so that the next owner need
// not wait: the tenure takes in nothing new, what it has admitted is finished,
// reads stop, and only then Release is proposed. Whatever comes of it, this
// process never serves again in the epoch. Afterwards replica to is asked to
// lead (zero: nobody is); if nobody takes over in a while this replica claims
// again. It returns once Release has applied, nil also where the shard is not
// this replica's.
func (r *Replica) Release(ctx context.Context, to uint64) error {
	t := r.tenure.Load()
	if t == nil || !t.serves() {
		return nil
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
	if err != nil {
		r.letGo()
		return fmt.Errorf("release shard %d: %w", r.cfg.Shard, err)
	}
	if to == 0 {
		return nil
	}
	if err := r.cfg.Raft.TransferLeader(to); err != nil {
		r.letGo()
		return fmt.Errorf("release shard %d: transfer leadership to replica %d: %w", r.cfg.Shard, to, err)
	}
	return nil
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
