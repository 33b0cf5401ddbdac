package placement

import (
	"slices"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/protobuf/proto"
)

// A rebuild makes the replica of a member anew from the others, because its data is
// not what theirs is. It goes through phases of its own and then those of any
// change of replicas (see [changing]), so that it resumes wherever it stopped:
//
//	rebuild           RebuildReplica applied. The replica still votes, but owns the
//	                  shard no more: if it does, it hands over. The owner waits until a
//	                  majority of the others is sound, connected and caught up.
//	                  RebuildReplica with cancel takes it back until then.
//	rebuild, leaving  RemoveReplica applied, the point of no return: the group goes on
//	                  without the data, which its member removes.
//	rebuild, joining  DropReplica applied: in the same entry a new replica of the
//	                  member joins, under an id that was never used, and is fed by
//	                  the others.
//	(no flag)         PromoteReplica applied: it votes, and what the alarm said of the
//	                  old one is taken back in the same entry.
//
// It ends without a new replica if its member is removed or lost meanwhile: a member
// that is gone for good is repaired as always.

// rebuildReplica begins a rebuild, or takes it back.
func (s *State) rebuildReplica(c *kvdpb.RebuildReplica) *kvdpb.PlacementResult {
	d, refused := s.live(c.GetShard())
	if refused != nil {
		return refused
	}
	r := findReplica(d, c.Replica)
	switch {
	case r == nil:
		return reject(kvdpb.PlacementResult_NOT_FOUND, "shard %d has no replica %d", d.Shard, c.Replica)
	case c.Cancel && r.Rebuild && (r.Leaving || r.Joining):
		return reject(kvdpb.PlacementResult_BUSY, "replica %d of shard %d has begun to leave", r.Replica, d.Shard)
	case c.Cancel != r.Rebuild:
		// Asked for again.
		return &kvdpb.PlacementResult{Descriptor_: proto.CloneOf(d)}
	case d.Config != c.Config:
		return reject(kvdpb.PlacementResult_STALE, "the replicas of shard %d have changed since (%d, not %d)", d.Shard, d.Config, c.Config)
	}
	if !c.Cancel {
		if refused := s.refuseRebuild(d, r); refused != nil {
			return refused
		}
	}
	next := reshaped(d)
	findReplica(next, r.Replica).Rebuild = !c.Cancel
	s.setShard(next)
	s.changed()
	return &kvdpb.PlacementResult{Descriptor_: proto.CloneOf(next)}
}

// refuseRebuild says why a replica that is not being rebuilt cannot be; nil if it can.
func (s *State) refuseRebuild(d *kvdpb.Descriptor, r *kvdpb.Replica) *kvdpb.PlacementResult {
	if refused := s.busy(d); refused != nil {
		return refused
	}
	if m := s.members[r.Member]; m == nil || m.Learner {
		return reject(kvdpb.PlacementResult_INVALID, "member %016x cannot be given a replica", r.Member)
	}
	if r.NonVoting {
		return reject(kvdpb.PlacementResult_INVALID, "replica %d of shard %d does not vote", r.Replica, d.Shard)
	}
	if len(d.Replicas) == 1 {
		return reject(kvdpb.PlacementResult_INVALID, "replica %d is the only one of shard %d: there is nothing to rebuild it from", r.Replica, d.Shard)
	}
	if !SoundMajority(d, r.Replica, func(m uint64) bool { return !Corrupt(s.alarms, d.Shard, m) }) {
		return reject(kvdpb.PlacementResult_INVALID, "no majority of the other replicas of shard %d is sound", d.Shard)
	}
	return nil
}

// SoundMajority tells whether more than half of the voting replicas of a shard
// besides one are on members of which sound says so.
func SoundMajority(d *kvdpb.Descriptor, replica uint64, sound func(member uint64) bool) bool {
	rest, good := 0, 0
	for _, o := range d.Replicas {
		if o.Replica == replica || o.NonVoting {
			continue
		}
		rest++
		if sound(o.Member) {
			good++
		}
	}
	return good > rest/2
}

// Corrupt tells whether one of the alarms says that a member's replica of a shard was
// found to differ from the others, and has not been rebuilt since.
func Corrupt(alarms []*kvdpb.Alarm, shard, member uint64) bool {
	for _, a := range alarms {
		if a.Member != member || a.Type != kvdpb.Alarm_CORRUPT {
			continue
		}
		if _, found := slices.BinarySearch(a.Shards, shard); found {
			return true
		}
	}
	return false
}

// Corrupt is [Corrupt] of the alarms that stand. It is cheap where none does.
func (v *View) Corrupt(shard, member uint64) bool { return Corrupt(v.alarms, shard, member) }

// refuseCorrupt refuses what would hand the data of a replica that differs on to
// another shard, where nobody would know of it.
func (s *State) refuseCorrupt(d *kvdpb.Descriptor) *kvdpb.PlacementResult {
	for _, r := range d.Replicas {
		if Corrupt(s.alarms, d.Shard, r.Member) {
			return reject(kvdpb.PlacementResult_BUSY, "replica %d of shard %d is corrupt: rebuild it first", r.Replica, d.Shard)
		}
	}
	return nil
}

// sound ends what alarms say of a member's replica of a shard, because it is gone or
// was made anew. An alarm that names no other replica ends with it.
func (s *State) sound(shard, member uint64) {
	if !Corrupt(s.alarms, shard, member) {
		return
	}
	left := make([]*kvdpb.Alarm, 0, len(s.alarms))
	for _, a := range s.alarms {
		i, found := slices.BinarySearch(a.Shards, shard)
		if a.Member == member && a.Type == kvdpb.Alarm_CORRUPT && found {
			if len(a.Shards) == 1 {
				continue
			}
			a = proto.CloneOf(a)
			a.Shards = slices.Delete(a.Shards, i, i+1)
		}
		left = append(left, a)
	}
	s.alarms = left
	s.dirty.meta = true
}

// rejoin returns the replica that takes the place of one that is rebuilt and has
// left; nil if its member cannot hold one any more.
func (s *State) rejoin(d *kvdpb.Descriptor, old *kvdpb.Replica) *kvdpb.Replica {
	if m := s.members[old.Member]; !old.Rebuild || m == nil || m.Learner {
		return nil
	}
	return &kvdpb.Replica{Member: old.Member, Replica: nextReplica(d), NonVoting: true, Joining: true, Rebuild: true}
}

// Rebuilds tells how far the rebuild of a replica on a member is: the new replica, once
// it votes; going is whether it is under way. old is the replica that is rebuilt.
func Rebuilds(d *kvdpb.Descriptor, member, old uint64) (replica uint64, going bool) {
	r := replicaOn(d, member)
	switch {
	case r.GetRebuild():
		return 0, true
	case r == nil || r.Replica <= old || r.Joining || r.Leaving:
		return 0, false
	}
	return r.Replica, false
}
