package placement

import (
	"cmp"
	"maps"
	"slices"

	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
)

// View is what one replica of the placement group has applied, at one instant.
// It is immutable, with everything in it.
type View struct {
	// ClusterID is zero until the first entry is applied.
	ClusterID uint64
	// Index is the raft index of the entry that the view follows.
	Index uint64
	// Map is never nil.
	Map *Map
	// Members is sorted by id.
	Members []*kvdpb.Member
	// Ownership is the ownership of the placement group: who is the sequencer.
	Ownership ownership.State
	// WindowEnd is the first revision that no sequencer may hand out yet.
	WindowEnd int64
	// CompactRevision is the revision below which history is gone.
	CompactRevision int64
	// Released is what the last Release left, until its successor serves.
	Released *kvdpb.PlacementRelease
	// Auth holds users and roles. It is never nil.
	Auth *authstate.State

	// Departing are members that were removed and still have replicas, by id.
	Departing []*kvdpb.Member
	// Settings are the cluster's; never nil.
	Settings *kvdpb.ClusterSettings
	// SettingsVersion counts their changes.
	SettingsVersion uint64

	dead      map[uint64]struct{}
	removed   map[uint64]struct{}
	alarms    []*kvdpb.Alarm
	downgrade *kvdpb.Downgrade
}

// Initialized tells whether the first entry has been applied.
func (v *View) Initialized() bool { return v.ClusterID != 0 }

// Member returns a member by id; nil if there is none.
func (v *View) Member(id uint64) *kvdpb.Member {
	i, ok := slices.BinarySearchFunc(v.Members, id, func(m *kvdpb.Member, id uint64) int { return cmp.Compare(m.Id, id) })
	if !ok {
		return nil
	}
	return v.Members[i]
}

// Peer returns a member, or one that departs, by id; nil if there is none.
func (v *View) Peer(id uint64) *kvdpb.Member {
	if m := v.Member(id); m != nil {
		return m
	}
	for _, m := range v.Departing {
		if m.Id == id {
			return m
		}
	}
	return nil
}

// Removed tells whether a member was removed and has departed. Its id never
// comes back.
func (v *View) Removed(member uint64) bool {
	_, ok := v.removed[member]
	return ok
}

// RemovedMembers lists the members that were removed and have departed, by id.
func (v *View) RemovedMembers() []uint64 { return slices.Sorted(maps.Keys(v.removed)) }

// Dead tells whether a shard id was given up or absorbed.
func (v *View) Dead(shard uint64) bool {
	_, ok := v.dead[shard]
	return ok
}

// sameNews tells whether subscribers would learn nothing from v after old: only
// the window or the applied index moved.
func (v *View) sameNews(old *View) bool {
	return old != nil && v.Map == old.Map && v.Auth == old.Auth && v.CompactRevision == old.CompactRevision &&
		v.Ownership.Epoch == old.Ownership.Epoch && v.Ownership.Serving == old.Ownership.Serving &&
		v.Ownership.Released == old.Ownership.Released &&
		slices.Equal(v.alarms, old.alarms) && v.downgrade == old.downgrade
}

// View returns the state as a view. old, the view before, lends what has not
// changed; nil for none. index is that of the last entry that the state applied.
func (s *State) View(old *View, index uint64) *View {
	v := &View{
		ClusterID:       s.clusterID,
		Index:           index,
		Ownership:       s.own,
		WindowEnd:       s.windowEnd,
		CompactRevision: s.compactRevision,
		Released:        s.released,
		Auth:            s.auth,
		alarms:          s.alarms,
		downgrade:       s.downgrade,
	}
	if old != nil && old.Map.version == s.version && old.ClusterID == s.clusterID {
		v.Map, v.Members, v.dead = old.Map, old.Members, old.dead
		v.Departing, v.removed = old.Departing, old.removed
		v.Settings, v.SettingsVersion = old.Settings, old.SettingsVersion
		return v
	}
	v.Map = newMap(s.version, s.shards, s.inOrder())
	v.Members = make([]*kvdpb.Member, 0, len(s.members))
	for _, id := range slices.Sorted(maps.Keys(s.members)) {
		v.Members = append(v.Members, s.members[id])
	}
	v.dead = maps.Clone(s.dead)
	for _, id := range slices.Sorted(maps.Keys(s.elastic.departing)) {
		v.Departing = append(v.Departing, s.elastic.departing[id])
	}
	v.removed = maps.Clone(s.elastic.removed)
	v.Settings, v.SettingsVersion = s.elastic.settings, s.elastic.settingsVersion
	if v.Settings == nil {
		v.Settings = &kvdpb.ClusterSettings{}
	}
	return v
}
