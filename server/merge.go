package server

import (
	"bytes"
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// neighbour is the live shard that begins where another one ends.
func neighbour(m *placement.Map, d *kvdpb.Descriptor) *kvdpb.Descriptor {
	if o := m.Lookup(d.End); o != nil && bytes.Equal(o.Start, d.End) {
		return o
	}
	return nil
}

// Merge implements api.Operations.
func (o operations) Merge(ctx context.Context, id, rightID uint64, wait bool) (absorbed uint64, err error) {
	left, err := o.shard(ctx, id)
	if err != nil {
		return 0, err
	}
	right := neighbour(o.m.placement.Map(), left)
	switch {
	case right == nil:
		return 0, status.Errorf(codes.FailedPrecondition, "kvd: shard %d is the last one, it has no right neighbour", id)
	case rightID != 0 && right.Shard != rightID:
		return 0, status.Errorf(codes.FailedPrecondition, "kvd: the right neighbour of shard %d is shard %d, not shard %d", id, right.Shard, rightID)
	}
	if right, err = o.shard(ctx, right.Shard); err != nil {
		return 0, err
	}
	if a, b, differ := o.apart(left, right); differ {
		return 0, status.Errorf(codes.FailedPrecondition,
			"kvd: shards %d and %d have replicas on different members (%s, not %s): move replicas first", left.Shard, right.Shard, a, b)
	}
	res, err := o.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_BeginMerge{BeginMerge: &kvdpb.BeginMerge{
		Left: left.Shard, LeftGeneration: left.Generation, Right: right.Shard, RightGeneration: right.Generation}}})
	if err != nil {
		return 0, err
	}
	if !wait {
		return right.Shard, nil
	}
	attempt := res.GetDescriptor_().GetMerge().GetAttempt()
	if err := o.awaitMerge(ctx, left.Shard, right.Shard, attempt); err != nil {
		return 0, err
	}
	return right.Shard, o.awaitOwner(ctx, left.Shard)
}

// awaitMerge waits until a merge is done, or given up.
func (o operations) awaitMerge(ctx context.Context, left, right, attempt uint64) error {
	return o.await(ctx, func(d *kvdpb.Descriptor) (bool, error) {
		switch {
		case d.GetMerge().GetAttempt() == attempt:
			return false, nil
		case o.m.placement.Map().ByID(right) == nil:
			return true, nil
		}
		why := "it was given up"
		if f := d.MergeFailure; f.GetAttempt() == attempt && f.Reason != "" {
			why = f.Reason
		}
		return true, status.Errorf(codes.Aborted, "kvd: shards %d and %d were not merged: %s", left, right, why)
	}, left)
}

// awaitOwner waits until a shard is served.
func (o operations) awaitOwner(ctx context.Context, id uint64) error {
	for {
		info, err := o.m.router.Shard(ctx, id)
		if err != nil || info.Status.GetPhase() == string(shard.PhaseServing) {
			return err
		}
		select {
		case <-ctx.Done():
			return status.Errorf(codes.DeadlineExceeded, "kvd: the shards were merged, and shard %d does not serve yet", id)
		case <-time.After(lookAgain):
		}
	}
}

// apart names a member that has a replica of one of two shards and one that has one of
// the other, where those differ.
func (o operations) apart(a, b *kvdpb.Descriptor) (onlyA, onlyB string, differ bool) {
	only := func(a, b *kvdpb.Descriptor) string {
		for _, r := range a.Replicas {
			if member, ok := memberOf(b, r.Member); !ok || member.NonVoting != r.NonVoting {
				return o.name(r.Member)
			}
		}
		return "none"
	}
	onlyA, onlyB = only(a, b), only(b, a)
	return onlyA, onlyB, onlyA != "none" || onlyB != "none"
}

// cancelMerge gives a merge up, if it is not too late.
func (o operations) cancelMerge(ctx context.Context, d *kvdpb.Descriptor) error {
	m := d.Merge
	if m.Phase == kvdpb.Merge_SURRENDERED {
		return tooLate(m)
	}
	if _, err := o.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_AbortMerge{
		AbortMerge: &kvdpb.AbortMerge{Left: m.Left, Attempt: m.Attempt, Reason: "it was cancelled"}}}); err != nil {
		return err
	}
	return o.await(ctx, func(d *kvdpb.Descriptor) (bool, error) {
		switch now := d.Merge; {
		case now.GetAttempt() == m.Attempt && now.Phase == kvdpb.Merge_ABORTING:
			return false, nil
		case now.GetAttempt() == m.Attempt, o.m.placement.Map().ByID(m.Right) == nil:
			return true, tooLate(m)
		}
		return true, nil
	}, m.Left)
}

func tooLate(m *kvdpb.Merge) error {
	return status.Errorf(codes.FailedPrecondition, "kvd: the merge of shard %d into shard %d only goes forward: shard %d has given its keys up",
		m.Right, m.Left, m.Right)
}
