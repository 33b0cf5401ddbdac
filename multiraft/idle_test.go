package multiraft

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestIdleGroupsNoticeALostLeader: groups that nobody writes to, whose heartbeats are withheld for the most part, keep their leaders while all members
// are there, and elect others once their leaders' member is lost.
func TestIdleGroupsNoticeALostLeader(t *testing.T) {
	const groups = 30
	c := newTestCluster(t, 3, nil)
	for shard := uint64(1); shard <= groups; shard++ {
		c.group(shard, 3)
	}
	first := c.nodes[0]
	for shard := uint64(1); shard <= groups; shard++ {
		c.lead(shard, first, first.id)
	}
	before := first.host.Stats().Withheld
	eventually(t, "most heartbeats are withheld", func() bool { return first.host.Stats().Withheld-before >= groups*50 })
	first.stop()
	for shard := uint64(1); shard <= groups; shard++ {
		require.NotEqual(t, first.id, c.propose(shard, "after").id)
	}
	first.start()
	for shard := uint64(1); shard <= groups; shard++ {
		first.run(ReplicaConfig{Shard: shard})
	}
	for shard := uint64(1); shard <= groups; shard++ {
		c.converged(shard, []string{"after"}, c.nodes...)
	}
}

func TestTick(t *testing.T) {
	for _, c := range []struct {
		heartbeat, election, tick time.Duration
		ticks                     uint64
	}{
		{100 * time.Millisecond, time.Second, 200 * time.Millisecond, 5},
		{100 * time.Millisecond, 1500 * time.Millisecond, 200 * time.Millisecond, 7},
		{100 * time.Millisecond, 900 * time.Millisecond, 100 * time.Millisecond, 9},
		{100 * time.Millisecond, 500 * time.Millisecond, 100 * time.Millisecond, 5},
		{10 * time.Millisecond, 50 * time.Second, 20 * time.Millisecond, 2500},
	} {
		cfg := Config{Heartbeat: c.heartbeat, Election: c.election}
		require.Equal(t, c.tick, cfg.tick())
		require.Equal(t, c.ticks, cfg.electionTicks())
	}
}
