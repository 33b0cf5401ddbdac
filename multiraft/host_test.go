package multiraft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestProposeReadAndLeaderChange(t *testing.T) {
	c := newTestCluster(t, 3, nil)
	c.group(1, 3)
	var want []string
	for i := range 20 {
		cmd := fmt.Sprint("a", i)
		c.propose(1, cmd)
		want = append(want, cmd)
	}
	leader := c.leader(1)
	p, err := leader.host.Propose(1, []byte("result"))
	require.NoError(t, err)
	o := p.Wait(c.ctx())
	require.Equal(t, Outcome{Kind: Applied, Result: 21, Data: []byte("did result")}, o)
	want = append(want, "result")
	for _, n := range c.nodes {
		// A read index of a follower covers what was applied on the leader before.
		require.NoError(t, n.host.ReadIndex(c.ctx(), 1))
		require.Equal(t, want, n.machine(1).commands())
		if n != leader {
			_, err := n.host.Propose(1, []byte("x"))
			require.ErrorIs(t, err, ErrNotLeader)
			replica, term, known := n.host.Leader(1)
			require.True(t, known)
			require.Equal(t, leader.id, replica)
			require.NotZero(t, term)
		}
	}
	_, err = leader.host.Propose(2, []byte("x"))
	require.ErrorIs(t, err, ErrNotFound)
	_, err = leader.host.Propose(1, nil)
	require.ErrorIs(t, err, ErrTooLarge)

	leader.stop()
	second := c.propose(1, "after")
	require.NotEqual(t, leader.id, second.id)
	want = append(want, "after")
	leader.start()
	leader.run(ReplicaConfig{Shard: 1})
	c.converged(1, want, c.nodes...)

	for _, n := range c.nodes {
		n.mu.Lock()
		last := uint64(0)
		for _, e := range n.leaders {
			require.Equal(t, n.id, e.Replica)
			if n != leader {
				require.GreaterOrEqual(t, e.Term, last, "member %d: %+v", n.id, n.leaders)
			}
			last = e.Term
		}
		n.mu.Unlock()
	}
}

func TestRestartOfAllFromDisk(t *testing.T) {
	c := newTestCluster(t, 3, nil)
	c.group(1, 3)
	c.group(2, 1)
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprint("c", i))
		c.propose(1, want[i])
		c.propose(2, want[i])
	}
	for _, n := range c.nodes {
		n.stop()
	}
	for _, n := range c.nodes {
		n.start()
		n.run(ReplicaConfig{Shard: 1})
	}
	c.nodes[0].run(ReplicaConfig{Shard: 2})
	c.propose(1, "more")
	c.propose(2, "more")
	want = append(want, "more")
	c.converged(1, want, c.nodes...)
	c.converged(2, want, c.nodes[0])
}

func TestALaggingReplicaIsSentASnapshot(t *testing.T) {
	c := newTestCluster(t, 3, nil)
	c.group(1, 3)
	c.propose(1, "first")
	lagging := c.nodes[2]
	if c.leader(1) == lagging {
		lagging = c.nodes[1]
	}
	lagging.stop()
	want := []string{"first"}
	for i := range 30 {
		// Enough for several chunks of a snapshot.
		cmd := fmt.Sprintf("%d %0200000d", i, i)
		c.propose(1, cmd)
		want = append(want, cmd)
	}
	leader := c.leader(1)
	require.NoError(t, leader.host.RequestSnapshot(c.ctx(), 1, true, 0))
	require.ErrorIs(t, leader.host.RequestSnapshot(c.ctx(), 1, true, 0), ErrRejected)
	lagging.start()
	m := lagging.run(ReplicaConfig{Shard: 1})
	c.converged(1, want, lagging)
	require.Equal(t, 1, m.mu.restored)
	eventually(t, "the event came", func() bool { return lagging.saw(ReplicaRestored, 1) })
	c.propose(1, "last")
	c.converged(1, append(want, "last"), c.nodes...)
}

