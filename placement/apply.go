package placement

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
	"google.golang.org/protobuf/proto"
)

// claim makes the claimant the owner if the epoch that it succeeds stands.
func (s *State) claim(c *kvdpb.Claim) *kvdpb.PlacementResult {
	if c.GetMember() == 0 || c.GetReplica() == 0 || c.GetIncarnation() == 0 {
		return reject(kvdpb.PlacementResult_INVALID, "claim without member, replica or incarnation")
	}
	if r, _ := s.own.ApplyClaim(c); r != ownership.None {
		return reject(kvdpb.PlacementResult_STALE, "epoch %d stands, not %d", s.own.Epoch, c.PreviousEpoch)
	}
	s.dirty.meta = true
	return applied()
}

// serving opens the first window of an epoch. Until then the end of the window
// stays where the predecessor left it, which is where the successor goes on: so
// an epoch that never served skips no revision.
func (s *State) serving(c *kvdpb.PlacementServing) *kvdpb.PlacementResult {
	if c.GetWindowEnd() < s.windowEnd {
		return reject(kvdpb.PlacementResult_INVALID, "window end %d is below %d", c.GetWindowEnd(), s.windowEnd)
	}
	if s.own.Serving && s.own.Epoch == c.GetEpoch() {
		return reject(kvdpb.PlacementResult_STALE, "epoch %d serves already", c.GetEpoch())
	}
	if !s.initialized {
		return reject(kvdpb.PlacementResult_INVALID, "serving before the first entry")
	}
	if r := s.own.ApplyServing(c.GetEpoch()); r != ownership.None {
		return reject(kvdpb.PlacementResult_STALE, "serving in epoch %d: %v", c.GetEpoch(), r)
	}
	s.windowEnd = c.WindowEnd
	s.released = nil
	s.dirty.meta = true
	return applied()
}

// release ends an epoch in order: the window shrinks to what was handed out.
func (s *State) release(c *kvdpb.PlacementRelease) *kvdpb.PlacementResult {
	if c.GetNextRevision() > s.windowEnd || c.GetNextRevision() <= s.compactRevision || c.GetNextRevision() <= firstRevision {
		return reject(kvdpb.PlacementResult_INVALID, "next revision %d outside (%d, %d]", c.GetNextRevision(), s.compactRevision, s.windowEnd)
	}
	if r := s.own.ApplyRelease(c.GetEpoch()); r != ownership.None {
		return reject(kvdpb.PlacementResult_STALE, "release of epoch %d: %v", c.GetEpoch(), r)
	}
	s.windowEnd = c.NextRevision
	s.released = c
	s.dirty.meta = true
	return applied()
}

// extendWindow moves the end of the window, in the order in which the owner
// proposed. Whether a lower end is above all that was handed out only the owner
// can know.
func (s *State) extendWindow(c *kvdpb.ExtendWindow) *kvdpb.PlacementResult {
	if c.GetEnd() <= s.compactRevision || c.GetEnd() <= firstRevision {
		return reject(kvdpb.PlacementResult_INVALID, "window end %d is not above the compaction revision %d", c.GetEnd(), s.compactRevision)
	}
	if r := s.own.CheckWrite(c.GetEpoch(), c.GetSeq()); r != ownership.None {
		return reject(kvdpb.PlacementResult_STALE, "window %d of epoch %d: %v", c.GetSeq(), c.GetEpoch(), r)
	}
	s.own.ApplyWrite()
	s.windowEnd = c.End
	s.dirty.meta = true
	return applied()
}

// compact raises the compaction revision. That the revision is not in the future
// is checked by the owner, which alone knows the current one; the end of the
// window bounds it here.
func (s *State) compact(c *kvdpb.CompactHistory) *kvdpb.PlacementResult {
	switch {
	case c.GetRevision() <= s.compactRevision:
		return reject(kvdpb.PlacementResult_COMPACTED, "revision %d is compacted up to %d", c.GetRevision(), s.compactRevision)
	case c.GetRevision() >= s.windowEnd:
		return reject(kvdpb.PlacementResult_INVALID, "revision %d is a future revision", c.GetRevision())
	}
	s.compactRevision = c.Revision
	s.dirty.meta = true
	return applied()
}

// updateMember takes in what a member says of itself.
func (s *State) updateMember(c *kvdpb.UpdateMember) *kvdpb.PlacementResult {
	old := s.members[c.GetMember().GetId()]
	if old == nil {
		return reject(kvdpb.PlacementResult_NOT_FOUND, "member %016x does not exist", c.GetMember().GetId())
	}
	if old.Name == c.Member.Name && slices.Equal(old.ClientUrls, c.Member.ClientUrls) {
		return applied()
	}
	m := proto.CloneOf(old)
	m.Name = c.Member.Name
	m.ClientUrls = c.Member.ClientUrls
	s.setMember(m)
	s.changed()
	return applied()
}

