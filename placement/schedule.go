package placement

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.uber.org/zap"
)

// Schedule decides which changes of replicas to begin now. It is pure: what it is
// shown decides. alive tells whether a member is connected.
//
// In this order: a replica on a departed member that is dead is taken out, if a
// majority of the others is alive; a shard that has too few replicas gets one; a
// replica on a departing member moves, or is taken out where it can move nowhere;
// a shard that has too many loses one; and while there is nothing of that to do,
// replicas move from members that have two more than others.
//
// A dead replica is taken out before a new one comes, because a group of three
// with one dead survives no more losses than a group of two; and it could not
// vouch for the newcomer's snapshot.
//
// Each shard has one change at a time, the cluster has at most Settings.MaxChanges.
// Balancing needs a difference of two, so that it never undoes what it did.
func Schedule(v *View, alive func(member uint64) bool) []*kvdpb.PlacementCommand {
	s := newSchedule(v, alive)
	if s.budget <= 0 {
		return nil
	}
	if orDefault(v.Settings.Repair, true) {
		s.repair()
	}
	if orDefault(v.Settings.BalanceReplicas, true) && len(s.commands) == 0 && s.changing == 0 {
		s.balance()
	}
	return s.commands
}

// GiveUps decides which replicas that join are given up, because their members are
// lost: gone for so long, or removed, that they would hold their shards up. A shard
// whose replicas change can be neither repaired nor split.
func GiveUps(v *View, lost func(member uint64) bool) []*kvdpb.PlacementCommand {
	var commands []*kvdpb.PlacementCommand
	for _, d := range v.Map.live {
		if r := changing(d); r != nil && r.Joining && (v.Member(r.Member) == nil || lost(r.Member)) {
			commands = append(commands, removal(d, r))
		}
	}
	return commands
}

func removal(d *kvdpb.Descriptor, r *kvdpb.Replica) *kvdpb.PlacementCommand {
	return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_RemoveReplica{
		RemoveReplica: &kvdpb.RemoveReplica{Shard: d.Shard, Config: d.Config, Replica: r.Replica}}}
}

type schedule struct {
	view  *View
	alive func(uint64) bool
	// members are those that may get replicas, by id.
	members []*kvdpb.Member
	// load counts the replicas of each member, those that are on their way included.
	load map[uint64]int
	// target is how many replicas a shard shall have.
	target   int
	changing int
	budget   int
	commands []*kvdpb.PlacementCommand
}

func newSchedule(v *View, alive func(uint64) bool) *schedule {
	s := &schedule{view: v, alive: alive, load: map[uint64]int{}}
	for _, m := range v.Members {
		if !m.Learner && m.Name != "" {
			s.members = append(s.members, m)
			s.load[m.Id] = 0
		}
	}
	s.target = min(int(orDefault(v.Settings.Replicas, defaultReplicas)), len(s.members))
	for _, d := range v.Map.byID {
		if changing(d) != nil {
			s.changing++
		}
		for _, r := range d.Replicas {
			if !r.Leaving {
				s.load[r.Member]++
			}
		}
	}
	s.budget = int(orDefault(v.Settings.MaxChanges, defaultMaxChanges)) - s.changing
	return s
}

// settled lists the shards whose replicas may change now: those with the fewest
// replicas that can be counted on first.
func (s *schedule) settled() []*kvdpb.Descriptor {
	var all []*kvdpb.Descriptor
	for _, d := range s.view.Map.live {
		if Doing(s.view.Map, d) == "" {
			all = append(all, d)
		}
	}
	sound := func(d *kvdpb.Descriptor) int {
		n := 0
		for _, r := range d.Replicas {
			if s.view.Member(r.Member) != nil && s.alive(r.Member) {
				n++
			}
		}
		return n
	}
	slices.SortStableFunc(all, func(a, b *kvdpb.Descriptor) int {
		return cmp.Or(cmp.Compare(sound(a), sound(b)), cmp.Compare(a.Shard, b.Shard))
	})
	return all
}

func unseeded(d *kvdpb.Descriptor) bool {
	return slices.ContainsFunc(d.Replicas, func(r *kvdpb.Replica) bool {
		return !r.Joining && !slices.Contains(d.Seeded, r.Member)
	})
}

func (s *schedule) repair() {
	for _, d := range s.settled() {
		if len(s.commands) == s.budget {
			return
		}
		s.repairShard(d)
	}
}

func (s *schedule) repairShard(d *kvdpb.Descriptor) {
	var departing *kvdpb.Replica
	staying := 0
	for _, r := range d.Replicas {
		if s.view.Member(r.Member) != nil {
			staying++
			continue
		}
		if departing == nil || (s.alive(departing.Member) && !s.alive(r.Member)) {
			departing = r
		}
	}
	if departing != nil && !s.alive(departing.Member) {
		if s.survives(d, departing) {
			s.remove(d, departing)
		}
		return
	}
	to := s.lightest(d)
	switch {
	case staying < s.target && to != nil:
		// The departing one, if there is one, leaves when this one votes.
		s.add(d, to, departing)
	case departing != nil && staying > 0:
		s.remove(d, departing)
	case departing == nil && staying > s.target && s.target > 0:
		s.remove(d, s.heaviest(d))
	}
}

