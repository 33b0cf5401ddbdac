package placement

import (
	"context"
	"errors"
	"flag"
	"math/rand"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

func TestFreshClusterServesAtOnce(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(2)
		require.EqualValues(t, 1, c.current(ctx, 1))
		require.EqualValues(t, 2, c.allocate(ctx, 1, 1))
		require.EqualValues(t, 3, c.allocate(ctx, 2, 4))
		require.EqualValues(t, 7, c.allocate(ctx, 3, 1))
		require.EqualValues(t, 7, c.current(ctx, 2))
		require.Less(t, time.Since(c.start), 100*time.Millisecond)
		for id := range c.disks {
			n := c.node(id)
			require.EqualValues(t, 77, n.ClusterID())
			require.EqualValues(t, 2, n.SequencerMember())
			require.Equal(t, id == 2, n.Serving())
			require.Len(t, n.Members(), 3)
			require.EqualValues(t, 1, n.Term())
		}
		require.EqualValues(t, 1, c.node(2).Counters().Claims.Load())
	})
}

// Whatever many callers on all members do at once, every revision is given once
// and none is missing.
func TestDenseUnderConcurrency(t *testing.T) {
	for _, mode := range []ReadMode{ReadLease, ReadQuorum} {
		bubble(t, 3, mode, func(t *testing.T, c *cluster, ctx context.Context) {
			c.log.lead(1)
			var mu sync.Mutex
			var all []int64
			var wg sync.WaitGroup
			for id := range c.disks {
				for range 20 {
					wg.Go(func() {
						for i := range 10 {
							n := 1 + i%3
							g, err := c.node(id).Allocate(ctx, n, 0)
							if err != nil {
								t.Error(err)
								return
							}
							mu.Lock()
							for j := range n {
								all = append(all, g.First+int64(j))
							}
							mu.Unlock()
							cur, err := c.node(id).Current(ctx)
							if err != nil || cur.First < g.First+int64(n)-1 {
								t.Errorf("current %d after %d: %v", cur.First, g.First, err)
							}
						}
					})
				}
			}
			wg.Wait()
			slices.Sort(all)
			for i, r := range all {
				require.EqualValues(t, i+2, r)
			}
			require.Less(t, c.node(2).Counters().Messages.Load(), uint64(300), "callers are batched")
		})
	}
}

func TestCrashOfTheSequencer(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(1)
		require.EqualValues(t, 2, c.allocate(ctx, 3, 1))
		end := c.node(1).View().WindowEnd
		c.kill(1)
		c.log.lead(2)
		began := time.Now()
		// The waiting owners' proof comes while the new sequencer still waits.
		_, err := c.node(3).Probe(ctx)
		var not *ownership.ErrNotServing
		require.ErrorAs(t, err, &not)
		require.EqualValues(t, 2, not.SeqEpoch)
		require.Less(t, time.Since(began), 50*time.Millisecond)
		require.EqualValues(t, end-1, c.current(ctx, 3))
		require.EqualValues(t, end, c.allocate(ctx, 3, 1))
		require.InDelta(t, 450, time.Since(began).Milliseconds(), 25)
		s, err := c.node(3).Probe(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 2, s.SeqEpoch)
		// It comes back as another process, which follows.
		c.boot(1)
		require.EqualValues(t, end+1, c.allocate(ctx, 1, 1))
	})
}

// A restart of the sequencer's own process need not wait: its former self is gone.
func TestRestartInPlace(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(1)
		require.EqualValues(t, 2, c.allocate(ctx, 1, 1))
		end := c.node(1).View().WindowEnd
		c.kill(1)
		began := time.Now()
		c.boot(1)
		c.log.lead(1)
		require.EqualValues(t, end, c.allocate(ctx, 2, 1))
		require.Less(t, time.Since(began), 200*time.Millisecond)
	})
}

