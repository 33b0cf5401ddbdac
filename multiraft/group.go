package multiraft

import (
	"maps"
	"slices"

	"github.com/lni/dragonboat/v4/raftpb"
)

// group follows a group's membership through a log, by Dragonboat's rules for ordered changes: one applies only if it was asked for on the membership that
// stands. There are no witnesses.
type group struct {
	changeID          uint64
	voters, nonVoting map[uint64]string
	removed           map[uint64]bool
	// named are all replicas that were ever part of the group, or were to be.
	named map[uint64]bool
}

// newGroup begins with the membership that a snapshot kept; with none at the log's first entry.
func newGroup(m raftpb.Membership) *group {
	g := &group{changeID: m.ConfigChangeId, voters: map[uint64]string{}, nonVoting: map[uint64]string{}, removed: map[uint64]bool{}, named: map[uint64]bool{}}
	maps.Copy(g.voters, m.Addresses)
	maps.Copy(g.nonVoting, m.NonVotings)
	maps.Copy(g.removed, m.Removed)
	for _, list := range []map[uint64]string{m.Addresses, m.NonVotings} {
		for id := range list {
			g.named[id] = true
		}
	}
	return g
}

// apply takes in the change in the entry at index.
func (g *group) apply(cc *raftpb.ConfigChange, index uint64) {
	id := cc.ReplicaID
	g.named[id] = true
	if !cc.Initialize && cc.ConfigChangeId != g.changeID {
		return
	}
	_, votes := g.voters[id]
	address, follows := g.nonVoting[id]
	switch {
	case cc.Type == raftpb.RemoveNode:
		if votes && len(g.voters) == 1 {
			return
		}
		delete(g.voters, id)
		delete(g.nonVoting, id)
		g.removed[id] = true
	case g.removed[id] || votes:
		return
	case cc.Type == raftpb.AddNode && follows:
		if address != cc.Address {
			return
		}
		delete(g.nonVoting, id)
		g.voters[id] = cc.Address
	case follows || g.has(cc.Address):
		return
	case cc.Type == raftpb.AddNode:
		g.voters[id] = cc.Address
	case cc.Type == raftpb.AddNonVoting:
		g.nonVoting[id] = cc.Address
	default:
		return
	}
	g.changeID = index
}

func (g *group) has(address string) bool {
	for _, list := range []map[uint64]string{g.voters, g.nonVoting} {
		for _, a := range list {
			if a == address {
				return true
			}
		}
	}
	return false
}

// alone returns the changes that leave one replica, which must be part of the group, as the only one. They apply whatever the membership is: nothing rests on
// this type having followed all changes right, except who the replica is.
func (g *group) alone(replica uint64) []raftpb.ConfigChange {
	var changes []raftpb.ConfigChange
	if address, follows := g.nonVoting[replica]; follows {
		changes = append(changes, raftpb.ConfigChange{Type: raftpb.AddNode, ReplicaID: replica, Address: address, Initialize: true})
	}
	for _, other := range slices.Sorted(maps.Keys(g.named)) {
		if other != replica {
			changes = append(changes, raftpb.ConfigChange{Type: raftpb.RemoveNode, ReplicaID: other, Initialize: true})
		}
	}
	return changes
}
