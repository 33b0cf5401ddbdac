package multiraft

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// counter is a state machine that costs nothing.
type counter struct{ memory }

func (c *counter) Open(<-chan struct{}) (uint64, error) { return 0, nil }
func (c *counter) Apply(entries []Entry) error          { return nil }
func (c *counter) Sync() error                          { return nil }

func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPropose measures proposals of 128 bytes with real fsync, over loopback, all members in one process.
func BenchmarkPropose(b *testing.B) {
	for _, size := range []int{1, 3} {
		for _, groups := range []int{1, 8} {
			for _, depth := range []int{1, 8, 500} {
				b.Run(fmt.Sprintf("members=%d/groups=%d/inflight=%d", size, groups, depth), func(b *testing.B) { benchmarkPropose(b, size, groups, depth) })
			}
		}
	}
}

func benchmarkPropose(b *testing.B, size, groups, depth int) {
	c := newTestCluster(b, size, func(cfg *Config) { cfg.Heartbeat, cfg.Election = 100*time.Millisecond, time.Second })
	initial := make(map[uint64]uint64)
	for _, n := range c.nodes {
		initial[n.id] = n.id
	}
	for shard := uint64(1); shard <= uint64(groups); shard++ {
		for _, n := range c.nodes {
			require.NoError(b, n.host.StartReplica(ReplicaConfig{Shard: shard, Replica: n.id, Initial: initial, QuickFirstElection: n.id == 1},
				func() StateMachine { return &counter{} }))
		}
	}
	for shard := uint64(1); shard <= uint64(groups); shard++ {
		c.leader(shard)
	}
	cmd := make([]byte, 128)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	b.Cleanup(cancel)
	latencies := make([][]time.Duration, groups)
	b.ResetTimer()
	begin := cpu()
	var wg sync.WaitGroup
	for g := range groups {
		wg.Add(1)
		go func() {
			defer wg.Done()
			shard := uint64(g + 1)
			host := c.leader(shard).host
			type flight struct {
				p  Proposal
				at time.Time
			}
			flights := make(chan flight, max(depth/groups, 1))
			done := make(chan struct{})
			go func() {
				defer close(done)
				for f := range flights {
					if o := f.p.Wait(ctx); o.Kind != Applied {
						b.Errorf("%v: %v", o.Kind, o.Err)
					}
					latencies[g] = append(latencies[g], time.Since(f.at))
				}
			}()
			for i := g; i < b.N; i += groups {
				at := time.Now()
				p, err := host.Propose(shard, cmd)
				if err != nil {
					b.Errorf("propose: %v", err)
					break
				}
				if depth/groups <= 1 {
					if o := p.Wait(ctx); o.Kind != Applied {
						b.Errorf("%v: %v", o.Kind, o.Err)
					}
					latencies[g] = append(latencies[g], time.Since(at))
					continue
				}
				flights <- flight{p, at}
			}
			close(flights)
			<-done
		}()
	}
	wg.Wait()
	b.StopTimer()
	var all []time.Duration
	for _, l := range latencies {
		all = append(all, l...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	b.ReportMetric(float64((cpu()-begin).Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-us")
}

// BenchmarkReadIndex measures linearizable reads on the leader, one at a time.
func BenchmarkReadIndex(b *testing.B) {
	c := newTestCluster(b, 3, nil)
	c.group(1, 3)
	c.propose(1, "x")
	host := c.leader(1).host
	ctx := c.ctx()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := host.ReadIndex(ctx, 1); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIdle measures what groups cost that nobody writes to, all led by one of three members in one process: CPU for each group and heartbeat,
// of all three members together. An operation is a heartbeat of all groups, so that a busy machine, on which ticks are lost, shows the same.
func BenchmarkIdle(b *testing.B) {
	for _, all := range []bool{true, false} {
		b.Run(fmt.Sprintf("all=%v", all), func(b *testing.B) { benchmarkIdle(b, all) })
	}
}

func benchmarkIdle(b *testing.B, all bool) {
	const groups = 150
	c := newTestCluster(b, 3, func(cfg *Config) {
		cfg.Heartbeat, cfg.Election = 100*time.Millisecond, time.Second
		if all {
			cfg.idleAfter = time.Hour
		}
	})
	initial := map[uint64]uint64{1: 1, 2: 2, 3: 3}
	var led sync.WaitGroup
	for shard := uint64(1); shard <= groups; shard++ {
		for _, n := range c.nodes {
			require.NoError(b, n.host.StartReplica(ReplicaConfig{Shard: shard, Replica: n.id, Initial: initial, QuickFirstElection: n.id == 1},
				func() StateMachine { return &counter{} }))
		}
	}
	for shard := uint64(1); shard <= groups; shard++ {
		led.Go(func() { c.lead(shard, c.nodes[0], 1) })
	}
	led.Wait()
	beats := func() int {
		k := &c.nodes[0].host.counters
		return int(k.withheld.Load()+k.heartbeats.Load()) / (2 * groups)
	}
	eventually(b, "they count as idle", func() bool { return all || c.nodes[0].host.counters.withheld.Load() > 10*groups })
	b.ResetTimer()
	begin, first := cpu(), beats()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for beats()-first < b.N {
		<-tick.C
	}
	b.ReportMetric(float64((cpu()-begin).Microseconds())/float64((beats()-first)*groups), "cpu-us/group/heartbeat")
}