func TestHandOverSkipsNothing(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(1)
		next := int64(2)
		// Callers go on through all of it.
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var mu sync.Mutex
		var all []int64
		for id := range c.disks {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(3 * time.Millisecond):
					}
					r := c.allocate(ctx, id, 1)
					mu.Lock()
					all = append(all, r)
					mu.Unlock()
				}
			})
		}
		for _, to := range []uint64{2, 1, 3, 1} {
			time.Sleep(40 * time.Millisecond)
			began := time.Now()
			from := c.node(c.node(1).SequencerMember())
			require.NoError(t, from.HandOver(ctx, to))
			for !c.node(to).Serving() {
				time.Sleep(time.Millisecond)
			}
			require.Less(t, time.Since(began), 50*time.Millisecond)
		}
		time.Sleep(40 * time.Millisecond)
		close(stop)
		wg.Wait()
		slices.Sort(all)
		require.Greater(t, len(all), 100)
		for _, r := range all {
			require.Equal(t, next, r)
			next++
		}
		require.Error(t, c.node(1).HandOver(ctx, 1))
		require.Error(t, c.node(1).HandOver(ctx, 9))
	})
}

// Pitfall 11: the late claim of a leader that has stepped down installs an owner
// that is not the raft leader. The leader finds itself without ownership and
// claims again.
func TestLateClaimOfAFormerLeader(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(1)
		require.EqualValues(t, 2, c.allocate(ctx, 3, 1))
		c.log.lead(2)
		require.EqualValues(t, 258, c.allocate(ctx, 3, 1))
		own := c.node(3).View().Ownership
		late := command(&kvdpb.Claim{PreviousEpoch: own.Epoch, Member: 1, Replica: 1, Incarnation: c.node(1).cfg.Incarnation})
		b, err := proto.Marshal(late)
		require.NoError(t, err)
		c.log.mu.Lock()
		c.log.mu.entries = append(c.log.mu.entries, b)
		c.log.mu.Unlock()
		c.log.spread()
		c.allocate(ctx, 3, 1)
		own = c.node(3).View().Ownership
		require.EqualValues(t, 2, own.Member)
		require.EqualValues(t, 4, own.Epoch)
		require.True(t, own.Serving)
	})
}

// The proposer may never learn what became of its claim, Serving or window.
func TestOutcomesLost(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.mu.Lock()
		c.log.mu.nodes[1].lose = 3
		c.log.mu.Unlock()
		c.log.lead(1)
		require.EqualValues(t, 2, c.allocate(ctx, 2, 1))
		require.EqualValues(t, 1, c.node(1).View().Ownership.Epoch, "the lost claim was found applied")
		c.log.mu.Lock()
		c.log.mu.nodes[1].lose = 2
		c.log.mu.Unlock()
		require.EqualValues(t, 3, c.allocate(ctx, 2, 5000))
		require.EqualValues(t, 5003, c.allocate(ctx, 3, 1))
	})
}

// A claim is lost in a change of leader that comes back to the same member: it
// does not wait for the lost one.
func TestClaimLostWithItsTerm(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.mu.Lock()
		c.log.mu.nodes[1].swallow = 1
		c.log.mu.Unlock()
		c.log.lead(1)
		synctest.Wait()
		c.log.lead(2)
		c.log.lead(1)
		// Member 2 may have claimed and served meanwhile.
		for began := time.Now(); !c.node(1).Serving(); time.Sleep(time.Millisecond) {
			require.Less(t, time.Since(began), 800*time.Millisecond)
		}
	})
}

// A deposed sequencer that hears nothing of it stops by itself before its
// successor serves.
func TestIsolatedSequencerStops(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(1)
		c.allocate(ctx, 1, 1)
		c.isolate(1, true)
		c.log.lead(2)
		last := time.Time{}
		for {
			if _, ok := c.node(1).TryCurrent(); ok {
				last = time.Now()
			}
			if c.node(2).Serving() {
				break
			}
			time.Sleep(time.Millisecond)
		}
		require.NotZero(t, last)
		require.Greater(t, time.Since(last), driftMargin-2*time.Millisecond)
		short, cancel := context.WithTimeout(ctx, time.Second)
		_, err := c.node(1).Current(short)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
		require.EqualValues(t, 258, c.allocate(ctx, 3, 1))
		c.isolate(1, false)
		require.EqualValues(t, 259, c.allocate(ctx, 1, 1))
	})
}

