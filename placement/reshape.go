package placement

import (
	"cmp"
	"maps"
	"slices"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/protobuf/proto"
)

// elastic is the part of the state that says who belongs to the cluster, beside
// the members themselves.
//
// A member that is removed departs first: the others still talk to it, until no
// group has a replica of it. Then it is forgotten, and its id is refused for
// ever.
type elastic struct {
	departing map[uint64]*kvdpb.Member
	removed   map[uint64]struct{}
	// nextReplica is the id of the next member's replica of the placement group;
	// never below those that were given.
	nextReplica     uint64
	settings        *kvdpb.ClusterSettings
	settingsVersion uint64
}

func newElastic() elastic {
	return elastic{departing: map[uint64]*kvdpb.Member{}, removed: map[uint64]struct{}{}}
}

// applyElastic applies the commands about members and replicas; ok is false for
// any other command.
func (s *State) applyElastic(cmd *kvdpb.PlacementCommand) (res *kvdpb.PlacementResult, ok bool) {
	switch c := cmd.GetCommand().(type) {
	case *kvdpb.PlacementCommand_AddMember:
		res = s.addMember(c.AddMember)
	case *kvdpb.PlacementCommand_PromoteMember:
		res = s.promoteMember(c.PromoteMember)
	case *kvdpb.PlacementCommand_RemoveMember:
		res = s.removeMember(c.RemoveMember)
	case *kvdpb.PlacementCommand_SetPeerUrls:
		res = s.setPeerURLs(c.SetPeerUrls)
	case *kvdpb.PlacementCommand_ForgetMember:
		res = s.forgetMember(c.ForgetMember)
	case *kvdpb.PlacementCommand_AddReplica:
		res = s.addReplica(c.AddReplica)
	case *kvdpb.PlacementCommand_PromoteReplica:
		res = s.promoteReplica(c.PromoteReplica)
	case *kvdpb.PlacementCommand_RemoveReplica:
		res = s.removeReplica(c.RemoveReplica)
	case *kvdpb.PlacementCommand_DropReplica:
		res = s.dropReplica(c.DropReplica)
	case *kvdpb.PlacementCommand_RebuildReplica:
		res = s.rebuildReplica(c.RebuildReplica)
	case *kvdpb.PlacementCommand_PreferOwner:
		res = s.preferOwner(c.PreferOwner)
	case *kvdpb.PlacementCommand_SetClusterSettings:
		res = s.setSettings(c.SetClusterSettings)
	default:
		return s.applyMerge(cmd)
	}
	return res, true
}

// elasticCommand tells whether a member may ask for a command of this file.
func elasticCommand(cmd *kvdpb.PlacementCommand) bool {
	switch cmd.GetCommand().(type) {
	case *kvdpb.PlacementCommand_AddMember, *kvdpb.PlacementCommand_PromoteMember, *kvdpb.PlacementCommand_RemoveMember,
		*kvdpb.PlacementCommand_SetPeerUrls, *kvdpb.PlacementCommand_ForgetMember, *kvdpb.PlacementCommand_AddReplica,
		*kvdpb.PlacementCommand_PromoteReplica, *kvdpb.PlacementCommand_RemoveReplica, *kvdpb.PlacementCommand_DropReplica,
		*kvdpb.PlacementCommand_RebuildReplica, *kvdpb.PlacementCommand_PreferOwner, *kvdpb.PlacementCommand_SetClusterSettings,
		*kvdpb.PlacementCommand_BeginMerge, *kvdpb.PlacementCommand_AbortMerge, *kvdpb.PlacementCommand_MergeAborted,
		*kvdpb.PlacementCommand_MergeSurrendered, *kvdpb.PlacementCommand_MergeDone:
		return true
	}
	return false
}

// elasticMeta adds the elastic part to the record of the state.
func (s *State) elasticMeta(p *kvdpb.PlacementState) {
	for _, id := range slices.Sorted(maps.Keys(s.elastic.departing)) {
		p.Departing = append(p.Departing, s.elastic.departing[id])
	}
	p.Removed = slices.Sorted(maps.Keys(s.elastic.removed))
	p.NextReplica = s.elastic.nextReplica
	p.Settings, p.SettingsVersion = s.elastic.settings, s.elastic.settingsVersion
}

