package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	writers, readers, coordinators = 8, 8, 8
	// pool is how many keys a kind of load uses in a shard.
	pool = 50
	// probePause is between two puts to keys that transactions hold.
	probePause = 20 * time.Millisecond
)

// bystander is a kind of load, with the latencies of the phase that is under way.
type bystander struct {
	name string
	mu   sync.Mutex
	took []time.Duration
	errs []error
}

func (b *bystander) did(d time.Duration, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.errs = append(b.errs, fmt.Errorf("%s: %w", b.name, err))
		return
	}
	b.took = append(b.took, d)
}

// take ends a phase: it returns the latencies, sorted.
func (b *bystander) take() []time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	took := b.took
	b.took = nil
	slices.Sort(took)
	return took
}

// loads are all kinds of load.
type loads struct {
	put, get, watch, probe bystander
	wg                     sync.WaitGroup
}

// unrelated is a key of a shard that no transaction touches, held one of those that they do.
func unrelated() string { return fmt.Sprintf("s%d/u%02d", rand.IntN(5), rand.IntN(pool)) }
func held(shard int) string {
	return fmt.Sprintf("s%d/t%02d", shard, rand.IntN(pool))
}

// run starts everything; it ends with ctx. clients are one per member.
func (l *loads) run(ctx context.Context, clients []*clientv3.Client) {
	l.put.name, l.get.name, l.watch.name, l.probe.name = "put", "get", "watch", "put beside transactions"
	loop := func(n int, do func(worker int)) {
		for w := range n {
			l.wg.Go(func() {
				for ctx.Err() == nil {
					do(w)
				}
			})
		}
	}
	timed := func(b *bystander, do func(context.Context) error) {
		began := time.Now()
		err := do(ctx)
		if ctx.Err() == nil {
			b.did(time.Since(began), err)
		}
	}
	loop(writers, func(w int) {
		timed(&l.put, func(ctx context.Context) error {
			_, err := clients[w%2].Put(ctx, unrelated(), fmt.Sprint(time.Now().UnixNano()))
			return err
		})
	})
	loop(readers, func(w int) {
		timed(&l.get, func(ctx context.Context) error {
			_, err := clients[w%2].Get(ctx, unrelated())
			return err
		})
	})
	loop(1, func(int) {
		timed(&l.probe, func(ctx context.Context) error {
			_, err := clients[0].Put(ctx, held(6+rand.IntN(2)), "probe")
			return err
		})
		select {
		case <-ctx.Done():
		case <-time.After(probePause):
		}
	})
	loop(coordinators, func(int) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		// Many of these are abandoned: that is what they are for.
		_, _ = clients[2].Txn(ctx).Then(clientv3.OpPut(held(6), "x"), clientv3.OpPut(held(7), "y")).Commit()
	})
	l.wg.Go(func() { l.follow(ctx, clients[1]) })
}

// follow watches what the writers put. The latency of an event runs from the start of its put.
func (l *loads) follow(ctx context.Context, cli *clientv3.Client) {
	for resp := range cli.Watch(ctx, "s0/", clientv3.WithRange("s5/")) {
		if err := resp.Err(); err != nil && ctx.Err() == nil {
			l.watch.did(0, err)
			return
		}
		now := time.Now().UnixNano()
		for _, ev := range resp.Events {
			var began int64
			if _, err := fmt.Sscan(string(ev.Kv.Value), &began); err == nil {
				l.watch.did(time.Duration(now-began), nil)
			}
		}
	}
}

// errors are all that any bystander met.
func (l *loads) errors() error {
	var errs []error
	for _, b := range []*bystander{&l.put, &l.get, &l.watch, &l.probe} {
		b.mu.Lock()
		errs = append(errs, b.errs...)
		b.mu.Unlock()
	}
	if len(errs) > 5 {
		errs = append(errs[:5], fmt.Errorf("and %d errors more", len(errs)-5))
	}
	return errors.Join(errs...)
}

// transactionsHang tells whether the coordinator left anything behind: some key of the transactions is locked for longer than a request takes.
func transactionsHang(probes []time.Duration) bool {
	return len(probes) > 0 && probes[len(probes)-1] > 50*time.Millisecond
}