func TestMembersComeAndGo(t *testing.T) {
	c := newTestCluster(t, 4, nil)
	c.group(1, 3)
	c.propose(1, "first")
	leader := c.leader(1)
	m, err := leader.host.Membership(c.ctx(), 1)
	require.NoError(t, err)
	require.Equal(t, map[uint64]uint64{1: 1, 2: 2, 3: 3}, m.Voters)
	require.Empty(t, m.NonVoting)

	// A stale change is refused.
	require.ErrorIs(t, leader.host.AddNonVoting(c.ctx(), 1, 14, 4, m.ConfigChangeID+7), ErrRejected)
	require.NoError(t, leader.host.AddNonVoting(c.ctx(), 1, 14, 4, m.ConfigChangeID))
	joiner := c.nodes[3]
	joiner.run(ReplicaConfig{Shard: 1, Replica: 14, Join: true, NonVoting: true})
	c.converged(1, []string{"first"}, joiner)

	m, err = leader.host.Membership(c.ctx(), 1)
	require.NoError(t, err)
	require.Equal(t, map[uint64]uint64{14: 4}, m.NonVoting)
	require.NoError(t, leader.host.AddReplica(c.ctx(), 1, 14, 4, m.ConfigChangeID))
	m, err = leader.host.Membership(c.ctx(), 1)
	require.NoError(t, err)
	require.Equal(t, map[uint64]uint64{1: 1, 2: 2, 3: 3, 14: 4}, m.Voters)

	// The old leader goes; it learns so by itself, and its data can go too.
	target := c.nodes[0]
	if target == leader {
		target = c.nodes[1]
	}
	c.lead(1, target, target.id)
	require.NoError(t, target.host.RemoveReplica(c.ctx(), 1, leader.id, m.ConfigChangeID))
	eventually(t, "the removed replica knows", func() bool { return leader.saw(ReplicaRemoved, 1) || !leader.host.Running(1) })
	require.NoError(t, leader.host.StopReplica(c.ctx(), 1, leader.id))
	require.NoError(t, leader.host.RemoveReplicaData(c.ctx(), 1, leader.id))
	require.False(t, leader.host.HasReplica(1, leader.id))
	err = leader.host.StartReplica(ReplicaConfig{Shard: 1, Replica: leader.id, Join: true}, func() StateMachine { return &memory{} })
	require.ErrorIs(t, err, ErrRemoved)
	c.propose(1, "second")

	// A member that was promoted can lead after a restart, although it began as non-voting, whether from its log or from a snapshot.
	for round := range 2 {
		require.NoError(t, joiner.host.RequestSnapshot(c.ctx(), 1, true, 0))
		joiner.stop()
		joiner.start()
		joiner.run(ReplicaConfig{Shard: 1, Replica: 14})
		c.propose(1, fmt.Sprint("round ", round))
		c.lead(1, joiner, 14)
		c.propose(1, fmt.Sprint("led ", round))
	}
}

func TestAReplicaGivesWayToAnother(t *testing.T) {
	c := newTestCluster(t, 3, nil)
	c.group(1, 3)
	c.propose(1, "first")
	for replica := uint64(11); replica < 14; replica++ {
		leader := c.leader(1)
		moving := c.nodes[0]
		if moving == leader {
			moving = c.nodes[1]
		}
		old := moving.host.replica(1).id
		require.ErrorIs(t, moving.host.StartReplica(ReplicaConfig{Shard: 1, Replica: replica, Join: true}, nil), ErrExists)
		m, err := leader.host.Membership(c.ctx(), 1)
		require.NoError(t, err)
		require.NoError(t, leader.host.RemoveReplica(c.ctx(), 1, old, m.ConfigChangeID))
		m, err = leader.host.Membership(c.ctx(), 1)
		require.NoError(t, err)
		require.NoError(t, leader.host.AddReplica(c.ctx(), 1, replica, moving.id, m.ConfigChangeID))
		machine := moving.machine(1)
		require.NoError(t, moving.host.StopReplica(c.ctx(), 1, old))
		require.True(t, machine.mu.closed)
		require.NoError(t, moving.host.RemoveReplicaData(c.ctx(), 1, old))
		moving.run(ReplicaConfig{Shard: 1, Replica: replica, Join: true})
		c.propose(1, fmt.Sprint("replica ", replica))
		c.converged(1, c.leader(1).machine(1).commands(), moving)
	}
	// The same replica may stop and start too.
	n := c.nodes[2]
	id := n.host.replica(1).id
	for range 3 {
		require.NoError(t, n.host.StopReplica(c.ctx(), 1, id))
		require.False(t, n.host.Running(1))
		n.run(ReplicaConfig{Shard: 1, Replica: id})
	}
	c.propose(1, "last")
	c.converged(1, c.leader(1).machine(1).commands(), c.nodes...)
}

