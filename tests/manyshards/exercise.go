package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

const prefix = "shard/"

// boundary is where shard i begins, and the name of a key in it.
func boundary(i int) string { return fmt.Sprintf("%s%06d", prefix, i) }

// writers is how many clients write at once.
const writers = 16

// touch writes one key in each shard, through the members given or through all; again
// where that failed, if starting says that shards may have no owner yet.
func touch(ctx context.Context, c *cluster.Cluster, shards int, starting bool, through ...*cluster.Member) error {
	cli, err := c.Client(through...)
	if err != nil {
		return err
	}
	defer cli.Close()
	next := make(chan int)
	errs := make(chan error, writers)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for i := range next {
				_, err := cli.Put(ctx, boundary(i), fmt.Sprint(i))
				for starting && err != nil && ctx.Err() == nil {
					_, err = cli.Put(ctx, boundary(i), fmt.Sprint(i))
				}
				if err != nil {
					errs <- fmt.Errorf("put into shard %d: %w", i, err)
					cancel()
					return
				}
			}
		})
	}
feed:
	for i := range shards {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return ctx.Err()
	}
}

// exercise checks that everything works over all shards, and how long it takes.
func exercise(ctx context.Context, c *cluster.Cluster, shards int, f *figures) error {
	cli, err := c.Client()
	if err != nil {
		return err
	}
	defer cli.Close()
	began := time.Now()
	all, err := cli.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return fmt.Errorf("range over all shards: %w", err)
	}
	f.ranged = time.Since(began)
	if len(all.Kvs) != shards {
		return fmt.Errorf("range over all shards: %d keys of %d", len(all.Kvs), shards)
	}
	for i, kv := range all.Kvs {
		if string(kv.Key) != boundary(i) || string(kv.Value) != fmt.Sprint(i) {
			return fmt.Errorf("key %d is %q with %q", i, kv.Key, kv.Value)
		}
	}
	if f.watch, err = watched(ctx, c, cli, shards, all.Header.Revision); err != nil {
		return fmt.Errorf("watch over all shards: %w", err)
	}

	var puts []clientv3.Op
	for i := range min(10, shards) {
		puts = append(puts, clientv3.OpPut(boundary(i*shards/10), "txn"))
	}
	began = time.Now()
	resp, err := cli.Txn(ctx).Then(puts...).Commit()
	if err != nil {
		return fmt.Errorf("transaction over shards: %w", err)
	}
	f.txn = time.Since(began)
	for i := range puts {
		got, err := cli.Get(ctx, boundary(i*shards/10))
		if err != nil {
			return err
		}
		if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "txn" || got.Kvs[0].ModRevision != resp.Header.Revision {
			return fmt.Errorf("after a transaction at revision %d: %v", resp.Header.Revision, got.Kvs)
		}
	}
	return nil
}

// watched watches all shards while each is written to, from the revision after a
// list, and returns how long it took until all was seen.
func watched(ctx context.Context, c *cluster.Cluster, cli *clientv3.Client, shards int, listed int64) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	events := cli.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(listed+1))
	began := time.Now()
	wrote := make(chan error, 1)
	go func() { wrote <- touch(ctx, c, shards, false) }()
	seen, revision := map[string]bool{}, listed
	for len(seen) < shards {
		resp, ok := <-events
		if !ok {
			return 0, fmt.Errorf("it ended after %d events", len(seen))
		}
		if err := resp.Err(); err != nil {
			return 0, fmt.Errorf("after %d events: %w", len(seen), err)
		}
		for _, e := range resp.Events {
			key := string(e.Kv.Key)
			if e.Kv.ModRevision <= revision || seen[key] {
				return 0, fmt.Errorf("%q at revision %d after %d, seen before: %v", key, e.Kv.ModRevision, revision, seen[key])
			}
			seen[key], revision = true, e.Kv.ModRevision
		}
	}
	took := time.Since(began)
	return took, <-wrote
}