func (s *State) setElasticMeta(p *kvdpb.PlacementState) {
	s.elastic = newElastic()
	for _, m := range p.GetDeparting() {
		s.elastic.departing[m.GetId()] = m
	}
	for _, id := range p.GetRemoved() {
		s.elastic.removed[id] = struct{}{}
	}
	s.elastic.nextReplica = p.GetNextReplica()
	s.elastic.settings, s.elastic.settingsVersion = p.GetSettings(), p.GetSettingsVersion()
}

// takeReplicaID gives an id for a member's replica of the placement group.
func (s *State) takeReplicaID() uint64 {
	next := max(s.elastic.nextReplica, 1)
	for _, all := range []map[uint64]*kvdpb.Member{s.members, s.elastic.departing} {
		for _, m := range all {
			next = max(next, m.Replica+1)
		}
	}
	s.elastic.nextReplica = next + 1
	return next
}

// memberList answers a change of members.
func (s *State) memberList() *kvdpb.PlacementResult {
	res := &kvdpb.PlacementResult{}
	for _, id := range slices.Sorted(maps.Keys(s.members)) {
		res.Members = append(res.Members, s.members[id])
	}
	return res
}

// addMember takes a member in, with etcd's checks in etcd's order.
func (s *State) addMember(c *kvdpb.AddMember) *kvdpb.PlacementResult {
	m := c.GetMember()
	if m.GetId() == 0 || len(m.GetPeerUrls()) == 0 {
		return reject(kvdpb.PlacementResult_INVALID, "member without id or peer URL")
	}
	if r := s.refuseRemoved(m.Id); r != nil {
		return r
	}
	if s.members[m.Id] != nil {
		return reject(kvdpb.PlacementResult_MEMBER_EXISTS, "member %016x exists", m.Id)
	}
	if r := s.refuseURLs(m.Id, m.PeerUrls); r != nil {
		return r
	}
	if m.Learner {
		learners := uint64(0)
		for _, other := range s.members {
			if other.Learner {
				learners++
			}
		}
		if learners+1 > c.GetMaxLearners() {
			return reject(kvdpb.PlacementResult_TOO_MANY_LEARNERS, "there are %d learners, at most %d may be", learners, c.GetMaxLearners())
		}
	}
	added := &kvdpb.Member{Id: m.Id, PeerUrls: slices.Clone(m.PeerUrls), Learner: m.Learner, Replica: s.takeReplicaID()}
	s.setMember(added)
	s.seatVoters()
	s.changed()
	return s.memberList()
}

// refuseRemoved refuses an id that was removed.
func (s *State) refuseRemoved(id uint64) *kvdpb.PlacementResult {
	_, gone := s.elastic.removed[id]
	if gone || s.elastic.departing[id] != nil {
		return reject(kvdpb.PlacementResult_NOT_FOUND, "member %016x was removed", id)
	}
	return nil
}

// refuseURLs refuses peer URLs that another member has.
func (s *State) refuseURLs(id uint64, urls []string) *kvdpb.PlacementResult {
	for _, other := range slices.Sorted(maps.Keys(s.members)) {
		for _, u := range s.members[other].PeerUrls {
			if other != id && slices.Contains(urls, u) {
				return reject(kvdpb.PlacementResult_PEER_URL_EXISTS, "member %016x has the peer URL %s", other, u)
			}
		}
	}
	return nil
}

// seatVoters gives the placement group's free votes to members that are no
// learners, those first that came first.
func (s *State) seatVoters() {
	seated := 0
	var waiting []*kvdpb.Member
	for _, m := range s.members {
		switch {
		case m.Votes:
			seated++
		case !m.Learner:
			waiting = append(waiting, m)
		}
	}
	slices.SortFunc(waiting, func(a, b *kvdpb.Member) int { return cmp.Compare(a.Replica, b.Replica) })
	for _, m := range waiting[:min(len(waiting), max(maxVoters-seated, 0))] {
		next := proto.CloneOf(m)
		next.Votes = true
		s.setMember(next)
	}
}