// survives tells whether a majority of the replicas without r is alive.
func (s *schedule) survives(d *kvdpb.Descriptor, r *kvdpb.Replica) bool {
	rest, up := 0, 0
	for _, o := range d.Replicas {
		if o == r {
			continue
		}
		rest++
		if s.alive(o.Member) {
			up++
		}
	}
	return up > rest/2
}

// lightest is the member with the fewest replicas among those that can take one
// of the shard.
func (s *schedule) lightest(d *kvdpb.Descriptor) *kvdpb.Member {
	var best *kvdpb.Member
	for _, m := range s.members {
		has := slices.ContainsFunc(d.Replicas, func(r *kvdpb.Replica) bool { return r.Member == m.Id })
		if !has && s.alive(m.Id) && (best == nil || s.load[m.Id] < s.load[best.Id]) {
			best = m
		}
	}
	return best
}

// heaviest is the replica of the shard whose member has the most replicas; a dead
// member's comes first.
func (s *schedule) heaviest(d *kvdpb.Descriptor) *kvdpb.Replica {
	var worst *kvdpb.Replica
	weight := func(r *kvdpb.Replica) int {
		if !s.alive(r.Member) {
			return 1 << 30
		}
		return s.load[r.Member]
	}
	for _, r := range d.Replicas {
		if worst == nil || weight(r) > weight(worst) {
			worst = r
		}
	}
	return worst
}

// balance moves replicas from members that have at least two more than others.
func (s *schedule) balance() {
	for _, d := range s.settled() {
		if len(s.commands) == s.budget {
			return
		}
		to := s.lightest(d)
		from := s.heaviest(d)
		if to == nil || from == nil || s.view.Member(from.Member) == nil || !s.alive(from.Member) || len(d.Replicas) != s.target {
			continue
		}
		if s.load[from.Member]-s.load[to.Id] >= 2 {
			s.add(d, to, from)
		}
	}
}

func (s *schedule) add(d *kvdpb.Descriptor, to *kvdpb.Member, replaces *kvdpb.Replica) {
	c := &kvdpb.AddReplica{Shard: d.Shard, Config: d.Config, Member: to.Id}
	s.load[to.Id]++
	if replaces != nil {
		c.Replaces = replaces.Replica
		s.load[replaces.Member]--
	}
	s.commands = append(s.commands, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_AddReplica{AddReplica: c}})
}

func (s *schedule) remove(d *kvdpb.Descriptor, r *kvdpb.Replica) {
	s.load[r.Member]--
	s.commands = append(s.commands, removal(d, r))
}

// scheduleEvery is how often the scheduler looks for what no news announces:
// members that are lost or come back.
const scheduleEvery = 500 * time.Millisecond

// lostAfter is how long a member is gone until what it is being given is given to
// others.
const lostAfter = time.Minute

// absences remembers since when members are not connected.
type absences map[uint64]time.Time

// look takes note of who is there now.
func (a absences) look(members []*kvdpb.Member, alive func(uint64) bool, now time.Time) {
	for _, m := range members {
		if _, noted := a[m.Id]; alive(m.Id) {
			delete(a, m.Id)
		} else if !noted {
			a[m.Id] = now
		}
	}
}

// lost tells whether a member has been gone for long.
func (a absences) lost(member uint64, now time.Time) bool {
	since, gone := a[member]
	return gone && now.Sub(since) >= lostAfter
}

// runScheduler begins what Schedule decides, while this member is the sequencer.
func (n *Node) runScheduler() {
	if n.cfg.Alive == nil {
		return
	}
	tick := time.NewTicker(scheduleEvery)
	defer tick.Stop()
	gone := absences{}
	for {
		changed := n.next()
		now := time.Now()
		gone.look(n.Members(), n.cfg.Alive, now)
		if n.Serving() {
			n.carryOut(GiveUps(n.View(), func(m uint64) bool { return gone.lost(m, now) }))
			n.carryOut(Schedule(n.View(), n.cfg.Alive))
		}
		select {
		case <-n.ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

// ScheduleNow decides and begins as the scheduler does, and tells what in words;
// name says how a member is called. It does nothing unless this member is the
// sequencer.
func (n *Node) ScheduleNow(name func(member uint64) string) []string {
	if n.cfg.Alive == nil || !n.Serving() {
		return nil
	}
	var told []string
	for _, cmd := range n.carryOut(Schedule(n.View(), n.cfg.Alive)) {
		switch c := cmd.GetCommand().(type) {
		case *kvdpb.PlacementCommand_AddReplica:
			told = append(told, fmt.Sprintf("give %s a replica of shard %d", name(c.AddReplica.Member), c.AddReplica.Shard))
		case *kvdpb.PlacementCommand_RemoveReplica:
			told = append(told, fmt.Sprintf("take replica %d of shard %d away", c.RemoveReplica.Replica, c.RemoveReplica.Shard))
		}
	}
	return told
}

// carryOut begins changes, and returns those that were begun.
func (n *Node) carryOut(commands []*kvdpb.PlacementCommand) (begun []*kvdpb.PlacementCommand) {
	for _, cmd := range commands {
		ctx, cancel := context.WithTimeout(n.ctx, 2*n.cfg.Election)
		_, err := n.Update(ctx, cmd)
		cancel()
		if err != nil {
			// Decided on a view that has passed; the next one decides again.
			n.log.Debug("placement: a change of replicas was not begun", zap.Error(err))
			return begun
		}
		begun = append(begun, cmd)
		n.log.Info("placement: begins a change of replicas", zap.Stringer("command", cmd))
	}
	return begun
}
