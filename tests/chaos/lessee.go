package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/history"
)

// longestLease is the largest time to live, in seconds, that is asked for: a round waits for the end of all leases.
const longestLease = 4

// lessee takes one lease after the other, attaches keys to it, keeps it alive for a while, and revokes it or lets it expire. The keys are those of
// everybody: other clients detach and delete them.
type lessee struct {
	client *client
	cli    *clientv3.Client
	next   *atomic.Int64
}

func (l *lessee) work(stop <-chan struct{}, wg *sync.WaitGroup) {
	defer wg.Done()
	for !stopped(stop) {
		l.one(stop)
	}
}

func stopped(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// one is the life of one lease.
func (l *lessee) one(stop <-chan struct{}) {
	c, rng := l.client, l.client.rng
	r, id := c.t.recorder, l.next.Add(1)
	about := func(do func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()
		return do(ctx)
	}
	lease := pb.NewLeaseClient(l.cli.ActiveConnection())
	attach := func() {
		put := c.put(c.key())
		put.Lease = id
		_, _ = c.do(context.Background(), history.Request{Put: put})
	}
	err := about(func(ctx context.Context) error {
		return r.Grant(ctx, lease, c.id, c.member, id, 1+rng.Int64N(longestLease))
	})
	if err != nil {
		// Whether it was granted is not known: it may still expire with keys.
		attach()
	}
	for beats := rng.IntN(8); beats >= 0 && !stopped(stop); beats-- {
		for range rng.IntN(3) {
			attach()
		}
		_ = pause(context.Background(), time.Duration(rng.IntN(700))*time.Millisecond)
		_ = about(func(ctx context.Context) error { return r.KeepAlive(ctx, l.cli, c.id, c.member, id) })
	}
	switch rng.IntN(5) {
	case 0, 1:
		_ = about(func(ctx context.Context) error { return r.Revoke(ctx, lease, c.id, c.member, id) })
	case 2:
		// A put and the end of the lease run into each other.
		var both sync.WaitGroup
		both.Go(attach)
		_ = about(func(ctx context.Context) error { return r.Revoke(ctx, lease, c.id, c.member, id) })
		both.Wait()
	}
}

// demandNoLeases demands that all leases end, now that nobody keeps them alive, and that no key outlives its lease.
func (r *round) demandNoLeases(ctx context.Context) error {
	return until(ctx, time.Now().Add(longestLease*time.Second+r.cfg.Recovery), "the end of all leases", func(ctx context.Context) error {
		for i, m := range r.cluster.Members {
			list, err := r.plain[i].Leases(ctx)
			if err != nil {
				return fmt.Errorf("leases through %s: %w", m.Name, err)
			}
			if n := len(list.Leases); n > 0 {
				return fmt.Errorf("%s lists %d leases, such as %d", m.Name, n, list.Leases[0].ID)
			}
		}
		all, err := r.plain[0].Get(ctx, "\x00", clientv3.WithFromKey())
		if err != nil {
			return err
		}
		var errs []error
		for _, kv := range all.Kvs {
			if kv.Lease != 0 {
				errs = append(errs, fmt.Errorf("%q outlives its lease %d", kv.Key, kv.Lease))
			}
		}
		return errors.Join(errs...)
	})
}

// openLessees makes one for each member.
func (r *round) openLessees(next *atomic.Int64) []*lessee {
	var all []*lessee
	for i, m := range r.cluster.Members {
		id := 400 + r.nextClient()
		c := r.traffic.client(id, m.Name, r.plain[i], rand.New(rand.NewPCG(r.cfg.Seed, uint64(1000+i))))
		all = append(all, &lessee{client: c, cli: r.plain[i], next: next})
	}
	return all
}
