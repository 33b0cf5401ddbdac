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
	shards := s.held(a.Member, a.Shards)
	if len(shards) == 0 && len(a.Shards) > 0 {
		return applied() // it is about replicas that are gone
	}
	at, found := slices.BinarySearchFunc(s.alarms, a, compareAlarms)
	if found {
		s.addShards(at, shards)
		return applied()
	}
	if len(s.alarms) >= maxAlarms {
		return reject(kvdpb.PlacementResult_INVALID, "%d alarms stand already", len(s.alarms))
	}
	added := proto.CloneOf(a)
	added.Shards = shards
	s.alarms = slices.Insert(slices.Clone(s.alarms), at, added)
	s.dirty.meta = true
	return applied()
}

// held returns, in order, those of the shards of which a member has a replica that does
// not just join.
func (s *State) held(member uint64, shards []uint64) (held []uint64) {
	for _, id := range shards {
		if r := replicaOn(s.shards[id], member); r != nil && !r.Joining {
			held = append(held, id)
		}
	}
	slices.Sort(held)
	return slices.Compact(held)
}

// addShards has the alarm at a place of the list name more shards.
func (s *State) addShards(at int, shards []uint64) {
	all := slices.Concat(s.alarms[at].Shards, shards)
	slices.Sort(all)
	if all = slices.Compact(all); len(all) == len(s.alarms[at].Shards) {
		return
	}
	next := proto.CloneOf(s.alarms[at])
	next.Shards = all
	s.alarms = slices.Clone(s.alarms)
	s.alarms[at] = next
	s.dirty.meta = true
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
