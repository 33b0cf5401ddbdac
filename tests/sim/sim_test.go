package sim

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

const seed = 1

// TestScenarios plays each scenario of the report in its short form.
func TestScenarios(t *testing.T) {
	for _, s := range Scenarios(seed, false) {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			r, err := Play(s)
			require.NoError(t, err)
			for _, c := range r.Claims {
				if !c.Holds {
					t.Errorf("%s: %s, %s", c.What, c.Got, c.Bound)
				}
			}
		})
	}
}

// TestSeedsGiveTheSameRun compares every sample of two runs.
func TestSeedsGiveTheSameRun(t *testing.T) {
	play := func(seed uint64) Result {
		r, err := Play(losing(seed, false))
		require.NoError(t, err)
		return r
	}
	first := play(seed)
	require.Equal(t, first.Samples, play(seed).Samples)
	require.NotEqual(t, first.Samples, play(seed+1).Samples)
}

// TestSequencer has 50 members ask the sequencer.
func TestSequencer(t *testing.T) {
	s, err := NewSequencer(seed, 50)
	require.NoError(t, err)
	steps := SequencerSteps(false)
	results, err := s.Run(steps)
	require.NoError(t, err)
	for i, r := range results {
		t.Logf("%+v", r)
		if steps[i].Rate >= 20_000 {
			// Members send one message at a time, which takes half a millisecond.
			require.Less(t, r.Messages, 2000.0)
			require.Less(t, r.P99, 10*time.Millisecond)
			require.Less(t, r.SkippedTime, 2.0, "the window is about a second of use")
			require.Less(t, r.Windows, 10.0)
			require.Positive(t, r.Renewals)
		}
	}
	require.LessOrEqual(t, s.left(), int64(4*1<<14), "a window that is not used any more is given back")
	require.LessOrEqual(t, s.Remembered(), 50)
}

// TestFlappingIsFound has the checks look at a cluster that never settles, so that
// they cannot hold whatever happens.
func TestFlappingIsFound(t *testing.T) {
	s := losing(seed, false)
	s.Until = 12 * time.Minute
	r, err := Play(s)
	require.NoError(t, err)
	broken := 0
	for _, c := range r.Claims {
		if !c.Holds {
			broken++
		}
	}
	require.NotZero(t, broken, "a repair that has just begun is neither whole nor settled")

	w, err := New(Config{Seed: seed, Members: 4, Shards: 20, Sample: time.Second, Bandwidth: mib,
		Settings: &kvdpb.ClusterSettings{}, Load: func(time.Duration) Load { return Load{Bytes: mib} }})
	require.NoError(t, err)
	w.Kill(1, 2)
	w.Run(time.Minute)
	require.NotZero(t, w.samples[len(w.samples)-1].Headless, "some shards have lost their majority")
	w.Restart(1, 2)
	w.Run(2 * time.Minute)
	require.Zero(t, w.samples[len(w.samples)-1].Headless)
}

func TestDensities(t *testing.T) {
	w, err := New(Config{Seed: seed, Members: 3, Shards: 7, Skew: 1, Sample: time.Second, Settings: &kvdpb.ClusterSettings{},
		Load: func(time.Duration) Load { return Load{Bytes: 1000, Writes: 10, Share: 0.5, Centre: 0.3, Width: 0.1} }})
	require.NoError(t, err)
	bytes, writes := 0.0, 0.0
	for _, s := range w.shards {
		bytes += s.bytes
		writes += s.writes
	}
	require.InDelta(t, 1000, bytes, 1e-6)
	require.InDelta(t, 10, writes, 1e-9)
	at, ok := halve(0, positions, w.writesUpTo)
	require.True(t, ok)
	require.InDelta(t, 0.5, w.writesUpTo(at), 1e-6)
	_, ok = halve(5, 6, w.writesUpTo)
	require.False(t, ok)
	require.Equal(t, at, place(encodedKey(at)))
}