// beginSplit reserves a child for the right part of a shard. Asked for again
// while the child is being seeded, it names the same child.
func (s *State) beginSplit(c *kvdpb.BeginSplit) *kvdpb.PlacementResult {
	parent := s.shards[c.GetParent()]
	switch {
	case parent == nil:
		return reject(kvdpb.PlacementResult_NOT_FOUND, "shard %d does not exist", c.GetParent())
	case parent.Phase != kvdpb.Descriptor_LIVE:
		return reject(kvdpb.PlacementResult_INVALID, "shard %d is not live yet", parent.Shard)
	case parent.Generation != c.Generation:
		return reject(kvdpb.PlacementResult_STALE, "shard %d is at generation %d, not %d", parent.Shard, parent.Generation, c.Generation)
	case !keyspace.Valid(c.Key) || bytes.Compare(c.Key, parent.Start) <= 0 || bytes.Compare(c.Key, parent.End) >= 0:
		return reject(kvdpb.PlacementResult_INVALID, "%s is not strictly inside [%s, %s) of shard %d",
			keyspace.Format(c.Key), keyspace.Format(parent.Start), keyspace.Format(parent.End), parent.Shard)
	}
	if refused := busyMerging(parent); refused != nil {
		return refused
	}
	if r := changing(parent); r != nil {
		return reject(kvdpb.PlacementResult_BUSY, "replica %d of shard %d is being added or removed", r.Replica, parent.Shard)
	}
	if refused := s.refuseCorrupt(parent); refused != nil {
		return refused
	}
	if child := s.seedingChild(parent.Shard); child != nil {
		if bytes.Equal(child.Start, c.Key) {
			return &kvdpb.PlacementResult{Descriptor_: proto.CloneOf(child)}
		}
		return reject(kvdpb.PlacementResult_STALE, "shard %d is being split at %s already, by shard %d",
			parent.Shard, keyspace.Format(child.Start), child.Shard)
	}
	if s.nextShard == ^uint64(0) {
		return reject(kvdpb.PlacementResult_INVALID, "no shard id is left")
	}
	child := &kvdpb.Descriptor{
		Shard:      s.nextShard,
		Start:      bytes.Clone(c.Key),
		End:        bytes.Clone(parent.End),
		Generation: parent.Generation + 1,
		Parent:     parent.Shard,
		Phase:      kvdpb.Descriptor_SEEDING,
	}
	for i, r := range parent.Replicas {
		child.Replicas = append(child.Replicas, &kvdpb.Replica{Member: r.Member, Replica: uint64(i) + 1, NonVoting: r.NonVoting})
		child.Initial = append(child.Initial, &kvdpb.Replica{Member: r.Member, Replica: uint64(i) + 1, NonVoting: r.NonVoting})
	}
	s.nextShard++
	s.setShard(child)
	s.changed()
	return &kvdpb.PlacementResult{Descriptor_: proto.CloneOf(child)}
}

// seedingChild returns the child of a split of parent that is not live yet. The
// lowest id wins, so that the answer does not depend on the order of a map; there
// is never more than one.
func (s *State) seedingChild(parent uint64) *kvdpb.Descriptor {
	var found *kvdpb.Descriptor
	for _, d := range s.shards {
		if d.Phase == kvdpb.Descriptor_SEEDING && d.Parent == parent && (found == nil || d.Shard < found.Shard) {
			found = d
		}
	}
	return found
}

// confirmSeed records a durable seed. With a majority of the child's first
// voters the child takes over its span from the parent, in this entry.
func (s *State) confirmSeed(c *kvdpb.ConfirmSeed) *kvdpb.PlacementResult {
	child := s.shards[c.GetChild()]
	if child == nil || child.Parent == 0 {
		return reject(kvdpb.PlacementResult_NOT_FOUND, "shard %d does not exist or was not split from another", c.GetChild())
	}
	if !slices.ContainsFunc(child.Replicas, func(r *kvdpb.Replica) bool { return r.Member == c.Member }) {
		return reject(kvdpb.PlacementResult_INVALID, "member %016x has no replica of shard %d", c.Member, child.Shard)
	}
	if slices.Contains(child.Seeded, c.Member) {
		return &kvdpb.PlacementResult{Descriptor_: proto.CloneOf(child)}
	}
	next := proto.CloneOf(child)
	next.Seeded = append(next.Seeded, c.Member)
	slices.SortFunc(next.Seeded, cmp.Compare)
	s.setShard(next)
	s.bringToLife(next)
	s.changed()
	return &kvdpb.PlacementResult{Descriptor_: proto.CloneOf(next)}
}

// bringToLife hands the span of a child that a majority holds seeds of over to
// it. The child is a descriptor that was just made: it may be changed.
func (s *State) bringToLife(child *kvdpb.Descriptor) {
	if child.Phase != kvdpb.Descriptor_SEEDING || !seededMajority(child) {
		return
	}
	parent := proto.CloneOf(s.shards[child.Parent])
	parent.End = child.Start
	parent.Generation++
	child.Generation = parent.Generation
	child.Phase = kvdpb.Descriptor_LIVE
	s.setShard(parent)
}

// seededMajority tells whether a majority of the first voters holds a seed.
func seededMajority(d *kvdpb.Descriptor) bool {
	voters, seeded := 0, 0
	for _, r := range d.Initial {
		if r.NonVoting {
			continue
		}
		voters++
		if slices.Contains(d.Seeded, r.Member) {
			seeded++
		}
	}
	return seeded > voters/2
}

// abortSplit gives up a child that nobody holds a seed of. Its id is never used
// again.
func (s *State) abortSplit(c *kvdpb.AbortSplit) *kvdpb.PlacementResult {
	if _, ok := s.dead[c.GetChild()]; ok {
		return applied()
	}
	child := s.shards[c.GetChild()]
	switch {
	case child == nil:
		return reject(kvdpb.PlacementResult_NOT_FOUND, "shard %d does not exist", c.GetChild())
	case child.Phase != kvdpb.Descriptor_SEEDING:
		return reject(kvdpb.PlacementResult_STALE, "shard %d lives", child.Shard)
	case len(child.Seeded) > 0:
		return reject(kvdpb.PlacementResult_STALE, "shard %d has a seed on %d members", child.Shard, len(child.Seeded))
	}
	delete(s.shards, child.Shard)
	s.dirty.shards[child.Shard] = struct{}{}
	s.dead[child.Shard] = struct{}{}
	s.dirty.dead[child.Shard] = struct{}{}
	s.changed()
	return applied()
}
