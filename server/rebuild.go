package server

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Rebuild implements api.Operations.
func (o operations) Rebuild(ctx context.Context, id, member uint64, wait bool) (rebuilt, replica uint64, err error) {
	d, err := o.shard(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	old, err := o.toRebuild(d, member)
	if err != nil {
		return 0, 0, err
	}
	if err := o.usable(old.Member); err != nil {
		return 0, 0, err
	}
	// Placement knows who is sound, this member who is there.
	if len(d.Replicas) > 1 && !placement.SoundMajority(d, old.Replica, o.m.alive) {
		return 0, 0, status.Errorf(codes.FailedPrecondition, "kvd: no majority of the other replicas of shard %d is connected", id)
	}
	if _, err := o.update(ctx, rebuild(d, old.Replica, false)); err != nil {
		return 0, 0, err
	}
	if !wait {
		return old.Member, 0, nil
	}
	err = o.await(ctx, func(d *kvdpb.Descriptor) (bool, error) {
		going := false
		replica, going = placement.Rebuilds(d, old.Member, old.Replica)
		if !going && replica == 0 {
			return true, status.Errorf(codes.Aborted, "kvd: the rebuild of shard %d on %s was cancelled or given up", id, o.name(old.Member))
		}
		return !going, nil
	}, id)
	return old.Member, replica, err
}

// toRebuild is the replica on a member; on member 0, the one that was found to differ.
func (o operations) toRebuild(d *kvdpb.Descriptor, member uint64) (*kvdpb.Replica, error) {
	v := o.m.placement.View()
	var found *kvdpb.Replica
	for _, r := range d.Replicas {
		if r.Member != member && (member != 0 || !v.Corrupt(d.Shard, r.Member)) {
			continue
		}
		if found != nil {
			return nil, status.Errorf(codes.FailedPrecondition, "kvd: several replicas of shard %d were found to differ: say which member's to rebuild", d.Shard)
		}
		found = r
	}
	switch {
	case found == nil && member == 0:
		return nil, status.Errorf(codes.FailedPrecondition, "kvd: no replica of shard %d was found to differ: say which member's to rebuild", d.Shard)
	case found == nil:
		return nil, status.Errorf(codes.FailedPrecondition, "kvd: member %s has no replica of shard %d", o.name(member), d.Shard)
	}
	return found, nil
}

// rebuild begins a rebuild, or takes it back.
func rebuild(d *kvdpb.Descriptor, replica uint64, cancel bool) *kvdpb.PlacementCommand {
	return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_RebuildReplica{
		RebuildReplica: &kvdpb.RebuildReplica{Shard: d.Shard, Config: d.Config, Replica: replica, Cancel: cancel}}}
}
