package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

type options struct {
	kvd, kvctl, dir               string
	members, writers, each, value int
	splitBytes                    int64
	gib                           float64
	wait, patience                time.Duration
}

// keys is the number of large keys.
func (o options) keys() int { return int(o.gib * (1 << 30) / float64(o.value)) }

func main() {
	var o options
	flag.StringVar(&o.kvd, "kvd", "bin/kvd", "kvd's `binary`")
	flag.StringVar(&o.kvctl, "kvctl", "bin/kvctl", "kvctl's `binary`")
	flag.StringVar(&o.dir, "dir", "", "`directory` for the data, which takes about eight times -gib with three members; empty is a temporary one")
	flag.Int64Var(&o.splitBytes, "split-bytes", 512<<20, "the `size` at which the scheduler splits a shard")
	flag.IntVar(&o.members, "members", 3, "how many members")
	flag.Float64Var(&o.gib, "gib", 5, "size of all values in GiB")
	flag.IntVar(&o.value, "value", 16<<10, "size of a value in bytes")
	flag.IntVar(&o.writers, "writers", 8, "how many clients write large values")
	flag.IntVar(&o.each, "steady", 2, "how many steady clients each member has")
	flag.DurationVar(&o.wait, "wait", 5*time.Second, "how long a steady request may wait")
	flag.DurationVar(&o.patience, "patience", 10*time.Minute, "how long after the last write the last split may come")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	passed, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bigstore:", err)
	}
	if err != nil || !passed {
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (passed bool, err error) {
	opts := cluster.Options{Binary: o.kvd, Members: o.members, Dir: o.dir, Args: []string{fmt.Sprintf("--quota-backend-bytes=%d", int64(4*o.gib*(1<<30)))}}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	c, err := cluster.Start(ready, opts)
	cancel()
	if err != nil {
		return false, err
	}
	defer c.Close()
	if _, err := c.Kvctl(ctx, o.kvctl, "cluster", "settings", "set", "split-bytes", fmt.Sprint(o.splitBytes)); err != nil {
		return false, err
	}
	var clients []*clientv3.Client
	for _, m := range c.Members {
		cli, err := c.Client(m)
		if err != nil {
			return false, err
		}
		defer cli.Close()
		clients = append(clients, cli)
	}
	loading, cancel := context.WithCancel(ctx)
	defer cancel()
	s := startSteady(clientv3.WithRequireLeader(loading), clients, o.each, o.keys())
	return grow(ctx, o, c, clients[0], s, cancel)
}

// grow writes all keys, waits for the last split, and judges.
func grow(ctx context.Context, o options, c *cluster.Cluster, cli *clientv3.Client, s *steady, cancel context.CancelFunc) (passed bool, err error) {
	var written atomic.Int64
	filled := make(chan error, 1)
	began := time.Now()
	go func() { filled <- fill(ctx, cli, o, &written) }()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	var shards []cluster.Shard
	var full time.Time
	whole := false
	for !whole && (full.IsZero() || time.Since(full) < o.patience) {
		select {
		case err := <-filled:
			if err != nil {
				return false, err
			}
			full, filled = time.Now(), nil
			fmt.Printf("%6.0f s  all was written\n", time.Since(began).Seconds())
		case <-tick.C:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		if shards, err = c.Shards(ctx, o.kvctl, "--command-timeout=30s"); err != nil {
			return false, err
		}
		whole = !full.IsZero() && largest(shards) <= o.splitBytes
		fmt.Printf("%6.0f s  %5.2f GiB  %3d shards, the largest %4d MiB  longest wait %v\n", time.Since(began).Seconds(),
			float64(written.Load())/(1<<30), len(shards), largest(shards)>>20, s.longest().Round(time.Millisecond))
	}
	s.stop()
	missed, err := ended(ctx, s)
	if err != nil {
		return false, err
	}
	cancel()
	s.wg.Wait()
	got, err := cli.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return false, err
	}
	large, err := countLarge(ctx, cli, o)
	if err != nil {
		return false, err
	}
	fmt.Printf("%.1f GiB in %v, %d shards; %d steady requests: p50 %v, p99 %v, p99.9 %v, longest %v; %d keys\n", o.gib, full.Sub(began).Round(time.Second),
		len(shards), len(s.waits), s.quantile(0.5), s.quantile(0.99), s.quantile(0.999), s.quantile(1), got.Count)
	passed = true
	for _, v := range []struct {
		ok   bool
		what string
	}{
		{len(s.errors()) == 0, fmt.Sprintf("no request failed %v", s.errors())},
		{large == o.keys(), fmt.Sprintf("%d of %d large keys are there", large, o.keys())},
		{missed == 0, fmt.Sprintf("the watch missed %d of %d puts", missed, s.put.Load())},
		{whole && len(shards) > 1, fmt.Sprintf("no shard is left that is to be split, of %d", len(shards))},
		{s.quantile(1) <= o.wait, fmt.Sprintf("no wait of more than %v", o.wait)},
	} {
		verdict := "yes"
		if !v.ok {
			verdict, passed = "NO", false
		}
		fmt.Printf("%-4s %s\n", verdict, v.what)
	}
	return passed, nil
}

// ended waits until the watch has seen every put of the steady clients, and tells how many it has not after a minute.
func ended(ctx context.Context, s *steady) (missed int64, err error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	give := time.After(time.Minute)
	for {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-give:
			return s.put.Load() - s.seen.Load(), nil
		case <-tick.C:
		}
		if s.put.Load() == s.seen.Load() {
			return 0, nil
		}
	}
}

// countLarge reads all keys, in pages, and counts the large ones.
func countLarge(ctx context.Context, cli *clientv3.Client, o options) (n int, err error) {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		got, err := cli.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(10_000), clientv3.WithKeysOnly())
		if err != nil {
			return 0, fmt.Errorf("reading all keys: %w", err)
		}
		for _, kv := range got.Kvs {
			if strings.HasSuffix(string(kv.Key), "/large") {
				n++
			}
		}
		if !got.More {
			return n, nil
		}
		from = string(got.Kvs[len(got.Kvs)-1].Key) + "\x00"
	}
}

func largest(shards []cluster.Shard) int64 {
	var most int64
	for _, s := range shards {
		most = max(most, s.SizeBytes)
	}
	return most
}
