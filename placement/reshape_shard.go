package placement

import (
	"cmp"
	"slices"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/protobuf/proto"
)

// A change of a shard's replicas is a phase machine whose phases are the flags of
// the replica in the descriptor. The shard's owner drives it; raft's membership
// is the other half of what it looks at, so that it resumes wherever it stopped:
//
//	joining           AddReplica applied. The owner adds the replica to the raft
//	                  group as non-voting, waits until it has caught up, and makes
//	                  it vote. RemoveReplica gives it up until then.
//	(no flag)         PromoteReplica applied: it votes. In the same entry the
//	                  replica that it replaces begins to leave.
//	leaving           RemoveReplica applied, the point of no return. The owner takes
//	                  it out of the raft group; if that is the owner itself, it
//	                  hands over first.
//	(not listed)      DropReplica applied: its member removes the data.
//
// A rebuild (see rebuildReplica) goes through leaving and joining, of one member.
//
// One change of a shard is under way at a time, and none while a split or a merge of
// it is.

// changing returns the replica whose change is under way; nil if none is.
func changing(d *kvdpb.Descriptor) *kvdpb.Replica {
	for _, r := range d.GetReplicas() {
		if r.Joining || r.Leaving || r.Rebuild {
			return r
		}
	}
	return nil
}

// splitting tells whether a child of the shard waits for seeds that only the
// shard's present replicas can make.
func (s *State) splitting(shard uint64) bool {
	for _, d := range s.shards {
		if d.Parent == shard && (d.Phase == kvdpb.Descriptor_SEEDING || !s.seeded(d)) {
			return true
		}
	}
	return false
}

// seeded tells whether every replica of a split-born shard holds the data.
func (s *State) seeded(d *kvdpb.Descriptor) bool {
	return d.Parent == 0 || !slices.ContainsFunc(d.Replicas, func(r *kvdpb.Replica) bool {
		return !r.Joining && !slices.Contains(d.Seeded, r.Member)
	})
}

func findReplica(d *kvdpb.Descriptor, replica uint64) *kvdpb.Replica {
	for _, r := range d.GetReplicas() {
		if r.Replica == replica {
			return r
		}
	}
	return nil
}

// nextReplica is the id that a shard's next replica gets.
func nextReplica(d *kvdpb.Descriptor) uint64 {
	next := max(d.NextReplica, 1)
	for _, list := range [][]*kvdpb.Replica{d.Initial, d.Replicas} {
		for _, r := range list {
			next = max(next, r.Replica+1)
		}
	}
	return next
}

// reshaped returns a copy of a descriptor for a change of its replicas.
func reshaped(d *kvdpb.Descriptor) *kvdpb.Descriptor {
	next := proto.CloneOf(d)
	next.Config++
	return next
}

// live returns a shard whose replicas may change, or why they may not.
func (s *State) live(shard uint64) (*kvdpb.Descriptor, *kvdpb.PlacementResult) {
	d := s.shards[shard]
	switch {
	case d == nil:
		return nil, reject(kvdpb.PlacementResult_NOT_FOUND, "shard %d does not exist", shard)
	case d.Phase != kvdpb.Descriptor_LIVE:
		return nil, reject(kvdpb.PlacementResult_BUSY, "shard %d is not live yet", shard)
	}
	return d, nil
}

func (s *State) addReplica(c *kvdpb.AddReplica) *kvdpb.PlacementResult {
	d, refused := s.live(c.GetShard())
	if refused != nil {
		return refused
	}
	m := s.members[c.Member]
	switch {
	case m == nil:
		return reject(kvdpb.PlacementResult_NOT_FOUND, "member %016x does not exist", c.Member)
	case m.Learner:
		return reject(kvdpb.PlacementResult_INVALID, "member %016x is a learner", c.Member)
	case d.Config != c.Config:
		return reject(kvdpb.PlacementResult_STALE, "the replicas of shard %d have changed since (%d, not %d)", d.Shard, d.Config, c.Config)
	}
	if r := changing(d); r != nil {
		return reject(kvdpb.PlacementResult_BUSY, "replica %d of shard %d is being added or removed", r.Replica, d.Shard)
	}
	if s.splitting(d.Shard) {
		return reject(kvdpb.PlacementResult_BUSY, "shard %d is being split", d.Shard)
	}
	if refused := busyMerging(d); refused != nil {
		return refused
	}
	if slices.ContainsFunc(d.Replicas, func(r *kvdpb.Replica) bool { return r.Member == c.Member }) {
		return reject(kvdpb.PlacementResult_INVALID, "member %016x has a replica of shard %d already", c.Member, d.Shard)
	}
	if c.Replaces != 0 && findReplica(d, c.Replaces) == nil {
		return reject(kvdpb.PlacementResult_NOT_FOUND, "shard %d has no replica %d", d.Shard, c.Replaces)
	}
	next := reshaped(d)
	id := nextReplica(d)
	next.NextReplica = id + 1
	next.Replicas = append(next.Replicas, &kvdpb.Replica{Member: c.Member, Replica: id, NonVoting: true, Joining: true, Replaces: c.Replaces})
	s.setShard(next)
	s.changed()
	return &kvdpb.PlacementResult{Descriptor_: proto.CloneOf(next)}
}

