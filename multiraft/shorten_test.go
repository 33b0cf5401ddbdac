package multiraft

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/multiraft/logstore"
)

// unsaved is how much of its log a node's replica would read again if it started now.
func (n *testNode) unsaved(shard uint64) logstore.Unsaved {
	return n.host.logs.Load().MostUnsaved(func(s, _ uint64) bool { return s == shard })
}

func TestLogsAreBoundedInBytes(t *testing.T) {
	const bound, size = 2 << 20, 100_000
	c := newTestCluster(t, 1, func(cfg *Config) { cfg.SnapshotBytes = bound })
	n := c.nodes[0]
	c.group(1, 1)
	c.group(2, 1)
	c.propose(2, "small")
	var want []string
	fill := func(count int) {
		for range count {
			want = append(want, fmt.Sprint(len(want), strings.Repeat("x", size)))
			c.propose(1, want[len(want)-1])
		}
	}
	within := func() {
		t.Helper()
		eventually(t, "the logs are within their bound", func() bool {
			n.host.shortener.look()
			return n.unsaved(1).Entries <= bound/size+1 && n.host.shortener.bytes() <= bound
		})
	}
	fill(100)
	within()
	require.Positive(t, n.unsaved(2).Bytes, "the short log was left alone")

	// What a run leaves counts in the next one: however often a member restarts, its logs do not grow.
	for range 3 {
		left := n.unsaved(1)
		n.stop()
		n.start()
		n.run(ReplicaConfig{Shard: 1})
		eventually(t, "the rest was read", func() bool { return n.unsaved(1).Entries >= left.Entries })
		require.InDelta(t, left.Entries*size, n.unsaved(1).Bytes, 3*size)
		fill(bound/size - 4)
		within()
	}
	c.converged(1, want, n)
}

func TestShortLogsAreLeftAlone(t *testing.T) {
	// None has the least that is worth a snapshot: the sum may exceed the bound.
	c := newTestCluster(t, 1, func(cfg *Config) { cfg.SnapshotBytes = shortenLeast })
	n := c.nodes[0]
	for shard := uint64(1); shard <= 4; shard++ {
		c.group(shard, 1)
		for range 8 {
			c.propose(shard, strings.Repeat("y", 100_000))
		}
	}
	eventually(t, "the logs were looked at", func() bool {
		n.host.shortener.look()
		return n.host.shortener.above.Load() > 3*shortenLeast
	})
	for shard := uint64(1); shard <= 4; shard++ {
		require.GreaterOrEqual(t, n.unsaved(shard).Entries, uint64(8), "shard %d", shard)
	}
}
