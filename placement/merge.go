package placement

import (
	"bytes"
	"fmt"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/protobuf/proto"
)

// A merge of two neighbours is a phase machine whose phase stands in the descriptors
// of both. What happens in their logs is told in package shard; here is what the
// cluster remembers of it:
//
//	COPYING       BeginMerge applied. The right shard freezes, the left one copies it.
//	              Both serve what they did until the right one freezes.
//	ABORTING      AbortMerge applied. The right shard goes on serving, the left one
//	              throws its copy away. MergeAborted ends it.
//	SURRENDERED   MergeSurrendered applied: the right shard's log holds Surrender, the
//	              point of no return, which may come as a surprise to one that is
//	              ABORTING. The left shard absorbs its copy.
//	(no merge)    MergeDone applied: the left shard holds the keys of both, in the range
//	              map too. The right one is dead, for ever.
//
// While a merge is under way neither shard is split, takes part in another merge, or
// changes its replicas. Owners may change as they like.

// busyMerging refuses what cannot be done to a shard that is being merged.
func busyMerging(d *kvdpb.Descriptor) *kvdpb.PlacementResult {
	m := d.GetMerge()
	if m == nil {
		return nil
	}
	return reject(kvdpb.PlacementResult_BUSY, "shard %d is being merged into shard %d", m.Right, m.Left)
}

// applyMerge applies the commands of merges; ok is false for any other command.
func (s *State) applyMerge(cmd *kvdpb.PlacementCommand) (res *kvdpb.PlacementResult, ok bool) {
	switch c := cmd.GetCommand().(type) {
	case *kvdpb.PlacementCommand_BeginMerge:
		res = s.beginMerge(c.BeginMerge)
	case *kvdpb.PlacementCommand_AbortMerge:
		res = s.abortMerge(c.AbortMerge)
	case *kvdpb.PlacementCommand_MergeAborted:
		res = s.mergeAborted(c.MergeAborted)
	case *kvdpb.PlacementCommand_MergeSurrendered:
		res = s.mergeSurrendered(c.MergeSurrendered)
	case *kvdpb.PlacementCommand_MergeDone:
		res = s.mergeDone(c.MergeDone)
	default:
		return nil, false
	}
	return res, true
}

// beginMerge begins a merge. Asked for again, while it copies, it names the same one.
func (s *State) beginMerge(c *kvdpb.BeginMerge) *kvdpb.PlacementResult {
	left, refused := s.live(c.GetLeft())
	if refused != nil {
		return refused
	}
	right, refused := s.live(c.GetRight())
	if refused != nil {
		return refused
	}
	if m := left.Merge; m != nil && m.Left == left.Shard && m.Right == right.Shard && m.Phase == kvdpb.Merge_COPYING {
		return &kvdpb.PlacementResult{Descriptor_: proto.CloneOf(left)}
	}
	if !bytes.Equal(left.End, right.Start) {
		return reject(kvdpb.PlacementResult_INVALID, "shard %d, which ends at %s, and shard %d, which begins at %s, are no neighbours",
			left.Shard, keyspace.Format(left.End), right.Shard, keyspace.Format(right.Start))
	}
	for _, side := range []struct {
		d          *kvdpb.Descriptor
		generation uint64
	}{{left, c.LeftGeneration}, {right, c.RightGeneration}} {
		if side.d.Generation != side.generation {
			return reject(kvdpb.PlacementResult_STALE, "shard %d is at generation %d, not %d", side.d.Shard, side.d.Generation, side.generation)
		}
		if refused := s.busy(side.d); refused != nil {
			return refused
		}
		if refused := s.refuseCorrupt(side.d); refused != nil {
			return refused
		}
	}
	if member, ok := unmatched(left, right); ok {
		return reject(kvdpb.PlacementResult_INVALID,
			"shards %d and %d have replicas on different members: only one of them has one on member %016x. Move a replica first", left.Shard, right.Shard, member)
	}
	merge := &kvdpb.Merge{
		Attempt: s.version + 1, Left: left.Shard, Right: right.Shard, Phase: kvdpb.Merge_COPYING,
		Generation: max(left.Generation, right.Generation) + 1,
	}
	s.setMerge(merge, nil)
	s.changed()
	return &kvdpb.PlacementResult{Descriptor_: proto.CloneOf(s.shards[left.Shard])}
}

// busy refuses what needs a shard with which nothing is under way.
func (s *State) busy(d *kvdpb.Descriptor) *kvdpb.PlacementResult {
	if refused := busyMerging(d); refused != nil {
		return refused
	}
	if r := changing(d); r != nil {
		return reject(kvdpb.PlacementResult_BUSY, "replica %d of shard %d is being added or removed", r.Replica, d.Shard)
	}
	if s.splitting(d.Shard) || !s.seeded(d) {
		return reject(kvdpb.PlacementResult_BUSY, "a split of shard %d is not done on every member", d.Shard)
	}
	return nil
}

// unmatched returns a member that has a replica, or a vote, in one of two shards only.
func unmatched(a, b *kvdpb.Descriptor) (member uint64, found bool) {
	for _, pair := range [][2]*kvdpb.Descriptor{{a, b}, {b, a}} {
		for _, r := range pair[0].Replicas {
			o := replicaOn(pair[1], r.Member)
			if o == nil || o.NonVoting != r.NonVoting {
				return r.Member, true
			}
		}
	}
	return 0, false
}