func (s *State) promoteMember(c *kvdpb.PromoteMember) *kvdpb.PlacementResult {
	if r := s.refuseRemoved(c.GetId()); r != nil {
		return r
	}
	old := s.members[c.GetId()]
	switch {
	case old == nil:
		return reject(kvdpb.PlacementResult_NOT_FOUND, "member %016x does not exist", c.GetId())
	case !old.Learner:
		return reject(kvdpb.PlacementResult_NOT_LEARNER, "member %016x is no learner", c.GetId())
	}
	m := proto.CloneOf(old)
	m.Learner = false
	s.setMember(m)
	s.seatVoters()
	s.changed()
	return s.memberList()
}

// removeMember lets a member depart. From here on it only goes forward.
func (s *State) removeMember(c *kvdpb.RemoveMember) *kvdpb.PlacementResult {
	if r := s.refuseRemoved(c.GetId()); r != nil {
		return r
	}
	m := s.members[c.GetId()]
	if m == nil {
		return reject(kvdpb.PlacementResult_NOT_FOUND, "member %016x does not exist", c.GetId())
	}
	left := 0
	for id, other := range s.members {
		if id != m.Id && !other.Learner {
			left++
		}
	}
	if left == 0 {
		return reject(kvdpb.PlacementResult_INVALID, "no voting member would be left")
	}
	delete(s.members, m.Id)
	s.dirty.members[m.Id] = struct{}{}
	s.elastic.departing[m.Id] = m
	s.seatVoters()
	s.changed()
	return s.memberList()
}

// forgetMember ends a departure. The placement group's replica cannot be seen
// here: the owner asks for this only once it has taken that out.
func (s *State) forgetMember(c *kvdpb.ForgetMember) *kvdpb.PlacementResult {
	if _, gone := s.elastic.removed[c.GetId()]; gone {
		return applied()
	}
	if s.elastic.departing[c.GetId()] == nil {
		return reject(kvdpb.PlacementResult_NOT_FOUND, "member %016x does not depart", c.GetId())
	}
	if n := replicasOn(s.shards, c.GetId()); n > 0 {
		return reject(kvdpb.PlacementResult_BUSY, "member %016x has %d replicas", c.GetId(), n)
	}
	delete(s.elastic.departing, c.GetId())
	s.elastic.removed[c.GetId()] = struct{}{}
	s.changed()
	return applied()
}

// replicasOn counts the replicas of shards on a member.
func replicasOn(shards map[uint64]*kvdpb.Descriptor, member uint64) int {
	n := 0
	for _, d := range shards {
		for _, r := range d.Replicas {
			if r.Member == member {
				n++
			}
		}
	}
	return n
}

func (s *State) setPeerURLs(c *kvdpb.SetPeerURLs) *kvdpb.PlacementResult {
	if r := s.refuseRemoved(c.GetId()); r != nil {
		return r
	}
	old := s.members[c.GetId()]
	if old == nil {
		return reject(kvdpb.PlacementResult_NOT_FOUND, "member %016x does not exist", c.GetId())
	}
	if len(c.PeerUrls) == 0 {
		return reject(kvdpb.PlacementResult_INVALID, "member without peer URL")
	}
	if r := s.refuseURLs(c.Id, c.PeerUrls); r != nil {
		return r
	}
	if !slices.Equal(old.PeerUrls, c.PeerUrls) {
		m := proto.CloneOf(old)
		m.PeerUrls = slices.Clone(c.PeerUrls)
		s.setMember(m)
		s.changed()
	}
	return s.memberList()
}

func (s *State) setSettings(c *kvdpb.SetClusterSettings) *kvdpb.PlacementResult {
	if c.GetVersion() != s.elastic.settingsVersion {
		return reject(kvdpb.PlacementResult_STALE, "the settings have version %d, not %d", s.elastic.settingsVersion, c.GetVersion())
	}
	if err := CheckSettings(c.GetSettings()); err != nil {
		return reject(kvdpb.PlacementResult_INVALID, "%v", err)
	}
	s.elastic.settings = c.GetSettings()
	s.elastic.settingsVersion++
	s.changed()
	return applied()
}
