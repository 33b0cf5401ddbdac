package multiraft

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSoftSettings(t *testing.T) {
	for _, s := range softSettings {
		require.Equal(t, s.changed, *s.at, "%s is not what it was in the version of Dragonboat this was written for", s.name)
	}
	// The variables are really Dragonboat's: an idle replica takes less than half of the heap it takes otherwise.
	c := newTestCluster(t, 1, nil)
	heap := func() int64 {
		var m runtime.MemStats
		// What pools hold goes at the second collection.
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	const groups = 20
	for shard := uint64(1); shard <= groups; shard++ {
		c.group(shard, 1)
	}
	for shard := uint64(1); shard <= groups; shard++ {
		c.propose(shard, "x")
	}
	require.Less(t, (heap()-before)/groups, int64(550<<10))
}
