package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// operations changes where shards live and the cluster's settings, as people ask
// for it. What is asked for is written to placement, and carried out from there by
// whoever owns the shard; the calls here only begin it and look on.
type operations struct{ m *Member }

// lookAgain is how often a call looks whether what it waits for has happened,
// where no news announces it.
const lookAgain = 20 * time.Millisecond

// shard returns a shard as every change that has finished left it, if nothing is
// under way with it.
func (o operations) shard(ctx context.Context, id uint64) (*kvdpb.Descriptor, error) {
	if err := o.m.placement.Barrier(ctx); err != nil {
		return nil, err
	}
	m := o.m.placement.Map()
	d := m.ByID(id)
	if d == nil || d.Phase != kvdpb.Descriptor_LIVE {
		return nil, status.Errorf(codes.NotFound, "kvd: no shard %d", id)
	}
	if doing := placement.Doing(m, d); doing != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "kvd: shard %d is busy: %s", id, o.words(doing, d))
	}
	return d, nil
}

// words describes what is under way with a shard.
func (o operations) words(doing placement.Operation, d *kvdpb.Descriptor) string {
	return doing.Words(d, o.name)
}

// name is how people call a member.
func (o operations) name(id uint64) string {
	if m := o.m.placement.View().Peer(id); m.GetName() != "" {
		return m.Name
	}
	return fmt.Sprintf("%x", id)
}

// usable returns an error unless a member can be given something to do.
func (o operations) usable(id uint64) error {
	m := o.m.placement.View().Member(id)
	switch {
	case m == nil:
		return status.Errorf(codes.NotFound, "kvd: no member %x", id)
	case m.Learner:
		return status.Errorf(codes.FailedPrecondition, "kvd: member %s is a learner, which has no shards", o.name(id))
	case !o.m.alive(id):
		return status.Errorf(codes.FailedPrecondition, "kvd: member %s is not connected", o.name(id))
	}
	return nil
}

// refusal turns a refusal of placement into what a client is told.
func refusal(err error) error {
	var rejected *placement.RejectedError
	if !errors.As(err, &rejected) {
		return err
	}
	code := codes.FailedPrecondition
	switch rejected.Rejection {
	case kvdpb.PlacementResult_NOT_FOUND:
		code = codes.NotFound
	case kvdpb.PlacementResult_STALE:
		code = codes.Aborted
	}
	return status.Error(code, "kvd: "+rejected.Reason)
}

// update has a change applied, and makes sure that this member has applied it.
func (o operations) update(ctx context.Context, cmd *kvdpb.PlacementCommand) (*kvdpb.PlacementResult, error) {
	res, err := o.m.placement.Update(ctx, cmd)
	if err != nil {
		return nil, refusal(err)
	}
	return res, o.m.placement.Barrier(ctx)
}

func prefer(id, member uint64) *kvdpb.PlacementCommand {
	return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_PreferOwner{PreferOwner: &kvdpb.PreferOwner{Shard: id, Member: member}}}
}

// Transfer implements api.Operations.
func (o operations) Transfer(ctx context.Context, id, member uint64) error {
	d, err := o.shard(ctx, id)
	if err != nil {
		return err
	}
	if member == 0 {
		_, err := o.update(ctx, prefer(id, 0))
		return err
	}
	if err := o.usable(member); err != nil {
		return err
	}
	if !slices.ContainsFunc(d.Replicas, func(r *kvdpb.Replica) bool { return r.Member == member && !r.NonVoting }) {
		return status.Errorf(codes.FailedPrecondition, "kvd: member %s has no voting replica of shard %d: move one there first", o.name(member), id)
	}
	if o.m.placement.View().Corrupt(id, member) {
		return status.Errorf(codes.FailedPrecondition, "kvd: the replica of shard %d on %s was found to differ from the others: rebuild it first", id, o.name(member))
	}
	if to := d.PreferredOwner; to != 0 && to != member && !d.PreferredAutomatically && o.m.alive(to) && !o.owns(ctx, id, to) {
		return status.Errorf(codes.FailedPrecondition, "kvd: shard %d is busy: it is being transferred to %s", id, o.name(to))
	}
	if _, err := o.update(ctx, prefer(id, member)); err != nil {
		return err
	}
	for {
		if o.owns(ctx, id, member) {
			return nil
		}
		if now := o.m.placement.Map().ByID(id); now.GetPreferredOwner() != member {
			return status.Errorf(codes.Aborted, "kvd: the transfer of shard %d to %s was cancelled", id, o.name(member))
		}
		select {
		case <-ctx.Done():
			return status.Errorf(codes.DeadlineExceeded, "kvd: shard %d is not owned by %s yet; it goes on trying until it is cancelled", id, o.name(member))
		case <-time.After(lookAgain):
		}
	}
}

