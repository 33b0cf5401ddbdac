package lease

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// TestEndResumesFromEachStep fails each step of ending a lease, before it was
// carried out and after it: whatever was lost, the keys go once, and then the record.
func TestEndResumesFromEachStep(t *testing.T) {
	for _, step := range []string{"inspect", "fence", "txn", "drop"} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after=%v", step, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFake(t, "c")
					_, err := f.m.Grant(t.Context(), 7, 60)
					require.NoError(t, err)
					f.attach(7, "a", "d")
					failures := 0
					breaks := func(s string) error {
						if s == step && failures < 3 {
							failures++
							return errLost
						}
						return nil
					}
					if after {
						f.lose = breaks
					} else {
						f.fail = breaks
					}
					f.look(func() { f.records[7].Revoking = true })
					Shards{f.m}.Revoke(7)
					synctest.Wait()
					// Pauses after failures grow to a second.
					time.Sleep(10 * time.Second)
					synctest.Wait()
					// What was done although its answer was lost is not done again.
					if after && (step == "txn" || step == "drop") {
						require.Equal(t, 1, failures)
					} else {
						require.Equal(t, 3, failures)
					}
					require.Empty(t, f.records)
					require.Empty(t, f.attached)
					require.Equal(t, int64(2), f.revision, "all keys went in one revision")
				})
			})
		}
	}
}

// TestEndLeavesKeysOfOthers: what was attached elsewhere meanwhile stays.
func TestEndLeavesKeysOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		for _, id := range []int64{7, 8} {
			_, err := f.m.Grant(t.Context(), id, 60)
			require.NoError(t, err)
		}
		f.attach(7, "a", "b")
		f.gate = make(chan struct{})
		f.look(func() { f.records[7].Revoking = true })
		Shards{f.m}.Revoke(7)
		synctest.Wait()
		f.attach(8, "b")
		close(f.gate)
		synctest.Wait()
		require.Equal(t, [][]string{{"a"}}, f.txns)
		require.Len(t, f.attached, 1)
		require.Len(t, f.records, 1)
	})
}

// TestEndOfALeaseThatWasGrantedAgain: a lease that is not marked is not ended.
func TestEndOfALeaseThatWasGrantedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		_, err := f.m.Grant(t.Context(), 7, 60)
		require.NoError(t, err)
		f.attach(7, "a")
		Shards{f.m}.Revoke(7)
		Shards{f.m}.Revoke(9)
		synctest.Wait()
		require.Len(t, f.records, 1)
		require.Len(t, f.attached, 1)
		require.Empty(t, f.txns)
	})
}

// TestManyEndAFewAtATime: ending is bounded in width, told twice is done once, and
// all is done.
func TestManyEndAFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		const many = 500
		f.gate = make(chan struct{})
		for id := range int64(many) {
			_, err := f.m.Grant(t.Context(), id+1, 60)
			require.NoError(t, err)
			f.attach(id+1, fmt.Sprintf("k%03d", id))
			f.look(func() { f.records[id+1].Revoking = true })
		}
		for range 2 {
			for id := range int64(many) {
				Shards{f.m}.Revoke(id + 1)
			}
		}
		synctest.Wait()
		f.look(func() { require.Equal(t, maxWorkers, f.working) })
		close(f.gate)
		synctest.Wait()
		require.Equal(t, maxWorkers, f.most)
		require.Len(t, f.txns, many)
		require.Empty(t, f.records)
		require.Zero(t, f.m.mu.workers)
		require.Empty(t, f.m.mu.ending)
	})
}

// TestCloseEndsTheWork: what cannot be ended is left to whoever owns the records.
func TestCloseEndsTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.fail = func(string) error { return errors.New("nobody is there") }
		for id := range int64(100) {
			Shards{f.m}.Revoke(id + 1)
		}
		synctest.Wait()
		f.m.Close()
		asked := len(f.steps)
		Shards{f.m}.Revoke(200)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Len(t, f.steps, asked)
	})
}

// TestEndOfNothing: a record that is gone is the end, however often it is
// asked for.
func TestEndOfNothing(t *testing.T) {
	f := newFake(t)
	require.NoError(t, f.m.end(t.Context(), 7))
	require.NoError(t, f.m.end(t.Context(), 7))
	_, err := f.m.Describe(t.Context(), 7)
	require.ErrorIs(t, err, rpctypes.ErrGRPCLeaseNotFound)
}
