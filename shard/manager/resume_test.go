package manager

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// TestOperationsResumeFromEveryPhase: whoever crashes, before whichever effect of an operation on placement, on raft's
// membership or on a disk, the operation comes to its end once that member is back, or is given up where that member
// counts as lost and was to get a replica; and nothing of it is left over anywhere.
func TestOperationsResumeFromEveryPhase(t *testing.T) {
	replica := func(w *world, member uint64) bool {
		_, held := replicaOf(w.placed.shards[2], member)
		return held
	}
	for _, op := range []struct {
		name  string
		begin func(*world)
		// done tells whether the operation has come to its end; lost is the member that
		// counted as lost, zero for none.
		done func(w *world, lost uint64) bool
	}{
		{"move of a follower's replica", func(w *world) { w.ask(func() { w.placed.add(2, 40, 2) }) },
			func(w *world, lost uint64) bool {
				return replica(w, 40) != replica(w, 20) && (replica(w, 40) || lost == 40)
			}},
		{"move of the owner's replica", func(w *world) { w.ask(func() { w.placed.add(2, 40, 1) }) },
			func(w *world, lost uint64) bool {
				return replica(w, 40) != replica(w, 10) && (replica(w, 40) || lost == 40)
			}},
		{"move that is cancelled", func(w *world) {
			w.ask(func() { w.placed.add(2, 40, 2) })
			w.ask(func() { w.placed.remove(2, 4) })
		}, func(w *world, _ uint64) bool { return replica(w, 20) && !replica(w, 40) }},
		{"one replica more", func(w *world) { w.ask(func() { w.placed.add(2, 40, 0) }) },
			func(w *world, lost uint64) bool { return replica(w, 40) || lost == 40 }},
		{"one replica less", func(w *world) { w.ask(func() { w.placed.remove(2, 3) }) },
			func(w *world, _ uint64) bool { return !replica(w, 30) }},
		{"rebuild of a follower's replica", func(w *world) { w.ask(func() { w.placed.rebuild(2, 3, true) }) },
			func(w *world, lost uint64) bool { return w.rebuilt(30, 3) || lost == 30 }},
		{"rebuild of the owner's replica", func(w *world) { w.ask(func() { w.placed.rebuild(2, 1, true) }) },
			func(w *world, lost uint64) bool { return w.rebuilt(10, 1) || lost == 10 }},
		{"rebuild that is cancelled", func(w *world) {
			w.ask(func() { w.placed.rebuild(2, 3, true) })
			w.ask(func() { w.placed.rebuild(2, 3, false) })
		}, func(w *world, _ uint64) bool { return replica(w, 30) && !w.rebuilt(30, 3) }},
		{"split", (*world).split, func(w *world, lost uint64) bool { return len(w.placed.shards) == 2 || w.crashedIn(10) }},
	} {
		t.Run(op.name, func(t *testing.T) {
			whole := newWorld(t, op.name)
			op.begin(whole)
			whole.settle()
			whole.check()
			require.True(t, op.done(whole, 0))
			require.Greater(t, whole.effects, 1)
			for at := 1; at <= whole.effects; at++ {
				for _, victim := range []uint64{10, 20, 30, 40} {
					for _, lost := range []bool{false, true} {
						w := newWorld(t, fmt.Sprintf("%s, %d crashes before effect %d, lost: %v", op.name, victim, at, lost))
						w.crashAt, w.victim, w.lost = at, victim, lost
						op.begin(w)
						w.settle()
						w.machines[victim].up = true
						w.settle()
						w.check()
						gone := uint64(0)
						if lost {
							gone = victim
						}
						require.True(t, op.done(w, gone), "%s: %v", w.name, w.placed.shards)
					}
				}
			}
		})
	}
}

// world is four members and one shard, 2, of which the first three have replicas. It is carried on by what decide and
// decideChange say, one effect at a time.
type world struct {
	t        *testing.T
	name     string
	placed   twin
	groups   map[uint64]*group
	machines map[uint64]*machine
	// effects counts them; before the one numbered crashAt the victim crashes. lost: while
	// it is down, what it is being given is given up.
	effects, crashAt int
	victim           uint64
	lost             bool
}