// owns tells whether a member serves a shard.
func (o operations) owns(ctx context.Context, id, member uint64) bool {
	st, err := o.status(ctx, id, member)
	return err == nil && st.OwnerMember == member && (st.Phase == string(shard.PhaseServing) || st.Phase == string(shard.PhaseSplitting) || st.Phase == string(shard.PhaseMerging))
}

// status asks a member, which may be this one, what its replica reports.
func (o operations) status(ctx context.Context, id, member uint64) (*kvdpb.ReplicaStatus, error) {
	if member != o.m.id.member {
		return o.m.askReplica(ctx, member, id)
	}
	r, ok := o.m.manager.Replica(id)
	if !ok {
		return nil, fmt.Errorf("no replica of shard %d", id)
	}
	return r.Status(), nil
}

// Move implements api.Operations.
func (o operations) Move(ctx context.Context, id, from, to uint64, wait bool) (replica uint64, err error) {
	d, err := o.shard(ctx, id)
	if err != nil {
		return 0, err
	}
	if err := o.usable(to); err != nil {
		return 0, err
	}
	leaves, ok := memberOf(d, from)
	if !ok {
		return 0, status.Errorf(codes.FailedPrecondition, "kvd: member %s has no replica of shard %d", o.name(from), id)
	}
	if _, there := memberOf(d, to); there {
		return 0, status.Errorf(codes.FailedPrecondition, "kvd: member %s has a replica of shard %d already", o.name(to), id)
	}
	old := leaves.Replica
	res, err := o.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_AddReplica{
		AddReplica: &kvdpb.AddReplica{Shard: id, Config: d.Config, Member: to, Replaces: old}}})
	if err != nil {
		return 0, err
	}
	replica = newest(res.GetDescriptor_())
	if !wait {
		return replica, nil
	}
	return replica, o.await(ctx, func(d *kvdpb.Descriptor) (bool, error) {
		switch _, stays := replicaOf(d, old); {
		case !stays:
			return true, nil
		case !placement.Pursues(d, replica, old):
			return true, status.Errorf(codes.Aborted, "kvd: the move of shard %d to %s was given up", id, o.name(to))
		}
		return false, nil
	}, id)
}

// newest is the replica that was added last.
func newest(d *kvdpb.Descriptor) uint64 {
	id := uint64(0)
	for _, r := range d.GetReplicas() {
		id = max(id, r.Replica)
	}
	return id
}

func replicaOf(d *kvdpb.Descriptor, replica uint64) (*kvdpb.Replica, bool) {
	for _, r := range d.GetReplicas() {
		if r.Replica == replica {
			return r, true
		}
	}
	return nil, false
}

// memberOf is the replica that a member has of a shard.
func memberOf(d *kvdpb.Descriptor, member uint64) (*kvdpb.Replica, bool) {
	for _, r := range d.GetReplicas() {
		if r.Member == member {
			return r, true
		}
	}
	return nil, false
}

