package manager

import (
	"slices"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// observed is what the member knows of one shard's replica of its own.
type observed struct {
	// running: the replica is started.
	running bool
	// hasSeed: its directory with a whole store exists.
	hasSeed bool
	// hasLog: the raft log knows the replica.
	hasLog bool
	// started, removed: the durable marks.
	started, removed bool
	// other: another replica of the shard is still running here.
	other bool
	// busy: a step of the shard is under way, and nothing else is known.
	busy bool

	// Of a running replica:

	// pending is the child of a split that its state shows, zero if none.
	pending uint64
	// serving: this member owns the shard and serves it, in epoch.
	serving bool
	epoch   uint64
	// proposed is the child whose split this process proposed in epoch
	// proposedIn, or is about to propose.
	proposed, proposedIn uint64
}

// kind is what to do next for a shard.
type kind string

const (
	// seed: make the seed of the shard from its parent, and confirm it.
	seed kind = "seed"
	// confirm: tell placement of a seed that exists.
	confirm kind = "confirm"
	// start: start the replica.
	start kind = "start"
	// done: log SplitDone of the shard's pending child.
	done kind = "done"
	// abort: give up a reserved child whose split can no longer apply.
	abort kind = "abort"
	// retire: stop a replica that placement names no more, and remove its data.
	retire kind = "retire"
	// lost: the replica cannot start, because its raft log or its store is gone.
	lost kind = "lost"
)

// action is one step for one shard.
type action struct {
	kind  kind
	shard uint64
	// replica is this member's replica id, for seed, confirm, start, retire and lost.
	replica uint64
	// child is the shard that done and abort are about.
	child uint64
	// first: start for the first time, with the initial list.
	first bool
	// join: start for the first time, in a group that runs already.
	join bool
	// campaign: this member owned the parent, and should lead the child.
	campaign bool
}

// view is one look at placement and at the member.
type view struct {
	member uint64
	shards []*kvdpb.Descriptor
	local  map[uint64]observed
	// here are the replicas that this member runs or has on its disk.
	here []place
}

// place names a replica.
type place struct{ shard, replica uint64 }

// decide returns the next step of each shard that needs one.
func decide(v view) []action {
	var actions []action
	byID := make(map[uint64]*kvdpb.Descriptor, len(v.shards))
	// orphans are the children that nobody holds a seed of, by their parents.
	orphans := map[uint64][]uint64{}
	for _, d := range v.shards {
		byID[d.Shard] = d
		if d.Parent != 0 && d.Phase == kvdpb.Descriptor_SEEDING && len(d.Seeded) == 0 {
			orphans[d.Parent] = append(orphans[d.Parent], d.Shard)
		}
	}
	for _, p := range v.here {
		if findReplica(byID[p.shard], p.replica) == nil {
			actions = append(actions, action{kind: retire, shard: p.shard, replica: p.replica})
		}
	}
	for _, d := range v.shards {
		replica, mine := replicaOf(d, v.member)
		if mine {
			if a, ok := decideReplica(v, d, replica); ok {
				actions = append(actions, a)
			}
		}
		if a, ok := decideSplit(v, d, byID, orphans[d.Shard]); ok {
			actions = append(actions, a)
		}
	}
	return actions
}

// related returns the descriptors that the steps of a shard depend on: its own, its
// parent's, and its children's.
func related(all []*kvdpb.Descriptor, shard uint64) []*kvdpb.Descriptor {
	var parent uint64
	var some []*kvdpb.Descriptor
	for _, d := range all {
		switch {
		case d.Shard == shard:
			parent = d.Parent
			some = append(some, d)
		case d.Parent == shard:
			some = append(some, d)
		}
	}
	if parent == 0 {
		return some
	}
	if i := slices.IndexFunc(all, func(d *kvdpb.Descriptor) bool { return d.Shard == parent }); i >= 0 {
		some = append(some, all[i])
	}
	return some
}

// replicaOf returns the member's replica in the shard.
func replicaOf(d *kvdpb.Descriptor, member uint64) (uint64, bool) {
	for _, r := range d.Replicas {
		if r.Member == member {
			return r.Replica, true
		}
	}
	return 0, false
}

func findReplica(d *kvdpb.Descriptor, replica uint64) *kvdpb.Replica {
	for _, r := range d.GetReplicas() {
		if r.Replica == replica {
			return r
		}
	}
	return nil
}

// began tells whether a replica is one that the group began with; the others
// joined it.
func began(d *kvdpb.Descriptor, replica uint64) bool {
	return slices.ContainsFunc(d.Initial, func(r *kvdpb.Replica) bool { return r.Replica == replica })
}

// decideReplica brings this member's replica of a shard to life.
func decideReplica(v view, d *kvdpb.Descriptor, replica uint64) (action, bool) {
	o := v.local[d.Shard]
	joined := !began(d, replica)
	confirmed := d.Parent == 0 || joined || slices.Contains(d.Seeded, v.member)
	switch {
	case o.removed || o.other || o.busy:
		return action{}, false
	case o.running:
		return action{kind: confirm, shard: d.Shard, replica: replica}, !confirmed
	case o.hasLog && o.hasSeed:
		return action{kind: start, shard: d.Shard, replica: replica}, true
	case o.started || o.hasLog:
		return action{kind: lost, shard: d.Shard, replica: replica}, true
	case d.Restored && !o.hasSeed && slices.ContainsFunc(d.Initial, func(r *kvdpb.Replica) bool { return r.Replica == replica }):
		// What the snapshot file held is not here, and nobody else has to give it.
		return action{kind: lost, shard: d.Shard, replica: replica}, true
	case joined:
		// A replica that was given up before it came is not brought to life.
		return action{kind: start, shard: d.Shard, replica: replica, first: true, join: true}, !findReplica(d, replica).Leaving
	case d.Parent != 0 && !o.hasSeed:
		// Without the parent's frozen span there is nothing to make it from.
		return action{kind: seed, shard: d.Shard, replica: replica}, v.local[d.Parent].pending == d.Shard
	case !confirmed:
		return action{kind: confirm, shard: d.Shard, replica: replica}, true
	case d.Phase != kvdpb.Descriptor_LIVE:
		return action{}, false
	}
	return action{
		kind: start, shard: d.Shard, replica: replica, first: true,
		campaign: d.Parent != 0 && v.local[d.Parent].serving,
	}, true
}

// decideSplit moves a split of a shard on that this member owns, or clears away
// one that never was.
func decideSplit(v view, parent *kvdpb.Descriptor, byID map[uint64]*kvdpb.Descriptor, orphans []uint64) (action, bool) {
	o := v.local[parent.Shard]
	if !o.running || !o.serving {
		return action{}, false
	}
	if o.pending != 0 {
		child := byID[o.pending]
		if child == nil || child.Phase != kvdpb.Descriptor_LIVE {
			return action{}, false
		}
		for _, r := range child.Replicas {
			if !slices.Contains(child.Seeded, r.Member) {
				return action{}, false
			}
		}
		return action{kind: done, shard: parent.Shard, child: o.pending}, true
	}
	for _, child := range orphans {
		mine := o.proposed == child && o.proposedIn == o.epoch
		if !mine {
			return action{kind: abort, shard: parent.Shard, child: child}, true
		}
	}
	return action{}, false
}
