package placement

import (
	"fmt"
	"slices"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Operation is what is under way with a shard, as its descriptor and those of its
// children tell; empty for nothing. A shard has one at a time.
type Operation string

const (
	// Splitting: a child of it waits for its seeds.
	Splitting Operation = "split"
	// Moving: a replica joins that replaces another.
	Moving Operation = "move"
	// Adding: a replica joins.
	Adding Operation = "add"
	// Rebuilding: a replica is made anew from the others.
	Rebuilding Operation = "rebuild"
	// Removing: a replica leaves. It only goes forward.
	Removing Operation = "remove"
	// Merging: it is merged with a neighbour.
	Merging Operation = "merge"
)

// Doing tells what is under way with a shard.
func Doing(m *Map, d *kvdpb.Descriptor) Operation {
	if d.GetMerge() != nil {
		return Merging
	}
	if r := changing(d); r != nil {
		switch {
		case r.Rebuild:
			return Rebuilding
		case r.Joining && r.Replaces != 0:
			return Moving
		case r.Joining:
			return Adding
		}
		return Removing
	}
	if _, splits := m.splitting[d.GetShard()]; splits {
		return Splitting
	}
	return ""
}

// Words describes the operation; name says how a member is called.
func (o Operation) Words(d *kvdpb.Descriptor, name func(member uint64) string) string {
	r := changing(d)
	switch o {
	case Splitting:
		return "split: copying"
	case Merging:
		m := d.GetMerge()
		phase := map[kvdpb.Merge_Phase]string{
			kvdpb.Merge_COPYING: "copying", kvdpb.Merge_ABORTING: "giving up", kvdpb.Merge_SURRENDERED: "absorbing",
		}[m.GetPhase()]
		if m.GetLeft() == d.GetShard() {
			return fmt.Sprintf("merge of shard %d into this one: %s", m.GetRight(), phase)
		}
		return fmt.Sprintf("merge into shard %d: %s", m.GetLeft(), phase)
	case Moving:
		from := "?"
		if old := findReplica(d, r.Replaces); old != nil {
			from = name(old.Member)
		}
		return fmt.Sprintf("move %s to %s: copying", from, name(r.Member))
	case Adding:
		return fmt.Sprintf("add %s: copying", name(r.Member))
	case Rebuilding:
		phase := "checking the others"
		switch {
		case r.Joining:
			phase = "copying"
		case r.Leaving:
			phase = "leaving"
		}
		return fmt.Sprintf("rebuild %s: %s", name(r.Member), phase)
	case Removing:
		return fmt.Sprintf("remove %s: leaving", name(r.Member))
	}
	return ""
}

// SplitProgress tells how many of the replicas of a split's child hold its data, and of
// how many.
func SplitProgress(child *kvdpb.Descriptor) (seeded, replicas int) {
	for _, r := range child.GetReplicas() {
		if r.Joining {
			continue
		}
		replicas++
		if slices.Contains(child.Seeded, r.Member) {
			seeded++
		}
	}
	return seeded, replicas
}

// Pursues tells whether a descriptor still goes the way on which replica takes the
// place of old.
func Pursues(d *kvdpb.Descriptor, replica, old uint64) bool {
	r, o := findReplica(d, replica), findReplica(d, old)
	return r != nil && !r.Leaving && (r.Replaces == old || o.GetLeaving())
}