// setMerge puts a merge, or its end, into the descriptors of both sides.
func (s *State) setMerge(m *kvdpb.Merge, failure *kvdpb.MergeFailure) {
	for _, id := range []uint64{m.Left, m.Right} {
		d := proto.CloneOf(s.shards[id])
		if d.Merge = m; failure != nil {
			d.Merge = nil
		}
		if id == m.Left {
			d.MergeFailure = failure
		}
		s.setShard(d)
	}
}

// merging returns the merge that a command is about, or why it does not apply.
func (s *State) merging(left, attempt uint64) (*kvdpb.Merge, *kvdpb.PlacementResult) {
	d := s.shards[left]
	switch {
	case d == nil:
		return nil, reject(kvdpb.PlacementResult_NOT_FOUND, "shard %d does not exist", left)
	case d.Merge == nil || d.Merge.Left != left || d.Merge.Attempt != attempt:
		return nil, reject(kvdpb.PlacementResult_STALE, "merge %d into shard %d is not under way", attempt, left)
	}
	return d.Merge, nil
}

func (s *State) abortMerge(c *kvdpb.AbortMerge) *kvdpb.PlacementResult {
	m, refused := s.merging(c.GetLeft(), c.GetAttempt())
	if refused != nil {
		return refused
	}
	switch m.Phase {
	case kvdpb.Merge_ABORTING:
		return applied()
	case kvdpb.Merge_SURRENDERED:
		return reject(kvdpb.PlacementResult_BUSY, "the merge of shard %d into shard %d only goes forward", m.Right, m.Left)
	}
	next := proto.CloneOf(m)
	next.Phase, next.Reason = kvdpb.Merge_ABORTING, c.Reason
	s.setMerge(next, nil)
	s.changed()
	return applied()
}

func (s *State) mergeAborted(c *kvdpb.MergeAborted) *kvdpb.PlacementResult {
	m, refused := s.merging(c.GetLeft(), c.GetAttempt())
	if refused != nil {
		return refused
	}
	if m.Phase != kvdpb.Merge_ABORTING {
		return reject(kvdpb.PlacementResult_INVALID, "the merge of shard %d into shard %d is not being given up", m.Right, m.Left)
	}
	s.setMerge(m, &kvdpb.MergeFailure{Attempt: m.Attempt, Reason: m.Reason})
	s.changed()
	return applied()
}

func (s *State) mergeSurrendered(c *kvdpb.MergeSurrendered) *kvdpb.PlacementResult {
	m, refused := s.merging(c.GetLeft(), c.GetAttempt())
	if refused != nil {
		return refused
	}
	if m.Phase == kvdpb.Merge_SURRENDERED {
		return applied()
	}
	next := proto.CloneOf(m)
	next.Phase, next.Spared, next.Reason = kvdpb.Merge_SURRENDERED, c.Spared, ""
	s.setMerge(next, nil)
	s.changed()
	return applied()
}

// mergeDone gives the left shard the keys of both in the range map.
func (s *State) mergeDone(c *kvdpb.MergeDone) *kvdpb.PlacementResult {
	m, refused := s.merging(c.GetLeft(), c.GetAttempt())
	if refused != nil {
		return refused
	}
	if m.Phase != kvdpb.Merge_SURRENDERED {
		return reject(kvdpb.PlacementResult_INVALID, "shard %d has not surrendered", m.Right)
	}
	left := proto.CloneOf(s.shards[m.Left])
	left.End, left.Generation = bytes.Clone(s.shards[m.Right].End), m.Generation
	left.Merge, left.MergeFailure = nil, nil
	s.setShard(left)
	// The left shard has what the right one's owner had; the others' copies are gone.
	for _, r := range s.shards[m.Right].Replicas {
		s.sound(m.Right, r.Member)
	}
	delete(s.shards, m.Right)
	s.dirty.shards[m.Right] = struct{}{}
	s.dead[m.Right] = struct{}{}
	s.dirty.dead[m.Right] = struct{}{}
	s.changed()
	return &kvdpb.PlacementResult{Descriptor_: proto.CloneOf(left)}
}

// checkMerge is the invariant of a merge: both sides carry it, and are neighbours that
// nothing else is under way with.
func (s *State) checkMerge(d *kvdpb.Descriptor) error {
	m := d.Merge
	if m == nil {
		return nil
	}
	left, right := s.shards[m.Left], s.shards[m.Right]
	switch {
	case left == nil || right == nil || (d != left && d != right):
		return fmt.Errorf("shard %d carries the merge of shards %d and %d", d.Shard, m.Left, m.Right)
	case !proto.Equal(left.Merge, right.Merge):
		return fmt.Errorf("shards %d and %d disagree about their merge", m.Left, m.Right)
	case !bytes.Equal(left.End, right.Start) || m.Generation <= max(left.Generation, right.Generation):
		return fmt.Errorf("shards %d and %d cannot be merged at generation %d", m.Left, m.Right, m.Generation)
	case changing(left) != nil || changing(right) != nil:
		return fmt.Errorf("replicas of shards %d or %d change while they are merged", m.Left, m.Right)
	}
	return nil
}
