package placement

import (
	"cmp"
	"context"
	"slices"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/protobuf/proto"
)

// maxAlarms bounds what clients can make the state hold: an alarm may name any
// member.
const maxAlarms = 1024

func compareAlarms(a, b *kvdpb.Alarm) int {
	return cmp.Or(cmp.Compare(a.Member, b.Member), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Cause, b.Cause))
}

// raiseAlarm makes an alarm stand. The list is never changed in place.
func (s *State) raiseAlarm(c *kvdpb.RaiseAlarm) *kvdpb.PlacementResult {
	a := c.GetAlarm()
	if _, known := kvdpb.Alarm_Type_name[int32(a.GetType())]; !known || a.GetType() == kvdpb.Alarm_NONE {
		return reject(kvdpb.PlacementResult_INVALID, "alarm of type %d", a.GetType())
	}
	at, found := slices.BinarySearchFunc(s.alarms, a, compareAlarms)
	if found {
		return applied()
	}
	if len(s.alarms) >= maxAlarms {
		return reject(kvdpb.PlacementResult_INVALID, "%d alarms stand already", len(s.alarms))
	}
	s.alarms = slices.Insert(slices.Clone(s.alarms), at, proto.CloneOf(a))
	s.dirty.meta = true
	return applied()
}

// clearAlarm ends the alarms that the command names, if there are any.
func (s *State) clearAlarm(c *kvdpb.ClearAlarm) *kvdpb.PlacementResult {
	gone := func(a *kvdpb.Alarm) bool {
		return a.Member == c.GetAlarm().GetMember() && a.Type == c.GetAlarm().GetType() &&
			(c.AnyCause || a.Cause == c.GetAlarm().GetCause())
	}
	if slices.ContainsFunc(s.alarms, gone) {
		s.alarms = slices.DeleteFunc(slices.Clone(s.alarms), gone)
		s.dirty.meta = true
	}
	return applied()
}

// setDowngrade takes note of the version to go back to.
func (s *State) setDowngrade(c *kvdpb.Downgrade) *kvdpb.PlacementResult {
	s.downgrade = proto.CloneOf(c)
	s.dirty.meta = true
	return applied()
}

// RaiseAlarm makes an alarm stand on all members. When it returns, this member
// has applied it.
func (n *Node) RaiseAlarm(ctx context.Context, a *kvdpb.Alarm) error {
	return n.updateAndFollow(ctx, &kvdpb.RaiseAlarm{Alarm: a})
}

// ClearAlarm ends an alarm on all members; with anyCause all of its member and
// type. When it returns, this member has applied that.
func (n *Node) ClearAlarm(ctx context.Context, a *kvdpb.Alarm, anyCause bool) error {
	return n.updateAndFollow(ctx, &kvdpb.ClearAlarm{Alarm: a, AnyCause: anyCause})
}

// SetDowngrade takes note of the version to go back to; empty ends that.
func (n *Node) SetDowngrade(ctx context.Context, target string) error {
	return n.updateAndFollow(ctx, &kvdpb.Downgrade{Target: target})
}

// updateAndFollow applies a change everywhere, and returns once it shows here.
func (n *Node) updateAndFollow(ctx context.Context, change any) error {
	if _, err := n.Update(ctx, command(change)); err != nil {
		return err
	}
	return n.Barrier(ctx)
}
