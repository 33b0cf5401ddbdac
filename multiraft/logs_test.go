package multiraft

import (
	"maps"
	"slices"
	"testing"

	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/stretchr/testify/require"
)

// A replica whose group lost its majority goes on alone with all that is in its log, whether it voted or followed, and whether or not the log was cut; what a
// log tells of its group is what Dragonboat makes of it.
func TestSurvive(t *testing.T) {
	c := newTestCluster(t, 3, nil)
	c.group(1, 3)
	c.group(2, 2)
	last := c.nodes[2]
	leader := c.leader(2)
	m, err := leader.host.Membership(c.ctx(), 2)
	require.NoError(t, err)
	require.NoError(t, leader.host.AddNonVoting(c.ctx(), 2, 3, 3, m.ConfigChangeID))
	last.run(ReplicaConfig{Shard: 2, Join: true, NonVoting: true})
	var want []string
	for _, cmd := range []string{"a", "b", "c", "d"} {
		want = append(want, cmd)
		c.propose(1, cmd)
		c.propose(2, cmd)
		c.converged(1, want, last)
		c.converged(2, want, last)
		if cmd == "b" {
			require.NoError(t, last.host.RequestSnapshot(c.ctx(), 1, true, 0))
		}
	}
	groups := map[uint64]Membership{}
	for shard := uint64(1); shard <= 2; shard++ {
		if groups[shard], err = c.leader(shard).host.Membership(c.ctx(), shard); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.nodes {
		n.stop()
	}

	logs, err := OpenLogs(last.config())
	require.NoError(t, err)
	for shard, group := range groups {
		log, err := logs.Log(shard, 3)
		require.NoError(t, err)
		require.True(t, log.Member && log.Others)
		require.Equal(t, shard == 2, log.Whole)
		require.Equal(t, group.ConfigChangeID, log.group.changeID)
		require.ElementsMatch(t, slices.Collect(maps.Keys(group.Voters)), slices.Collect(maps.Keys(log.group.voters)))
		require.ElementsMatch(t, slices.Collect(maps.Keys(group.NonVoting)), slices.Collect(maps.Keys(log.group.nonVoting)))
	}
	var read []string
	require.NoError(t, logs.Commands(2, 3, 0, func(cmd []byte) error { read = append(read, string(cmd)); return nil }))
	require.Equal(t, want, read)
	empty, err := logs.Log(9, 3)
	require.NoError(t, err)
	require.Zero(t, empty.Last)
	require.False(t, empty.Member)

	// All or nothing.
	require.ErrorContains(t, logs.Survive([]Survivor{{Shard: 1, Replica: 3}, {Shard: 9, Replica: 3}}), "is not part of shard 9")
	log, err := logs.Log(1, 3)
	require.NoError(t, err)
	require.True(t, log.Others)
	require.NoError(t, logs.Survive([]Survivor{{Shard: 1, Replica: 3, Command: []byte("last word")}, {Shard: 2, Replica: 3}}))
	log, err = logs.Log(2, 3)
	require.NoError(t, err)
	require.True(t, log.Member && !log.Others)
	require.NoError(t, logs.Close())

	last.start()
	last.run(ReplicaConfig{Shard: 1})
	last.run(ReplicaConfig{Shard: 2})
	c.propose(1, "alone")
	c.propose(2, "alone")
	c.converged(1, append(slices.Clone(want), "last word", "alone"), last)
	c.converged(2, append(slices.Clone(want), "alone"), last)
	for shard := uint64(1); shard <= 2; shard++ {
		m, err := last.host.Membership(c.ctx(), shard)
		require.NoError(t, err)
		require.Equal(t, map[uint64]uint64{3: 3}, m.Voters)
		require.Empty(t, m.NonVoting)
		// The group grows again, under a new replica id.
		require.NoError(t, last.host.AddNonVoting(c.ctx(), shard, 4, 1, m.ConfigChangeID))
	}
}

func TestLogsOfANewDirectory(t *testing.T) {
	logs, err := OpenLogs(Config{Dir: t.TempDir(), MemberID: 1, DeploymentID: 2})
	require.NoError(t, err)
	require.Nil(t, logs)
}

// Changes that were asked for on another membership, or that make no sense, do not apply.
func TestGroupFollowsTheRules(t *testing.T) {
	g := newGroup(raftpb.Membership{})
	index := uint64(0)
	change := func(kind raftpb.ConfigChangeType, id uint64, address string, on uint64, initial bool) {
		index++
		g.apply(&raftpb.ConfigChange{Type: kind, ReplicaID: id, Address: address, ConfigChangeId: on, Initialize: initial}, index)
	}
	change(raftpb.AddNode, 1, "a", 0, true)
	change(raftpb.AddNode, 2, "b", 0, true)
	require.Equal(t, map[uint64]string{1: "a", 2: "b"}, g.voters)
	change(raftpb.AddNode, 3, "c", 1, false) // on an older membership
	change(raftpb.AddNode, 3, "b", 2, false) // an address that another one has
	change(raftpb.AddNonVoting, 2, "b", 2, false)
	require.Equal(t, uint64(2), g.changeID)
	change(raftpb.AddNonVoting, 3, "c", 2, false)
	require.Equal(t, map[uint64]string{3: "c"}, g.nonVoting)
	change(raftpb.AddNode, 3, "d", index, false) // a promotion that moves
	require.Len(t, g.voters, 2)
	change(raftpb.AddNode, 3, "c", g.changeID, false)
	require.Len(t, g.voters, 3)
	change(raftpb.RemoveNode, 2, "", g.changeID, false)
	change(raftpb.AddNode, 2, "b", g.changeID, false) // it was removed
	require.Equal(t, map[uint64]string{1: "a", 3: "c"}, g.voters)
	change(raftpb.RemoveNode, 1, "", g.changeID, false)
	change(raftpb.RemoveNode, 3, "", g.changeID, false) // the last one
	require.Equal(t, map[uint64]string{3: "c"}, g.voters)

	follows := newGroup(raftpb.Membership{Addresses: map[uint64]string{1: "a"}, NonVotings: map[uint64]string{5: "e"}, Removed: map[uint64]bool{2: true}})
	for _, cc := range follows.alone(5) {
		follows.apply(&cc, 100)
	}
	require.Equal(t, map[uint64]string{5: "e"}, follows.voters)
	require.Empty(t, follows.nonVoting)
}
