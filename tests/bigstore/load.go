package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const prefix = "bigstore/"

// loadKey spreads the n-th of count large keys over the range, in an order that looks random.
func loadKey(n, count int) string {
	// An odd factor that shares no divisor with count makes this a permutation.
	const factor = 1_000_003
	return fmt.Sprintf("%s%07d/large", prefix, n*factor%count)
}

func steadyKey(n int) string { return fmt.Sprintf("%s%07d/steady", prefix, n) }

// fill puts all large keys.
func fill(ctx context.Context, cli *clientv3.Client, o options, written *atomic.Int64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range o.writers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(rand.Uint64(), 1))
			value := make([]byte, o.value)
			for n := int(next.Add(1)) - 1; n < o.keys() && ctx.Err() == nil; n = int(next.Add(1)) - 1 {
				for i := range value {
					value[i] = byte(rng.Uint32())
				}
				if _, err := cli.Put(ctx, loadKey(n, o.keys()), string(value)); err != nil {
					cancel(fmt.Errorf("large put: %w", err))
					return
				}
				written.Add(int64(len(value)))
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// steady are clients that put, read back and watch at a steady pace.
type steady struct {
	mu     sync.Mutex
	waits  []time.Duration
	window time.Duration
	errs   []error

	// put counts the puts that were answered, seen the events of the watch.
	put, seen atomic.Int64
	wg        sync.WaitGroup
	stop      context.CancelFunc
}

// pace is the pause of each steady client between two pairs of requests.
const pace = 10 * time.Millisecond

// startSteady starts clients, each with keys of its own; the watch ends with ctx.
func startSteady(ctx context.Context, clients []*clientv3.Client, each int, span int) *steady {
	s := &steady{}
	putting, stop := context.WithCancel(ctx)
	s.stop = stop
	ready := make(chan struct{})
	s.wg.Go(func() { s.follow(ctx, clients[0], ready) })
	<-ready
	for i := range each * len(clients) {
		s.wg.Go(func() { s.run(putting, ctx, clients[i%len(clients)], i, each*len(clients), span) })
	}
	return s
}

func (s *steady) run(putting, ctx context.Context, cli *clientv3.Client, i, of, span int) {
	rng := rand.New(rand.NewPCG(uint64(i), 2))
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-putting.Done():
			return
		case <-tick.C:
		}
		// A key that no other client puts.
		key, value := steadyKey(rng.IntN(span/of)*of+i), strconv.Itoa(n)
		began := time.Now()
		if _, err := cli.Put(ctx, key, value); err != nil {
			s.failed(fmt.Errorf("put: %w", err))
			continue
		}
		s.put.Add(1)
		s.waited(time.Since(began))
		began = time.Now()
		got, err := cli.Get(ctx, key)
		if err != nil {
			s.failed(fmt.Errorf("get: %w", err))
			continue
		}
		s.waited(time.Since(began))
		if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
			s.failed(fmt.Errorf("get of %s after put of %s: %v", key, value, got.Kvs))
		}
	}
}

// follow counts what a watch over everything sees of the steady keys.
func (s *steady) follow(ctx context.Context, cli *clientv3.Client, ready chan<- struct{}) {
	revision := int64(0)
	for resp := range cli.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify()) {
		if err := resp.Err(); err != nil {
			if ctx.Err() == nil {
				s.failed(fmt.Errorf("watch: %w", err))
			}
			return
		}
		if resp.Created {
			close(ready)
		}
		for _, e := range resp.Events {
			if e.Kv.ModRevision <= revision {
				s.failed(fmt.Errorf("watch: revision %d after %d", e.Kv.ModRevision, revision))
			}
			revision = e.Kv.ModRevision
			if key := e.Kv.Key; key[len(key)-1] == 'y' {
				s.seen.Add(1)
			}
		}
	}
}

func (s *steady) waited(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits = append(s.waits, d)
	s.window = max(s.window, d)
}

// maxErrs bounds the errors that are kept.
const maxErrs = 20

func (s *steady) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errs) < maxErrs {
		s.errs = append(s.errs, fmt.Errorf("%s %w", time.Now().UTC().Format(time.TimeOnly), err))
	}
}

// longest returns the longest wait since it was last asked.
func (s *steady) longest() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.window
	s.window = 0
	return d
}

// quantile of all waits.
func (s *steady) quantile(q float64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waits) == 0 {
		return 0
	}
	all := slices.Clone(s.waits)
	slices.Sort(all)
	return all[min(len(all)-1, int(q*float64(len(all))))]
}

// errors that were met so far.
func (s *steady) errors() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.errs)
}
