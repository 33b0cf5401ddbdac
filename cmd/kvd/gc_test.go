package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPercentFollowsWhatIsAlive(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{{0, gcPercent}, {10 << 20, gcPercent}, {64 << 20, gcPercent}, {128 << 20, 200}, {256 << 20, leastGCPercent}, {4 << 30, leastGCPercent}} {
		require.Equal(t, c.want, percentFor(c.live, 256<<20), "%d bytes alive", c.live)
	}
}

// TestCollectorIsTuned: the collector's setting falls after a collection that found much alive, and rises when that is gone.
func TestCollectorIsTuned(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(leastGCPercent))
	tuneGC(16 << 20)
	setting := func() int {
		s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(s)
		return int(s[0].Value.Uint64())
	}
	collectUntil := func(cond func() bool) {
		t.Helper()
		require.Eventually(t, func() bool { runtime.GC(); return cond() }, time.Minute, time.Millisecond)
	}
	much := make([]byte, 64<<20)
	collectUntil(func() bool { return setting() == leastGCPercent })
	runtime.KeepAlive(much)
	much = nil
	collectUntil(func() bool { return setting() > leastGCPercent })
}