// Pitfall 22: all members are told to stop at once, while each still has something
// under way.
func TestCleanRestartSkipsNothing(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(2)
		require.EqualValues(t, 1, c.current(ctx, 1))
		next := int64(2)
		for round := range 3 {
			var mu sync.Mutex
			var all []int64
			var wg sync.WaitGroup
			for id := range c.disks {
				wg.Go(func() {
					n := c.node(id)
					n.Stopping()
					// What this member had begun still gets its revisions.
					for range int(id) * 4 {
						time.Sleep(7 * time.Millisecond)
						r := c.allocate(ctx, id, 1)
						mu.Lock()
						all = append(all, r)
						mu.Unlock()
					}
					if err := n.Release(ctx); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			slices.Sort(all)
			for _, r := range all {
				require.Equal(t, next, r)
				next++
			}
			for id := range c.disks {
				require.NoError(t, c.disks[id].Sync())
				require.True(t, c.node(id).View().Ownership.Released)
				c.kill(id)
			}
			for id := range c.disks {
				c.boot(id)
			}
			c.log.lead(uint64(round) + 1)
			require.Equal(t, next-1, c.current(ctx, 3))
		}
		require.Equal(t, next, c.allocate(ctx, 1, 1))
	})
}

// Members stop one after another: with the second one the majority goes, so the
// sequencer releases while it still can.
func TestStopInTurnSkipsNothing(t *testing.T) {
	for _, order := range [][]uint64{{1, 2, 3}, {2, 1, 3}, {3, 1, 2}, {3, 2, 1}} {
		bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
			c.log.lead(1)
			next := int64(2)
			for range 2 {
				for i, id := range order {
					if i < 2 {
						// Two members are a majority.
						require.Equal(t, next, c.allocate(ctx, order[2], 1))
						next++
					}
					began := time.Now()
					require.NoError(t, c.node(id).Release(ctx))
					require.Less(t, time.Since(began), time.Second)
					require.NoError(t, c.disks[id].Sync())
					if i == 1 {
						require.True(t, c.node(order[2]).View().Ownership.Released, "%v", order)
						c.log.cut(order[2], true)
					}
					c.kill(id)
				}
				c.log.cut(order[2], false)
				for _, id := range order {
					c.boot(id)
				}
				c.log.lead(order[1])
				require.Equal(t, next-1, c.current(ctx, order[0]))
				time.Sleep(time.Second)
			}
			require.Equal(t, next, c.allocate(ctx, 1, 1))
			for _, id := range order {
				require.Zero(t, c.node(id).leaving.count.Load(), "all have said that they are back")
			}
		})
	}
}

// A majority that says it stops and then does not leaves the cluster without a
// sequencer for a moment only.
func TestMajorityComesBack(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(1)
		require.EqualValues(t, 2, c.allocate(ctx, 3, 1))
		for _, id := range []uint64{2, 3} {
			c.node(1).HandleFrame(id, appendLeave(nil, leave{stage: drained, incarnation: 99}))
		}
		synctest.Wait()
		require.True(t, c.node(1).View().Ownership.Released)
		require.EqualValues(t, 3, c.allocate(ctx, 3, 1))
	})
}

// One member stops alone: nobody waits, and the sequencer's leadership moves.
func TestOneMemberStops(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(1)
		require.EqualValues(t, 2, c.allocate(ctx, 3, 1))
		began := time.Now()
		require.NoError(t, c.node(1).Release(ctx))
		require.EqualValues(t, 3, c.allocate(ctx, 3, 1))
		require.Less(t, time.Since(began), time.Second)
		require.NotEqualValues(t, 1, c.node(3).SequencerMember())
		c.kill(1)
		// A stopping member that never drains holds the others only until their
		// deadline.
		other := c.node(3).SequencerMember()
		c.node(5 - other).Stopping()
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		require.ErrorIs(t, c.node(other).Release(short), context.DeadlineExceeded)
		require.True(t, c.node(other).View().Ownership.Released, "nor does it cost the release")
	})
}