// machine is a member: what survives a crash, and what does not.
type machine struct {
	stores, logs, started, removed map[place]bool

	up       bool
	running  map[uint64]uint64
	proposed map[uint64]proposal
}

// group is what raft knows of a shard.
type group struct {
	voters, nonVoting map[uint64]uint64
	// gone were taken out, data hold what was acknowledged.
	gone, data   map[uint64]bool
	owner, epoch uint64
	// pending is the child of a split that was logged.
	pending uint64
}

func newWorld(t *testing.T, name string) *world {
	w := &world{t: t, name: name, groups: map[uint64]*group{}, machines: map[uint64]*machine{}}
	rs := replicas(10, 20, 30)
	w.placed.shards = map[uint64]*kvdpb.Descriptor{2: {Shard: 2, Replicas: rs, Initial: rs}}
	for _, id := range []uint64{10, 20, 30, 40} {
		w.machines[id] = &machine{
			stores: map[place]bool{}, logs: map[place]bool{}, started: map[place]bool{}, removed: map[place]bool{},
			up: true, running: map[uint64]uint64{}, proposed: map[uint64]proposal{},
		}
	}
	w.settle()
	w.check()
	w.effects = 0
	return w
}

// effect has a member do something that others or its later self will see. It is false if the member is down.
func (w *world) effect(member uint64, do func()) bool {
	w.effects++
	if w.effects == w.crashAt {
		w.crash()
	}
	if m := w.machines[member]; m != nil && !m.up {
		return false
	}
	do()
	return true
}

// ask is an effect of somebody who does not crash.
func (w *world) ask(do func()) { w.effect(0, do) }

func (w *world) crash() {
	m := w.machines[w.victim]
	m.up = false
	clear(m.running)
	clear(m.proposed)
}

func (w *world) crashedIn(member uint64) bool { return w.crashAt > 0 && w.victim == member }

// split is what Manager.Split does at the owner of shard 2.
func (w *world) split() {
	g := w.groups[2]
	owner := g.owner
	_ = w.effect(owner, func() {
		child := w.placed.beginSplit(2)
		w.machines[owner].proposed[2] = proposal{child: child, epoch: g.epoch}
	}) && w.effect(owner, func() { g.pending = w.machines[owner].proposed[2].child })
}

// settle goes on until nobody has anything to do.
func (w *world) settle() {
	for range 1000 {
		w.elect()
		acted := false
		for _, id := range slices.Sorted(maps.Keys(w.machines)) {
			if !w.machines[id].up {
				continue
			}
			for _, a := range decide(w.look(id)) {
				// As in Manager: the step before may have changed what is to be done.
				again := w.look(id)
				again.shards = related(again.shards, a.shard)
				if w.machines[id].up && slices.Contains(decide(again), a) {
					w.perform(id, a)
					acted = true
				}
			}
		}
		for _, id := range slices.Sorted(maps.Keys(w.groups)) {
			w.elect()
			acted = w.change(id) || acted
		}
		if !w.giveUps() && !acted {
			return
		}
	}
	w.t.Fatalf("%s: never comes to rest: %v", w.name, w.placed.shards)
}

// elect gives each group an owner of which a majority of its voters runs, and takes it from the others.
func (w *world) elect() {
	for id, g := range w.groups {
		running, next, stays := 0, uint64(0), false
		for _, replica := range slices.Sorted(maps.Keys(g.voters)) {
			member := g.voters[replica]
			if w.machines[member].running[id] != replica {
				continue
			}
			running++
			stays = stays || member == g.owner
			if next == 0 && g.data[replica] {
				next = member
			}
		}
		switch {
		case running <= len(g.voters)/2:
			g.owner = 0
		case !stays:
			g.owner = next
			g.epoch++
		}
	}
}

