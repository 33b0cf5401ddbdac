package placement

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/protobuf/proto"
)

// A cluster that lost a majority for good can be made anew of one member that is
// left, as with etcd's --force-new-cluster: while it does not run, the last
// entry that is written into its log of this group is a ForceNewCluster, behind
// the removal of all other replicas, and in the same moment the logs of its
// shards get theirs. The state after it is a function of the log alone, as
// always, so that it does not matter when it is applied.

// forcedWindows is how many times the unused part of the revision window is
// skipped. The lost sequencer may have extended the window once more than this
// log knows, by at most four times its size, and what it handed out must not be
// handed out again.
const forcedWindows = 4

// forceNewCluster leaves one member, with one replica of every shard: its own.
func (s *State) forceNewCluster(c *kvdpb.ForceNewCluster) *kvdpb.PlacementResult {
	me := s.members[c.GetMember()]
	switch {
	case me == nil:
		return reject(kvdpb.PlacementResult_NOT_FOUND, "member %016x does not exist", c.GetMember())
	case c.GetRevision() < 0 || c.GetRevision() > math.MaxInt64/4 || s.windowEnd > math.MaxInt64/4:
		return reject(kvdpb.PlacementResult_INVALID, "revision %d, window end %d", c.GetRevision(), s.windowEnd)
	case c.GetCompactRevision() < 0 || c.GetCompactRevision() > max(c.GetRevision(), s.compactRevision):
		return reject(kvdpb.PlacementResult_INVALID, "compaction revision %d of revision %d", c.GetCompactRevision(), c.GetRevision())
	}
	for _, id := range slices.Sorted(maps.Keys(s.shards)) {
		if replicaOn(s.shards[id], me.Id) == nil {
			return reject(kvdpb.PlacementResult_NOT_FOUND, "member %016x has no replica of shard %d", me.Id, id)
		}
	}
	s.forgetOthers(me)
	for _, d := range s.shards {
		s.setShard(alone(d, me.Id))
	}
	// Only now are parents what their children are to be compared with. No two
	// children have one parent, so the order does not matter.
	for _, d := range s.shards {
		s.bringToLife(d)
	}
	newest := max(c.GetRevision(), s.compactRevision, firstRevision)
	unused := max(s.windowEnd-newest, minWindow)
	s.windowEnd = max(s.windowEnd, newest+1) + forcedWindows*unused
	s.compactRevision = max(s.compactRevision, c.GetCompactRevision())
	s.released = nil
	s.changed()
	return s.memberList()
}

// forgetOthers removes all members but one, for ever, and makes that a voter.
func (s *State) forgetOthers(me *kvdpb.Member) {
	// Ids of replicas are never given again, those of members that go included.
	s.elastic.nextReplica = s.takeReplicaID()
	for id := range s.members {
		if id != me.Id {
			delete(s.members, id)
			s.dirty.members[id] = struct{}{}
			s.elastic.removed[id] = struct{}{}
		}
	}
	for id := range s.elastic.departing {
		s.elastic.removed[id] = struct{}{}
	}
	clear(s.elastic.departing)
	only := proto.CloneOf(me)
	only.Learner, only.Votes = false, true
	s.setMember(only)
	s.alarms = slices.DeleteFunc(slices.Clone(s.alarms), func(a *kvdpb.Alarm) bool {
		_, gone := s.elastic.removed[a.Member]
		return gone
	})
}

func replicaOn(d *kvdpb.Descriptor, member uint64) *kvdpb.Replica {
	i := slices.IndexFunc(d.GetReplicas(), func(r *kvdpb.Replica) bool { return r.Member == member })
	if i < 0 {
		return nil
	}
	return d.Replicas[i]
}

// alone returns a descriptor with one replica, whatever was under way with it.
func alone(d *kvdpb.Descriptor, member uint64) *kvdpb.Descriptor {
	next := reshaped(d)
	next.NextReplica = nextReplica(d)
	mine := &kvdpb.Replica{Member: member, Replica: replicaOn(d, member).Replica}
	began := slices.ContainsFunc(d.Initial, func(r *kvdpb.Replica) bool { return r.Replica == mine.Replica })
	next.Replicas, next.Initial = []*kvdpb.Replica{mine}, nil
	if began {
		// If it was not started yet, it begins the group by itself.
		next.Initial = []*kvdpb.Replica{proto.CloneOf(mine)}
	}
	next.Seeded = slices.DeleteFunc(slices.Clone(d.Seeded), func(m uint64) bool { return m != member })
	next.PreferredOwner, next.PreferredAutomatically = 0, false
	return next
}

// Foreseen is the state that a member's replica of the group comes to once it has
// applied all of its log.
type Foreseen struct{ state *State }

// Foresee reads the state from a storage that no replica uses, without changing
// it, and applies what the log holds beyond. commands calls fn with the commands
// of the entries after an index.
func Foresee(st Storage, commands func(after uint64, fn func(cmd []byte) error) error) (*Foreseen, error) {
	state, err := loadState(st)
	if err != nil {
		return nil, err
	}
	m := &Machine{state: state}
	err = commands(st.AppliedIndex(), func(cmd []byte) error {
		m.applyOne(cmd)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the log of the placement group: %w", err)
	}
	if err := state.check(); err != nil {
		return nil, fmt.Errorf("placement state at the end of the log: %w", err)
	}
	return &Foreseen{state}, nil
}

// State is the whole state. It must not be changed.
func (f *Foreseen) State() *kvdpb.PlacementState { return f.state.Proto() }

// ForceNewCluster applies a command to what is foreseen, and returns the command
// for the log. An error says why it would not apply.
func (f *Foreseen) ForceNewCluster(c *kvdpb.ForceNewCluster) ([]byte, error) {
	cmd := &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_ForceNewCluster{ForceNewCluster: c}}
	if res := f.state.Apply(cmd); res.GetRejection() != kvdpb.PlacementResult_NONE {
		return nil, &RejectedError{res.GetRejection(), res.GetReason()}
	}
	if err := f.state.check(); err != nil {
		return nil, fmt.Errorf("the state of the new cluster: %w", err)
	}
	b, err := proto.Marshal(cmd)
	if err != nil {
		return nil, fmt.Errorf("encode the command that forces a new cluster: %w", err)
	}
	return b, nil
}
