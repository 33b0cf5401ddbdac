package placement

import (
	"cmp"
	"slices"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Schedule decides which changes of replicas to begin now. It is pure: what it is
// shown decides. alive tells whether a member is connected, gone whether it has been
// away for so long that its replicas are rebuilt elsewhere.
//
// In this order: a replica on a departed member that is dead is taken out, if a
// majority of the others is alive, and so is one on a member that is gone, if there
// is another member to hold it; a shard that has too few replicas gets one; a
// replica on a departing member moves, or is taken out where it can move nowhere;
// a shard that has too many loses one; and while there is nothing of that to do,
// replicas move from members that have two more than others. Shards that have the
// fewest replicas to count on come first.
//
// A dead replica is taken out before a new one comes, because a group of three
// with one dead survives no more losses than a group of two; and it could not
// vouch for the newcomer's snapshot.
//
// Each shard has one change at a time, each member is given [maxIncoming] replicas
// at a time, and the cluster has at most Settings.MaxChanges for every
// [changesMembers] members. Balancing needs a difference of two, counted as if what
// is under way were done, so that it never undoes what it did.
//
// It looks at each shard a bounded number of times, whatever the number of members.
func Schedule(v *View, alive, gone func(member uint64) bool) []*kvdpb.PlacementCommand {
	s := newSchedule(v, alive, gone)
	if s.budget <= 0 {
		return nil
	}
	if orDefault(v.Settings.Repair, true) {
		s.repair()
	}
	if orDefault(v.Settings.BalanceReplicas, true) && len(s.commands) == 0 && !s.repairing {
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

const (
	// maxIncoming is how many replicas one member is given at a time: each is a copy
	// of a shard that it receives and writes.
	maxIncoming = 4
	// changesMembers is for how many members Settings.MaxChanges holds. Changes of
	// different members do not hinder each other, and without more of them a member
	// of a large cluster would take the longer to rebuild the larger the cluster is.
	changesMembers = 8
)

// seat is what the scheduler knows of one member.
type seat struct {
	id uint64
	// belongs: it was not removed.
	belongs, alive, gone bool
	// replicas counts as if what is under way were done.
	replicas int
	// incoming counts the replicas that it is being given.
	incoming int
}

type schedule struct {
	view    *View
	members map[uint64]*seat
	// takers are the members that may get replicas, those with the fewest first.
	takers []*seat
	// target is how many replicas a shard shall have.
	target int
	// repairing: a change is under way that does not merely balance.
	repairing bool
	budget    int
	commands  []*kvdpb.PlacementCommand
}

func newSchedule(v *View, alive, gone func(uint64) bool) *schedule {
	s := &schedule{view: v, members: make(map[uint64]*seat, len(v.Members)+len(v.Departing))}
	for _, m := range v.Departing {
		s.members[m.Id] = &seat{id: m.Id, alive: alive(m.Id)}
	}
	for _, m := range v.Members {
		st := &seat{id: m.Id, belongs: true, alive: alive(m.Id), gone: gone(m.Id)}
		s.members[m.Id] = st
		if !m.Learner && m.Name != "" {
			s.takers = append(s.takers, st)
		}
	}
	s.target = min(int(orDefault(v.Settings.Replicas, defaultReplicas)), len(s.takers))
	s.budget = int(orDefault(v.Settings.MaxChanges, defaultMaxChanges)) * max((len(s.takers)+changesMembers-1)/changesMembers, 1)
	for _, d := range v.Map.byID {
		for _, r := range d.Replicas {
			if !r.Leaving || r.Rebuild {
				s.of(r.Member).replicas++
			}
		}
		s.count(d)
	}
	s.sortTakers()
	return s
}

// count takes in the change of a shard that is under way.
func (s *schedule) count(d *kvdpb.Descriptor) {
	r := changing(d)
	if r == nil {
		return
	}
	s.budget--
	st := s.of(r.Member)
	old := findReplica(d, r.Replaces)
	switch {
	case r.Leaving:
		s.repairing = s.repairing || !st.belongs || !st.alive
	case old == nil:
		st.incoming++
		s.repairing = true
	default:
		st.incoming++
		from := s.of(old.Member)
		from.replicas--
		s.repairing = s.repairing || !from.belongs || !from.alive
	}
}

// of returns what is known of a member; one that nobody knows is dead.
func (s *schedule) of(member uint64) *seat {
	st := s.members[member]
	if st == nil {
		st = &seat{id: member}
		s.members[member] = st
	}
	return st
}

func (s *schedule) sortTakers() {
	slices.SortFunc(s.takers, func(a, b *seat) int {
		return cmp.Or(cmp.Compare(a.replicas, b.replicas), cmp.Compare(a.id, b.id))
	})
}

func unseeded(d *kvdpb.Descriptor) bool {
	return slices.ContainsFunc(d.Replicas, func(r *kvdpb.Replica) bool {
		return !r.Joining && !slices.Contains(d.Seeded, r.Member)
	})
}

// patient is a shard whose replicas are not what they should be.
type patient struct {
	*kvdpb.Descriptor
	// staying counts the replicas on members that were not removed, sound those of
	// them that can be counted on.
	staying, sound int
	// departing is a replica on a member that was removed, gone one on a member
	// that is away for long; nil for none.
	departing, gone *kvdpb.Replica
}

// examine looks at a shard. ok is false if there is nothing to repair.
func (s *schedule) examine(d *kvdpb.Descriptor) (p patient, ok bool) {
	p.Descriptor = d
	for _, r := range d.Replicas {
		st := s.of(r.Member)
		switch {
		case !st.belongs:
			if p.departing == nil || (s.of(p.departing.Member).alive && !st.alive) {
				p.departing = r
			}
			continue
		case st.alive:
			p.sound++
		case st.gone:
			p.gone = r
		}
		p.staying++
	}
	return p, p.departing != nil || p.gone != nil || p.staying != s.target
}

// repair begins repairs, those first whose shards have the fewest replicas that can
// be counted on.
func (s *schedule) repair() {
	var patients []patient
	for _, d := range s.view.Map.live {
		if p, ok := s.examine(d); ok && Doing(s.view.Map, d) == "" {
			patients = append(patients, p)
		}
	}
	slices.SortFunc(patients, func(a, b patient) int {
		return cmp.Or(cmp.Compare(a.sound, b.sound), cmp.Compare(a.Shard, b.Shard))
	})
	for i := range patients {
		if len(s.commands) >= s.budget {
			return
		}
		s.repairShard(&patients[i])
	}
}

func (s *schedule) repairShard(p *patient) {
	if p.departing != nil && !s.of(p.departing.Member).alive {
		if s.survives(p.Descriptor, p.departing) {
			s.remove(p.Descriptor, p.departing)
		}
		return
	}
	to := s.lightest(p.Descriptor)
	switch {
	case p.departing == nil && p.gone != nil:
		// It stays where nobody else can hold it: it may come back.
		if to != nil && s.survives(p.Descriptor, p.gone) {
			s.remove(p.Descriptor, p.gone)
		}
	case p.staying < s.target && to != nil:
		// The departing one, if there is one, leaves when this one votes.
		s.add(p.Descriptor, to, p.departing)
	case p.departing != nil && p.staying > 0 && (p.staying >= s.target || !s.crowded(p.Descriptor)):
		s.remove(p.Descriptor, p.departing)
	case p.departing == nil && p.staying > s.target && s.target > 0:
		s.remove(p.Descriptor, s.heaviest(p.Descriptor))
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
		if s.of(o.Member).alive {
			up++
		}
	}
	return up > rest/2
}

func holds(d *kvdpb.Descriptor, member uint64) bool {
	return slices.ContainsFunc(d.Replicas, func(r *kvdpb.Replica) bool { return r.Member == member })
}

// lightest is the member with the fewest replicas among those that can take one
// of the shard now.
func (s *schedule) lightest(d *kvdpb.Descriptor) *seat {
	for _, st := range s.takers {
		if st.alive && st.incoming < maxIncoming && !holds(d, st.id) {
			return st
		}
	}
	return nil
}

// crowded tells whether a member could take a replica of the shard, once it has
// got what it is being given.
func (s *schedule) crowded(d *kvdpb.Descriptor) bool {
	return slices.ContainsFunc(s.takers, func(st *seat) bool { return st.alive && !holds(d, st.id) })
}

// heaviest is the replica of the shard whose member has the most replicas; a dead
// member's comes first.
func (s *schedule) heaviest(d *kvdpb.Descriptor) *kvdpb.Replica {
	var worst *kvdpb.Replica
	weight := func(r *kvdpb.Replica) int {
		if st := s.of(r.Member); st.alive {
			return st.replicas
		}
		return 1 << 30
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
	if s.even() {
		return
	}
	// Each version begins elsewhere. From one end, the first shards would be moved
	// again and again.
	live := s.view.Map.live
	start := int(s.view.Map.version * 0x9e3779b97f4a7c15 >> 1 % uint64(max(len(live), 1)))
	for i := range live {
		if len(s.commands) >= s.budget {
			return
		}
		d := live[(start+i)%len(live)]
		if len(d.Replicas) != s.target {
			continue
		}
		from := s.heaviest(d)
		giver := s.of(from.Member)
		to := s.lightest(d)
		if to != nil && giver.belongs && giver.alive && giver.replicas-to.replicas >= 2 && Doing(s.view.Map, d) == "" {
			s.add(d, to, from)
		}
	}
}

// even tells whether no two members can differ by two.
func (s *schedule) even() bool {
	most := 0
	for _, st := range s.members {
		if st.belongs && st.alive {
			most = max(most, st.replicas)
		}
	}
	for _, st := range s.takers {
		if st.alive {
			return most-st.replicas < 2
		}
	}
	return true
}

func (s *schedule) add(d *kvdpb.Descriptor, to *seat, replaces *kvdpb.Replica) {
	c := &kvdpb.AddReplica{Shard: d.Shard, Config: d.Config, Member: to.id}
	to.replicas++
	to.incoming++
	if replaces != nil {
		c.Replaces = replaces.Replica
		s.of(replaces.Member).replicas--
	}
	s.sortTakers()
	s.commands = append(s.commands, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_AddReplica{AddReplica: c}})
}

func (s *schedule) remove(d *kvdpb.Descriptor, r *kvdpb.Replica) {
	s.of(r.Member).replicas--
	s.sortTakers()
	s.commands = append(s.commands, removal(d, r))
}