// look is Manager.look.
func (w *world) look(member uint64) view {
	m := w.machines[member]
	v := view{member: member, local: map[uint64]observed{}}
	here := maps.Clone(m.stores)
	for id, replica := range m.running {
		here[place{id, replica}] = true
	}
	v.here = slices.SortedFunc(maps.Keys(here), func(a, b place) int {
		return int(100*(int64(a.shard)-int64(b.shard)) + int64(a.replica) - int64(b.replica))
	})
	for _, id := range slices.Sorted(maps.Keys(w.placed.shards)) {
		d := w.placed.shards[id]
		v.shards = append(v.shards, d)
		replica, mine := replicaOf(d, member)
		running, runs := m.running[id]
		at := place{id, replica}
		switch {
		case !mine:
		case runs && running != replica:
			v.local[id] = observed{other: true}
		case runs:
			g := w.groups[id]
			v.local[id] = observed{running: true, hasSeed: true, hasLog: true, started: true, pending: g.pending, serving: g.owner == member,
				epoch: g.epoch, proposed: m.proposed[id].child, proposedIn: m.proposed[id].epoch}
		default:
			v.local[id] = observed{hasLog: m.logs[at], hasSeed: m.stores[at], started: m.started[at], removed: m.removed[at]}
		}
	}
	return v
}

// perform is Manager.perform.
func (w *world) perform(member uint64, a action) {
	m, at := w.machines[member], place{a.shard, a.replica}
	switch a.kind {
	case seed:
		_ = w.effect(member, func() { m.stores[at] = true }) && w.effect(member, func() { w.placed.confirm(a.shard, member) })
	case confirm:
		w.effect(member, func() { w.placed.confirm(a.shard, member) })
	case start:
		w.start(member, a)
	case done:
		w.effect(member, func() {
			for _, r := range w.placed.shards[a.child].Replicas {
				require.True(w.t, w.machines[r.Member].stores[place{a.child, r.Replica}], "%s: the frozen span goes and member %d has nothing of it", w.name, r.Member)
			}
			w.groups[a.shard].pending = 0
		})
	case abort:
		w.effect(member, func() {
			require.NotEqual(w.t, a.child, w.groups[a.shard].pending, "%s: a split that was logged is given up", w.name)
			delete(w.placed.shards, a.child)
		})
	case retire:
		if g := w.groups[a.shard]; g != nil {
			require.NotContains(w.t, g.voters, a.replica, "%s: a replica that votes is removed", w.name)
			require.NotContains(w.t, g.nonVoting, a.replica, "%s: a replica of the group is removed", w.name)
		}
		_ = w.effect(member, func() { m.removed[at] = true }) &&
			w.effect(member, func() { delete(m.running, a.shard) }) &&
			w.effect(member, func() { delete(m.logs, at) }) &&
			w.effect(member, func() { delete(m.stores, at) })
	default:
		w.t.Fatalf("%s: %s of replica %d of shard %d on member %d", w.name, a.kind, a.replica, a.shard, member)
	}
}

func (w *world) start(member uint64, a action) {
	m, at := w.machines[member], place{a.shard, a.replica}
	d := w.placed.shards[a.shard]
	require.False(w.t, m.removed[at], "%s: a replica that was removed comes back", w.name)
	if a.first {
		require.False(w.t, m.started[at], "%s: a replica starts for the first time again", w.name)
		if !w.effect(member, func() { m.stores[at] = true }) {
			return
		}
	}
	_ = w.effect(member, func() {
		m.logs[at] = true
		g := w.groups[a.shard]
		if g == nil {
			require.False(w.t, a.join, "%s: joins a group that does not exist", w.name)
			g = &group{voters: map[uint64]uint64{}, nonVoting: map[uint64]uint64{}, gone: map[uint64]bool{}, data: map[uint64]bool{}}
			for _, r := range d.Initial {
				g.voters[r.Replica] = r.Member
			}
			w.groups[a.shard] = g
		}
		if !a.join && a.first {
			g.data[a.replica] = true
		}
	}) && w.effect(member, func() {
		m.started[at] = true
		m.running[a.shard] = a.replica
	})
}

// reached is Manager.ask: whoever runs in a group with an owner is fed.
func (w *world) reached(id uint64, r *kvdpb.Replica) progress {
	m := w.machines[r.Member]
	if !m.up || m.running[id] != r.Replica {
		return behind
	}
	w.groups[id].data[r.Replica] = true
	return caughtUp
}