func TestIdleCostsNothing(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(1)
		for range 50 {
			c.allocate(ctx, 2, 500)
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		n := c.node(1)
		v := n.View()
		left := v.WindowEnd - c.current(ctx, 1)
		require.LessOrEqual(t, left, int64(4*minWindow+1), "an idle sequencer gives back its window")
		time.Sleep(time.Second)
		renewals, index := n.Counters().Renewals.Load(), n.View().Index
		time.Sleep(time.Hour)
		require.Equal(t, renewals, n.Counters().Renewals.Load())
		require.Equal(t, index, n.View().Index)
	})
}

func TestMembersBeyondTheVotersFollow(t *testing.T) {
	bubble(t, 7, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(1)
		require.EqualValues(t, 2, c.allocate(ctx, 7, 1))
		time.Sleep(10 * time.Second)
		c.log.mu.Lock()
		defer c.log.mu.Unlock()
		require.Equal(t, map[uint64]uint64{6: 6, 7: 7}, c.log.mu.followers)
		require.LessOrEqual(t, c.log.mu.follows, 8)
	})
}

func TestBusySequencerNeverWaits(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(1)
		c.allocate(ctx, 1, 1)
		c.log.mu.Lock()
		c.log.mu.delay = 10 * time.Millisecond
		c.log.mu.Unlock()
		n := c.node(1)
		waits := n.Counters().Parked.Load()
		for range 3000 {
			began := time.Now()
			c.allocate(ctx, 1, 5)
			require.Zero(t, time.Since(began))
			time.Sleep(time.Millisecond)
		}
		require.Equal(t, waits, n.Counters().Parked.Load())
		require.Less(t, n.Counters().Renewals.Load(), uint64(40))
		require.Less(t, n.Counters().Windows.Load(), uint64(25))
		require.Less(t, n.View().WindowEnd-c.current(ctx, 1), int64(3*5000), "about a second of use")
	})
}

func TestUpdateFromAnyMember(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(1)
		require.NoError(t, c.node(2).UpdateSelf(ctx, "zwei", []string{"http://c2:2379"}))
		require.NoError(t, c.node(3).Barrier(ctx))
		require.Equal(t, "zwei", c.node(3).View().Member(2).Name)

		key := keyspace.User([]byte("k"))
		d, err := c.node(3).BeginSplit(ctx, 2, 1, key)
		require.NoError(t, err)
		again, err := c.node(1).BeginSplit(ctx, 2, 1, key)
		require.NoError(t, err)
		require.Equal(t, d.Shard, again.Shard)
		var told []*Map
		cancel := c.node(2).Subscribe(func(v *View) { told = append(told, v.Map) })
		for id := range c.disks {
			d, err = c.node(id).ConfirmSeed(ctx, d.Shard)
			require.NoError(t, err)
		}
		require.Equal(t, kvdpb.Descriptor_LIVE, d.Phase)
		require.Len(t, d.Seeded, 3)
		synctest.Wait()
		require.NotEmpty(t, told)
		require.Equal(t, 2, told[len(told)-1].Len())
		cancel()
		count := len(told)

		err = c.node(2).AbortSplit(ctx, d.Shard)
		var rejected *RejectedError
		require.ErrorAs(t, err, &rejected)
		require.Equal(t, stale, rejected.Rejection)
		_, err = c.node(2).Update(ctx, command(&kvdpb.Claim{Member: 2, Replica: 2, Incarnation: 2}))
		require.ErrorAs(t, err, &rejected)
		_, err = c.node(1).Service().Update(ctx, command(&kvdpb.ExtendWindow{}))
		require.Error(t, err)
		res, err := c.node(2).Service().Update(ctx, command(&kvdpb.AbortSplit{Child: 99}))
		require.NoError(t, err)
		require.Equal(t, deposed, res.Rejection, "a member that is not the owner passes nothing on")
		synctest.Wait()
		require.Len(t, told, count)
	})
}