func TestSeededGroup(t *testing.T) {
	// A child's replicas hold data before their first entry; a member that joins later gets it by snapshot once one was taken after that entry.
	c := newTestCluster(t, 4, nil)
	initial := map[uint64]uint64{1: 1, 2: 2, 3: 3}
	for _, n := range c.nodes[:3] {
		m := &memory{disk: &disk{n.dir + "/seeded"}}
		m.mu.state.Seed = "seed"
		require.NoError(t, m.Sync())
		n.machines[9] = m
		require.NoError(t, n.host.StartReplica(ReplicaConfig{Shard: 9, Replica: n.id, Initial: initial}, func() StateMachine { return m }))
	}
	c.propose(9, "init")
	leader := c.leader(9)
	for _, n := range c.nodes[:3] {
		c.converged(9, []string{"init"}, n)
		require.NoError(t, n.host.RequestSnapshot(c.ctx(), 9, true, 0))
	}
	m, err := leader.host.Membership(c.ctx(), 9)
	require.NoError(t, err)
	require.NoError(t, leader.host.AddReplica(c.ctx(), 9, 4, 4, m.ConfigChangeID))
	joiner := c.nodes[3].run(ReplicaConfig{Shard: 9, Join: true})
	c.converged(9, []string{"init"}, c.nodes[3])
	joiner.mu.Lock()
	defer joiner.mu.Unlock()
	require.Equal(t, "seed", joiner.mu.state.Seed)
}

func TestCampaignElectsFast(t *testing.T) {
	// With etcd's intervals the first election takes one to two seconds; a campaign must not.
	c := newTestCluster(t, 3, func(cfg *Config) { cfg.Heartbeat, cfg.Election = 100*time.Millisecond, time.Second })
	c.group(1, 3)
	c.propose(1, "parent")
	initial := map[uint64]uint64{1: 1, 2: 2, 3: 3}
	var took []time.Duration
	for shard := uint64(2); shard < 12; shard++ {
		first := c.nodes[shard%3]
		begin := time.Now()
		first.run(ReplicaConfig{Shard: shard, Initial: initial, QuickFirstElection: true})
		for _, n := range c.nodes {
			if n != first {
				n.run(ReplicaConfig{Shard: shard, Initial: initial})
			}
		}
		eventually(t, "the chosen replica leads", func() bool {
			replica, _, known := first.host.Leader(shard)
			return known && replica == first.id
		})
		elected := time.Since(begin)
		require.Equal(t, first, c.propose(shard, "init"))
		took = append(took, elected)
		t.Logf("shard %d: led after %v, first entry after %v", shard, elected, time.Since(begin))
	}
	// A machine that stalls may make one of them slow, an election makes all.
	slices.Sort(took)
	require.Less(t, took[len(took)/2], 900*time.Millisecond)
	// Alone it cannot win, but it does as soon as a second one is there.
	c.nodes[0].run(ReplicaConfig{Shard: 20, Initial: initial, QuickFirstElection: true})
	eventually(t, "it is ready", func() bool { return c.nodes[0].saw(ReplicaReady, 20) })
	c.nodes[1].run(ReplicaConfig{Shard: 20, Initial: initial})
	eventually(t, "it leads", func() bool { replica, _, known := c.nodes[0].host.Leader(20); return known && replica == 1 })
	require.NoError(t, c.nodes[0].host.Campaign(20))
	require.ErrorIs(t, c.nodes[2].host.Campaign(20), ErrNotFound)
	// Campaign on another replica takes the leadership over.
	eventually(t, "the other one leads", func() bool {
		replica, _, known := c.nodes[1].host.Leader(20)
		if known && replica != 2 {
			require.NoError(t, c.nodes[1].host.Campaign(20))
		}
		return known && replica == 2
	})
}

func TestStoppedHostAndMissingQuorum(t *testing.T) {
	c := newTestCluster(t, 3, nil)
	c.group(1, 3)
	c.propose(1, "first")
	leader := c.leader(1)
	for _, n := range c.nodes {
		if n != leader {
			n.stop()
		}
	}
	p, err := leader.host.Propose(1, []byte("lost"))
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		require.NotEqual(t, Applied, p.Wait(ctx).Kind)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	err = leader.host.ReadIndex(ctx, 1)
	require.True(t, errors.Is(err, ErrTimeout) || errors.Is(err, ErrNotReady), "%v", err)
	eventually(t, "the leader steps down", func() bool { _, _, known := leader.host.Leader(1); return !known })
	_, err = leader.host.Propose(1, []byte("x"))
	require.ErrorIs(t, err, ErrNotLeader)
	host := leader.host
	leader.stop()
	require.ErrorIs(t, host.StartReplica(ReplicaConfig{Shard: 3, Replica: 1, Join: true}, nil), ErrStopped)
	_, err = host.Propose(1, []byte("x"))
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorIs(t, host.Campaign(1), ErrNotFound)
	_, err = host.Membership(c.ctx(), 1)
	require.ErrorIs(t, err, ErrStopped)
}
