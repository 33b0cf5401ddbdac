package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// putTimeout ends a put whose fate is then unknown.
const putTimeout = 10 * time.Second

// load is the clients: first every stanza once, in random order, then updates of random stanzas until it is stopped.
type load struct {
	model   *model
	clients []*clientv3.Client
	order   []int
	next    atomic.Int64
	wg      sync.WaitGroup
	loaded  chan struct{} // closed when every stanza has been put once
	once    sync.Once
	done    atomic.Int64
}

func startLoad(ctx context.Context, m *model, clients []*clientv3.Client, workers int, seed uint64) *load {
	l := &load{model: m, clients: clients, loaded: make(chan struct{})}
	l.order = rand.New(rand.NewPCG(seed, 1)).Perm(len(m.stanzas))
	for i := range workers {
		rng := rand.New(rand.NewPCG(seed, uint64(i)+2))
		l.wg.Go(func() {
			for ctx.Err() == nil {
				n := l.next.Add(1) - 1
				if n < int64(len(l.order)) {
					l.initial(l.order[n], i)
					continue
				}
				l.put(rng.IntN(len(m.stanzas)), i)
			}
		})
	}
	return l
}

// initial puts a stanza for the first time, and again if its fate was unknown, so that every package is there in the end.
func (l *load) initial(st, worker int) {
	for range 100 {
		if _, err := l.put(st, worker); err == nil {
			break
		}
	}
	if l.done.Add(1) == int64(len(l.order)) {
		l.once.Do(func() { close(l.loaded) })
	}
}

// put sends one put and waits for its end. It is not tied to the demo's stop: a put that was sent is waited for.
func (l *load) put(st, worker int) (int64, error) {
	n, key, value := l.model.begin(st)
	ctx, cancel := context.WithTimeout(context.Background(), putTimeout)
	defer cancel()
	resp, err := l.clients[worker%len(l.clients)].Put(ctx, key, value)
	var rev int64
	if err == nil {
		rev = resp.Header.Revision
	}
	l.model.end(n, rev, err)
	return rev, err
}

// waitLoaded waits until every stanza was put once.
func (l *load) waitLoaded(ctx context.Context) error {
	select {
	case <-l.loaded:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("loading: %w", ctx.Err())
	}
}

// waitCount waits until so many stanzas of the first round are in.
func (l *load) waitCount(ctx context.Context, n int64) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for l.done.Load() < n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("loading: %w", ctx.Err())
		}
	}
	return nil
}