// An update begun while there is no owner goes through once there is one; one whose
// outcome is lost is sent again.
func TestUpdateWaitsForAnOwner(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		err := c.node(2).UpdateSelf(short, "x", nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, ownership.ErrNoSequencer)
		cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := c.node(2).UpdateSelf(ctx, "two", nil); err != nil {
				t.Error(err)
			}
		})
		c.log.lead(1)
		wg.Wait()
		require.Equal(t, "two", c.node(1).View().Member(2).Name)

		c.allocate(ctx, 1, 20)
		c.log.mu.Lock()
		c.log.mu.nodes[1].lose = 1
		c.log.mu.Unlock()
		_, err = c.node(3).Compact(ctx, 7)
		require.NoError(t, err, "the first try had applied")
	})
}

func TestCompact(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		c.log.lead(1)
		c.allocate(ctx, 1, 20)
		current, err := c.node(2).Compact(ctx, 10)
		require.NoError(t, err)
		require.EqualValues(t, 21, current)
		for id := range c.disks {
			g, err := c.node(id).Current(ctx)
			require.NoError(t, err)
			require.EqualValues(t, 10, g.Stamp.CompactRevision)
			_, err = c.node(id).Compact(ctx, 10)
			require.ErrorIs(t, err, rpctypes.ErrGRPCCompacted)
			_, err = c.node(id).Compact(ctx, 22)
			require.ErrorIs(t, err, rpctypes.ErrGRPCFutureRev)
		}
		_, err = c.node(3).Compact(ctx, 21)
		require.NoError(t, err)
		// After a crash the lost part of the window counts as used.
		c.kill(1)
		c.log.lead(2)
		_, err = c.node(3).Compact(ctx, c.current(ctx, 3))
		require.NoError(t, err)
	})
}

func TestCallersMayLeave(t *testing.T) {
	bubble(t, 3, ReadLease, func(t *testing.T, c *cluster, ctx context.Context) {
		n := c.node(1)
		gone, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := n.Allocate(gone, 1, 0); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		for _, bad := range []int{0, -1, maxAllocate + 1} {
			_, err := n.Allocate(ctx, bad, 0)
			require.Error(t, err)
		}
		wg.Go(func() {
			if _, err := n.Current(ctx); !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := n.UpdateSelf(ctx, "x", nil); !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		})
		synctest.Wait()
		n.Close()
		wg.Wait()
	})
}

func TestQueueIsBounded(t *testing.T) {
	var stats Counters
	c := &client{closed: make(chan struct{}), stats: &stats, newTimer: func(func()) timer { return stillTimer{} },
		sequencer: func() (uint64, uint64) { return 0, 0 }}
	for range maxWaiting + 1 {
		_, err := c.enqueue(mainLane, 1, 0)
		require.NoError(t, err)
	}
	_, err := c.enqueue(mainLane, 1, 0)
	require.ErrorIs(t, err, ErrBusy)
	_, err = c.enqueue(probeLane, 0, 0)
	require.NoError(t, err)
	require.EqualValues(t, 1, c.mu.lanes[mainLane].ask.count)
	require.NotPanics(t, func() { (&Node{client: c, seq: &sequencer{stats: &stats}}).PeerDown(3) })
}

var (
	firstSeed = flag.Int64("seed", 0, "first seed of the chaos test")
	seeds     = flag.Int64("seeds", 8, "how many seeds the chaos test runs")
)

// TestChaos lets callers on all members allocate and ask while leaders change,
// members are cut off, killed and brought back, and frames are lost. Whatever
// happens: no revision is given twice, and whoever begins after another has
// finished sees the larger one.
func TestChaos(t *testing.T) {
	for _, mode := range []ReadMode{ReadLease, ReadQuorum} {
		for seed := *firstSeed; seed < *firstSeed+*seeds; seed++ {
			bubble(t, 3, mode, func(t *testing.T, c *cluster, ctx context.Context) { chaos(t, c, ctx, seed) })
		}
	}
}

// op is one finished request.
type op struct {
	from, to time.Time
	first    int64
	n        int
	stamp    ownership.Stamp
}

