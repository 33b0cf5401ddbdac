package balance

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func merging() Settings {
	s := defaults
	s.MergeSmall, s.MergeBytes, s.MergesPerMin = true, 400, 1
	return s
}

func TestMergeOfColdNeighbours(t *testing.T) {
	c, b := newCluster(3, merging()), New()
	for range 6 {
		c.add(1, 60, 0)
	}
	require.Empty(t, c.run(b, 9*time.Minute), "they must be cold for a while")
	c.run(b, 3*time.Hour)
	total := int64(0)
	for i, s := range c.Shards {
		total += s.Bytes
		if i > 0 {
			require.Greater(t, c.Shards[i-1].Bytes+s.Bytes, int64(250), "a quarter of what is split")
		}
	}
	require.EqualValues(t, 360, total)
	require.Less(t, len(c.Shards), 4)
	require.Empty(t, c.run(b, time.Hour), "it settles")
}

func TestNoMergeWithoutReason(t *testing.T) {
	for name, spoil := range map[string]func(c *cluster){
		"off":            func(c *cluster) { c.Settings.MergeSmall = false },
		"warm":           func(c *cluster) { c.Shards[1].Writes = 2 },
		"large":          func(c *cluster) { c.Shards[1].Bytes = 200 },
		"busy":           func(c *cluster) { c.Shards[0].Busy = true },
		"nobody's":       func(c *cluster) { c.Shards[0].Owner = 0 },
		"elsewhere":      func(c *cluster) { c.Shards[1].Voters = []uint64{1, 2, 4} },
		"fewer replicas": func(c *cluster) { c.Shards[1].Voters = []uint64{1, 2} },
	} {
		c, b := newCluster(4, merging()), New()
		c.Settings.BalanceOwners, c.Settings.SplitByLoad = false, false
		c.add(1, 60, 0)
		c.add(1, 60, 0)
		spoil(c)
		for _, d := range c.run(b, time.Hour) {
			require.NotEqual(t, Merge, d.Kind, name)
		}
	}
}