// change is Manager.reshapeOnce at the owner. It is false if there is nothing to do.
func (w *world) change(id uint64) bool {
	g, d := w.groups[id], w.placed.shards[id]
	if g.owner == 0 || !changing(d) {
		return false
	}
	alive := func(member uint64) bool { return w.machines[member].up }
	self, owner := w.machines[g.owner].running[id], g.owner
	raft := multiraft.Membership{Voters: maps.Clone(g.voters), NonVoting: maps.Clone(g.nonVoting)}
	step, ok := decideChange(d, raft, self, 0, unasked, alive, alive)
	if ok && step.change == changeAsk {
		step, ok = decideChange(d, raft, self, 0, w.reached(id, step.replica), alive, alive)
	}
	if !ok {
		return false
	}
	r := step.replica
	if step.change == changeHandOver && w.reached(id, r) != caughtUp {
		return false
	}
	w.effect(owner, func() {
		if w.elect(); g.owner != owner {
			return // without a majority nothing is logged
		}
		switch step.change {
		case changeAdd:
			require.False(w.t, g.gone[r.Replica], "%s: replica %d joins again", w.name, r.Replica)
			g.nonVoting[r.Replica] = r.Member
		case changePromote:
			require.True(w.t, g.data[r.Replica], "%s: replica %d votes without data", w.name, r.Replica)
			delete(g.nonVoting, r.Replica)
			g.voters[r.Replica] = r.Member
		case changeRemove:
			delete(g.nonVoting, r.Replica)
			delete(g.voters, r.Replica)
			g.gone[r.Replica] = true
			hold := 0
			for replica := range g.voters {
				if g.data[replica] {
					hold++
				}
			}
			require.Greater(w.t, hold, len(g.voters)/2, "%s: no majority is left that holds the data", w.name)
		case changeHandOver:
			g.owner = r.Member
			g.epoch++
		case changeTellPromoted:
			w.placed.promote(id, r.Replica)
		case changeTellDropped:
			w.placed.drop(id, r.Replica)
		case changeLetGo, changeGiveUp:
			w.placed.remove(id, r.Replica)
		default:
			w.t.Fatalf("%s: unknown change %s", w.name, step.change)
		}
	})
	return true
}

// giveUps is placement's rule: what a lost member is being given is given up.
func (w *world) giveUps() (acted bool) {
	for _, d := range w.placed.shards {
		for _, r := range d.Replicas {
			if w.lost && r.Joining && !w.machines[r.Member].up {
				w.placed.remove(d.Shard, r.Replica)
				acted = true
			}
		}
	}
	return acted
}

// rebuilt tells whether a member has another replica of the shard than it had.
func (w *world) rebuilt(member, former uint64) bool {
	now, held := replicaOf(w.placed.shards[2], member)
	return held && now > former
}

// check tells what must be so at rest: placement, raft and all disks say the same, and all that should run does.
func (w *world) check() {
	for id, d := range w.placed.shards {
		require.Equal(w.t, live, d.Phase, w.name)
		require.False(w.t, changing(d), "%s: %v", w.name, d)
		g := w.groups[id]
		require.NotNil(w.t, g, w.name)
		require.NotZero(w.t, g.owner, w.name)
		require.Zero(w.t, g.pending, w.name)
		require.Empty(w.t, g.nonVoting, w.name)
		voters := map[uint64]uint64{}
		for _, r := range d.Replicas {
			voters[r.Replica] = r.Member
			require.Equal(w.t, r.Replica, w.machines[r.Member].running[id], "%s: shard %d on member %d", w.name, id, r.Member)
			require.True(w.t, d.Parent == 0 || slices.Contains(d.Seeded, r.Member), "%s: shard %d", w.name, id)
		}
		require.Equal(w.t, voters, g.voters, w.name)
	}
	for member, m := range w.machines {
		held := map[place]bool{}
		for id, d := range w.placed.shards {
			if replica, mine := replicaOf(d, member); mine {
				held[place{id, replica}] = true
			}
		}
		require.Equal(w.t, held, m.stores, "%s: stores of member %d", w.name, member)
		require.Equal(w.t, held, m.logs, "%s: logs of member %d", w.name, member)
		require.Len(w.t, m.running, len(held), "%s: member %d", w.name, member)
	}
}