func chaos(t *testing.T, c *cluster, ctx context.Context, seed int64) {
	rng, losses := rand.New(rand.NewSource(seed)), rand.New(rand.NewSource(^seed))
	var mu sync.Mutex
	lossy := false
	c.mu.Lock()
	c.mu.drop = func(uint64, uint64) bool {
		mu.Lock()
		defer mu.Unlock()
		return lossy && losses.Intn(4) == 0
	}
	c.mu.Unlock()
	c.log.mu.Lock()
	c.log.mu.delay = 2 * time.Millisecond
	c.log.mu.Unlock()
	c.log.lead(1)

	var ops []op
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for id := range c.disks {
		for k := range 3 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Duration(1+k) * time.Millisecond):
					}
					n := c.node(id)
					if n == nil {
						continue
					}
					// Half of the callers give up early, as deposed owners do.
					ctx, cancel := context.WithTimeout(ctx, time.Duration(1+k)*200*time.Millisecond)
					o := op{from: time.Now(), n: k}
					var g Grant
					var err error
					if k == 0 {
						g, err = n.Current(ctx)
					} else {
						g, err = n.Allocate(ctx, k, 0)
					}
					cancel()
					o.to, o.first, o.stamp = time.Now(), g.First, g.Stamp
					if err == nil {
						mu.Lock()
						ops = append(ops, o)
						mu.Unlock()
					}
				}
			})
		}
	}
	for range 40 {
		time.Sleep(time.Duration(rng.Intn(300)) * time.Millisecond)
		id := uint64(rng.Intn(3)) + 1
		switch rng.Intn(6) {
		case 0:
			c.log.lead(id)
		case 1:
			c.isolate(id, true)
			time.Sleep(time.Duration(rng.Intn(100)) * time.Millisecond)
			c.log.lead(id%3 + 1)
		case 2:
			for other := range c.disks {
				c.isolate(other, false)
			}
		case 3:
			mu.Lock()
			lossy = !lossy
			mu.Unlock()
		case 4:
			if n := c.node(id); n != nil {
				short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
				// May fail in any way: the cluster is being broken.
				_ = n.HandOver(short, id%3+1)
				cancel()
			}
		case 5:
			c.kill(id)
			c.log.lead(id%3 + 1)
			time.Sleep(time.Duration(rng.Intn(600)) * time.Millisecond)
			c.boot(id)
			c.isolate(id, false)
		}
	}
	// Heal, and demand progress.
	mu.Lock()
	lossy = false
	mu.Unlock()
	for id := range c.disks {
		c.isolate(id, false)
	}
	c.log.lead(1)
	for id := range c.disks {
		began := time.Now()
		_, err := c.node(id).Allocate(ctx, 1, 0)
		require.NoError(t, err, "seed %d", seed)
		require.Less(t, time.Since(began), 1200*time.Millisecond, "seed %d", seed)
	}
	close(stop)
	wg.Wait()

	require.Greater(t, len(ops), 500, "seed %d", seed)
	given := map[int64]bool{}
	for _, o := range ops {
		for r := o.first; r < o.first+int64(o.n); r++ {
			require.False(t, given[r], "seed %d: revision %d given twice", seed, r)
			given[r] = true
		}
	}
	// In order of their ends, the largest revision that had been told before each
	// operation began.
	byEnd := slices.Clone(ops)
	slices.SortFunc(byEnd, func(a, b op) int { return a.to.Compare(b.to) })
	slices.SortFunc(ops, func(a, b op) int { return a.from.Compare(b.from) })
	told, i := op{}, 0
	for _, o := range ops {
		for ; i < len(byEnd) && byEnd[i].to.Before(o.from); i++ {
			if last := byEnd[i].first + int64(max(byEnd[i].n, 1)) - 1; last > told.first {
				told = byEnd[i]
				told.first = last
			}
		}
		require.GreaterOrEqual(t, o.first, told.first+int64(min(o.n, 1)), "seed %d: %+v began after %+v had ended", seed, o, told)
	}
}
