package server

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// Shards are split and merged while clients write and read single keys, write pairs of keys over both shards, keep a lease
// alive and watch: nothing fails, nothing is lost, no revision is skipped, and what was is still there at its revision.
func TestShardsAreMergedUnderLoad(t *testing.T) {
	c := newCluster(t, 3)
	all := []int{0, 1, 2}
	defer c.stop(all...)
	c.start(t, all...)
	cli := c.client(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	lease, err := cli.Grant(ctx, 60)
	require.NoError(t, err)
	for i := range 100 {
		_, err := cli.Put(ctx, fmt.Sprintf("k%02d", i), "old", clientv3.WithLease(lease.ID))
		require.NoError(t, err)
	}
	watch := cli.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithRev(2))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	written := map[string]string{}
	errs := make([]error, 4)
	for n := range errs {
		wg.Go(func() {
			for i := 0; errs[n] == nil; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				left, right, v := fmt.Sprintf("k%d%d", n, i%10), fmt.Sprintf("k%d%d", 9-n, i%10), fmt.Sprint(n, ".", i)
				if n == 3 {
					// One client writes keys of both halves in one transaction.
					if _, errs[n] = cli.Txn(ctx).Then(clientv3.OpPut(left, v), clientv3.OpPut(right, v)).Commit(); errs[n] == nil {
						mu.Lock()
						written[left], written[right] = v, v
						mu.Unlock()
					}
					continue
				}
				if _, errs[n] = cli.Put(ctx, left, v, clientv3.WithLease(lease.ID)); errs[n] != nil {
					continue
				}
				mu.Lock()
				written[left] = v
				mu.Unlock()
				got, err := cli.Get(ctx, left)
				if errs[n] = err; err == nil && (len(got.Kvs) != 1 || string(got.Kvs[0].Value) != v) {
					errs[n] = fmt.Errorf("%s is %v after %s was written", left, got.Kvs, v)
				}
			}
		})
	}
	operate := operations{c.members[2]}
	for _, key := range []string{"k45", "k70", "k20"} {
		left, right, err := c.members[0].router.Split(ctx, []byte(key))
		require.NoError(t, err)
		var absorbed uint64
		// The split is done once every member has its seed.
		require.Eventually(t, func() bool {
			absorbed, err = operate.Merge(ctx, left.Shard, 0, true)
			// A machine that is slow may not copy in time; then it is asked for again.
			return status.Code(err) != codes.FailedPrecondition && status.Code(err) != codes.Aborted
		}, 3*time.Minute, 20*time.Millisecond)
		require.NoError(t, err)
		require.Equal(t, right.Shard, absorbed)
		infos, _, err := c.members[2].router.Shards(ctx)
		require.NoError(t, err)
		require.Len(t, infos, 1)
		require.Equal(t, keyspace.Max(), infos[0].Descriptor.End)
	}
	close(stop)
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	_, err = operate.Merge(ctx, 2, 0, true)
	require.ErrorContains(t, err, "has no right neighbour")

	// Every member has it all, now and at the revision of before.
	last, err := cli.Get(ctx, "nothing")
	require.NoError(t, err)
	for i := range 3 {
		got, err := c.client(t, i).Get(ctx, "k", clientv3.WithPrefix())
		require.NoError(t, err)
		require.Len(t, got.Kvs, 100)
		for _, kv := range got.Kvs {
			if v := written[string(kv.Key)]; v != "" {
				require.Equal(t, v, string(kv.Value), "%s", kv.Key)
			}
		}
		old, err := c.client(t, i).Get(ctx, "k", clientv3.WithPrefix(), clientv3.WithRev(101))
		require.NoError(t, err)
		require.Len(t, old.Kvs, 100)
		require.False(t, slices.ContainsFunc(old.Kvs, func(kv *mvccpb.KeyValue) bool { return string(kv.Value) != "old" }))
	}
	// The watch saw every revision once, in order.
	next := int64(2)
	for next <= last.Header.Revision {
		resp, ok := <-watch
		require.True(t, ok)
		require.NoError(t, resp.Err())
		for _, e := range resp.Events {
			require.True(t, e.Kv.ModRevision == next || e.Kv.ModRevision == next-1, "revision %d, not %d", e.Kv.ModRevision, next)
			next = e.Kv.ModRevision + 1
		}
	}
	// A restart of all finds the one shard, and the lease takes its keys along.
	c.stop(all...)
	c.start(t, all...)
	ttl, err := c.client(t, 0).TimeToLive(ctx, lease.ID)
	require.NoError(t, err)
	require.Positive(t, ttl.TTL)
	_, err = c.client(t, 0).Revoke(ctx, lease.ID)
	require.NoError(t, err)
	got, err := c.client(t, 2).Get(ctx, "k", clientv3.WithPrefix(), clientv3.WithLimit(1))
	require.NoError(t, err)
	for _, kv := range got.Kvs {
		require.Zero(t, kv.Lease)
	}
}