func (s *State) promoteReplica(c *kvdpb.PromoteReplica) *kvdpb.PlacementResult {
	d, refused := s.live(c.GetShard())
	if refused != nil {
		return refused
	}
	r := findReplica(d, c.Replica)
	switch {
	case r == nil:
		return reject(kvdpb.PlacementResult_NOT_FOUND, "shard %d has no replica %d", d.Shard, c.Replica)
	case !r.Joining:
		return applied()
	}
	next := reshaped(d)
	r = findReplica(next, c.Replica)
	if old := findReplica(next, r.Replaces); old != nil {
		old.Leaving = true
	}
	r.Joining, r.NonVoting, r.Replaces, r.Rebuild = false, false, 0, false
	// Whatever was found of a former replica of the member: this one is new.
	s.sound(d.Shard, r.Member)
	if next.Parent != 0 && !slices.Contains(next.Seeded, r.Member) {
		next.Seeded = append(next.Seeded, r.Member)
		slices.SortFunc(next.Seeded, cmp.Compare)
	}
	s.setShard(next)
	s.changed()
	return applied()
}

func (s *State) removeReplica(c *kvdpb.RemoveReplica) *kvdpb.PlacementResult {
	d, refused := s.live(c.GetShard())
	if refused != nil {
		return refused
	}
	r := findReplica(d, c.Replica)
	switch {
	case r == nil:
		return reject(kvdpb.PlacementResult_NOT_FOUND, "shard %d has no replica %d", d.Shard, c.Replica)
	case r.Leaving:
		return &kvdpb.PlacementResult{Descriptor_: proto.CloneOf(d)}
	case d.Config != c.Config:
		return reject(kvdpb.PlacementResult_STALE, "the replicas of shard %d have changed since (%d, not %d)", d.Shard, d.Config, c.Config)
	}
	if other := changing(d); other != nil && other != r {
		return reject(kvdpb.PlacementResult_BUSY, "replica %d of shard %d is being added or removed", other.Replica, d.Shard)
	}
	if s.splitting(d.Shard) {
		return reject(kvdpb.PlacementResult_BUSY, "shard %d is being split", d.Shard)
	}
	if refused := busyMerging(d); refused != nil {
		return refused
	}
	if !r.Joining && !slices.ContainsFunc(d.Replicas, func(o *kvdpb.Replica) bool { return o != r && !o.NonVoting }) {
		return reject(kvdpb.PlacementResult_INVALID, "replica %d is the only one of shard %d", r.Replica, d.Shard)
	}
	next := reshaped(d)
	r = findReplica(next, c.Replica)
	// The old replica of a rebuild makes room for the new one; that one, given up,
	// leaves for good.
	r.Rebuild = r.Rebuild && !r.Joining
	r.Joining, r.Leaving, r.Replaces = false, true, 0
	s.setShard(next)
	s.changed()
	return &kvdpb.PlacementResult{Descriptor_: proto.CloneOf(next)}
}

func (s *State) dropReplica(c *kvdpb.DropReplica) *kvdpb.PlacementResult {
	d, refused := s.live(c.GetShard())
	if refused != nil {
		return refused
	}
	r := findReplica(d, c.Replica)
	switch {
	case r == nil:
		return applied()
	case !r.Leaving:
		return reject(kvdpb.PlacementResult_INVALID, "replica %d of shard %d does not leave", r.Replica, d.Shard)
	}
	next := reshaped(d)
	again := s.rejoin(d, r)
	next.NextReplica = nextReplica(d)
	if again != nil {
		next.NextReplica++
	}
	next.Replicas = slices.DeleteFunc(next.Replicas, func(o *kvdpb.Replica) bool { return o.Replica == r.Replica })
	next.Seeded = slices.DeleteFunc(next.Seeded, func(m uint64) bool { return m == r.Member })
	if again != nil {
		next.Replicas = append(next.Replicas, again)
	} else {
		s.sound(d.Shard, r.Member)
		if next.PreferredOwner == r.Member {
			next.PreferredOwner, next.PreferredAutomatically = 0, false
		}
	}
	s.setShard(next)
	s.changed()
	return applied()
}

func (s *State) preferOwner(c *kvdpb.PreferOwner) *kvdpb.PlacementResult {
	d, refused := s.live(c.GetShard())
	if refused != nil {
		return refused
	}
	if c.Member != 0 && !slices.ContainsFunc(d.Replicas, func(r *kvdpb.Replica) bool {
		return r.Member == c.Member && !r.NonVoting && !r.Leaving
	}) {
		return reject(kvdpb.PlacementResult_INVALID, "member %016x has no voting replica of shard %d", c.Member, d.Shard)
	}
	if c.Automatic && d.PreferredOwner != 0 && !d.PreferredAutomatically {
		return reject(kvdpb.PlacementResult_BUSY, "the owner of shard %d was asked for", d.Shard)
	}
	automatic := c.Automatic && c.Member != 0
	if d.PreferredOwner != c.Member || d.PreferredAutomatically != automatic {
		next := proto.CloneOf(d)
		next.PreferredOwner, next.PreferredAutomatically = c.Member, automatic
		s.setShard(next)
		s.changed()
	}
	return applied()
}