// await waits until done says so of the shard's descriptor.
func (o operations) await(ctx context.Context, done func(*kvdpb.Descriptor) (bool, error), id uint64) error {
	for {
		changed := o.m.placement.Changed()
		d := o.m.placement.Map().ByID(id)
		if d == nil {
			return status.Errorf(codes.Aborted, "kvd: shard %d is no more", id)
		}
		if ok, err := done(d); ok {
			return err
		}
		select {
		case <-ctx.Done():
			return status.Errorf(codes.DeadlineExceeded, "kvd: shard %d is still busy, and goes on: %s", id, o.words(placement.Doing(o.m.placement.Map(), d), d))
		case <-changed:
		}
	}
}

// Cancel implements api.Operations.
func (o operations) Cancel(ctx context.Context, id uint64) (what string, err error) {
	if err := o.m.placement.Barrier(ctx); err != nil {
		return "", err
	}
	m := o.m.placement.Map()
	d := m.ByID(id)
	if d == nil || d.Phase != kvdpb.Descriptor_LIVE {
		return "", status.Errorf(codes.NotFound, "kvd: no shard %d", id)
	}
	doing := placement.Doing(m, d)
	what = o.words(doing, d)
	if doing == "" || doing == placement.Splitting {
		if split := o.cancelSplits(ctx, d); split != "" {
			return split, nil
		}
	}
	if doing == "" {
		to := d.PreferredOwner
		if to == 0 || o.owns(ctx, id, to) {
			return "", status.Errorf(codes.FailedPrecondition, "kvd: nothing is under way with shard %d", id)
		}
		_, err := o.update(ctx, prefer(id, 0))
		return fmt.Sprintf("transfer to %s", o.name(to)), err
	}
	if doing == placement.Merging {
		return what, o.cancelMerge(ctx, d)
	}
	if i := slices.IndexFunc(d.Replicas, func(r *kvdpb.Replica) bool { return r.Rebuild && !r.Joining && !r.Leaving }); i >= 0 {
		_, err := o.update(ctx, rebuild(d, d.Replicas[i].Replica, true))
		return what, err
	}
	i := slices.IndexFunc(d.Replicas, func(r *kvdpb.Replica) bool { return r.Joining && !r.Rebuild })
	if i < 0 {
		return "", status.Errorf(codes.FailedPrecondition, "kvd: shard %d only goes forward: %s", id, what)
	}
	joining := d.Replicas[i].Replica
	if _, err := o.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_RemoveReplica{
		RemoveReplica: &kvdpb.RemoveReplica{Shard: id, Config: d.Config, Replica: joining}}}); err != nil {
		return "", err
	}
	return what, o.await(ctx, func(d *kvdpb.Descriptor) (bool, error) {
		_, still := replicaOf(d, joining)
		return !still, nil
	}, id)
}

// Settings implements api.Operations.
func (o operations) Settings(ctx context.Context) ([]placement.Setting, error) {
	if err := o.m.placement.Barrier(ctx); err != nil {
		return nil, err
	}
	return placement.Settings(o.m.placement.View().Settings), nil
}

// ChangeSetting implements api.Operations.
func (o operations) ChangeSetting(ctx context.Context, name, value string, reset bool) (placement.Setting, error) {
	for {
		if err := o.m.placement.Barrier(ctx); err != nil {
			return placement.Setting{}, err
		}
		v := o.m.placement.View()
		next, shown, err := placement.ChangeSetting(v.Settings, name, value, reset)
		if errors.Is(err, placement.ErrNoSetting) {
			return shown, status.Errorf(codes.NotFound, "kvd: %v", err)
		}
		if err != nil {
			return shown, status.Errorf(codes.InvalidArgument, "kvd: %v", err)
		}
		_, err = o.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_SetClusterSettings{
			SetClusterSettings: &kvdpb.SetClusterSettings{Settings: next, Version: v.SettingsVersion}}})
		if status.Code(err) != codes.Aborted {
			return shown, err
		}
		// Somebody else changed a setting meanwhile, or an earlier try of this one did.
	}
}
