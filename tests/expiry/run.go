package expiry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// Options says what to measure.
type Options struct {
	// Leases is how many there are, each with one key. TTL is what each is granted,
	// in seconds; it must leave the time to keep all of them alive once more.
	Leases int
	TTL    int64
	// Writers is how many clients put, Pace the pause of each between two puts.
	Writers int
	Pace    time.Duration
	// Quiet is how long writes are measured before the leases end.
	Quiet time.Duration
	// Log is told each step; nil for nobody.
	Log func(format string, args ...any)
}

// Report is what was seen.
type Report struct {
	Leases int
	// Early counts leases whose key went before their time.
	Early int
	// Late is, of each lease, how long after its time its key was seen to go, in order.
	Late []time.Duration
	// Quiet and Storm are how long writes took before and while leases ended, in
	// order.
	Quiet, Storm []time.Duration
	// Length is the time from the first key's end to the last one's.
	Length time.Duration
}

// prefix holds the keys of the leases, others those of the writers.
const (
	prefix = "expiry/lease/"
	others = "expiry/writer/"
	width  = 64
)

// Quantile gives a quantile of durations that are in order.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(float64(len(sorted))*q), len(sorted)-1)]
}

// LastLate is how late the last lease was.
func (r *Report) LastLate() time.Duration { return Quantile(r.Late, 1) }

// String shows the report for people.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d leases ended within %v, %d of them early\n", r.Leases, r.Length.Round(time.Millisecond), r.Early)
	fmt.Fprintf(&b, "late: p50 %v, p99 %v, last %v\n", Quantile(r.Late, 0.5).Round(time.Millisecond), Quantile(r.Late, 0.99).Round(time.Millisecond), r.LastLate().Round(time.Millisecond))
	for _, w := range []struct {
		name string
		took []time.Duration
	}{{"quiet", r.Quiet}, {"while leases end", r.Storm}} {
		fmt.Fprintf(&b, "%d writes %s: p50 %v, p99 %v, slowest %v\n", len(w.took), w.name,
			Quantile(w.took, 0.5).Round(10*time.Microsecond), Quantile(w.took, 0.99).Round(10*time.Microsecond), Quantile(w.took, 1).Round(10*time.Microsecond))
	}
	return b.String()
}

// lease is one of them. It ends no earlier than its time after asked, and is late
// after answered.
type lease struct {
	id              clientv3.LeaseID
	asked, answered time.Time
}

// Run grants the leases, keeps all of them alive once more, at the same time, and
// watches how they end.
func Run(ctx context.Context, cli *clientv3.Client, o Options) (*Report, error) {
	log := o.Log
	if log == nil {
		log = func(string, ...any) {}
	}
	leases := make([]lease, o.Leases)
	log("granting %d leases of %d s, each with a key", o.Leases, o.TTL)
	if err := each(ctx, leases, func(ctx context.Context, i int, l *lease) error {
		g, err := cli.Grant(ctx, o.TTL)
		if err != nil {
			return fmt.Errorf("grant lease %d: %w", i, err)
		}
		l.id = g.ID
		_, err = cli.Put(ctx, fmt.Sprintf("%s%06d", prefix, i), "x", clientv3.WithLease(g.ID))
		return err
	}); err != nil {
		return nil, err
	}
	w := &writers{cli: cli, o: o}
	stop := w.start(ctx)
	defer stop()
	log("measuring quiet writes for %v", o.Quiet)
	if err := sleep(ctx, o.Quiet); err != nil {
		return nil, err
	}
	r := &Report{Leases: o.Leases, Quiet: w.take()}
	watched, cancel := context.WithCancel(ctx)
	defer cancel()
	events := cli.Watch(watched, prefix, clientv3.WithPrefix(), clientv3.WithFilterPut())
	log("keeping all alive once more")
	if err := each(ctx, leases, func(ctx context.Context, i int, l *lease) error {
		l.asked = time.Now()
		_, err := cli.KeepAliveOnce(ctx, l.id)
		l.answered = time.Now()
		if err != nil {
			return fmt.Errorf("keep lease %d alive: %w", i, err)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	w.take()
	log("waiting for the end of all")
	first, err := r.watch(ctx, events, leases, o)
	if err != nil {
		return nil, err
	}
	stop()
	r.Storm = w.since(first)
	if w.failed != nil {
		return nil, fmt.Errorf("a write while leases ended: %w", w.failed)
	}
	slices.Sort(r.Late)
	return r, nil
}

// watch sees the keys go and returns when the first one went.
func (r *Report) watch(ctx context.Context, events clientv3.WatchChan, leases []lease, o Options) (first time.Time, err error) {
	ttl := time.Duration(o.TTL) * time.Second
	gone := make([]bool, len(leases))
	for len(r.Late) < len(leases) {
		resp, ok := <-events
		if !ok {
			return first, errors.Join(ctx.Err(), fmt.Errorf("the watch ended with %d of %d leases left", len(leases)-len(r.Late), len(leases)))
		}
		if err := resp.Err(); err != nil {
			return first, fmt.Errorf("watch: %w", err)
		}
		now := time.Now()
		if first.IsZero() {
			first = now
		}
		r.Length = now.Sub(first)
		for _, ev := range resp.Events {
			var i int
			if _, err := fmt.Sscanf(strings.TrimPrefix(string(ev.Kv.Key), prefix), "%d", &i); err != nil || i < 0 || i >= len(leases) || ev.Type != mvccpb.DELETE {
				return first, fmt.Errorf("an event of none of the leases: %v", ev)
			}
			if gone[i] {
				return first, fmt.Errorf("key %d went twice", i)
			}
			gone[i] = true
			if now.Before(leases[i].asked.Add(ttl)) {
				r.Early++
			}
			r.Late = append(r.Late, now.Sub(leases[i].answered.Add(ttl)))
		}
	}
	return first, nil
}

// each does something for all leases, a number of them at a time.
func each(ctx context.Context, leases []lease, fn func(context.Context, int, *lease) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(width)
	for i := range leases {
		g.Go(func() error { return fn(ctx, i, &leases[i]) })
	}
	return g.Wait()
}

// writers put all the time.
type writers struct {
	cli *clientv3.Client
	o   Options

	mu     sync.Mutex
	begun  []time.Time
	took   []time.Duration
	failed error
}

func (w *writers) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for n := range w.o.Writers {
		wg.Go(func() {
			value := strings.Repeat("v", 256)
			for i := 0; sleep(ctx, w.o.Pace) == nil; i++ {
				begin := time.Now()
				_, err := w.cli.Put(ctx, fmt.Sprintf("%s%d/%d", others, n, i%100), value)
				took := time.Since(begin)
				w.mu.Lock()
				switch {
				case err == nil:
					w.begun, w.took = append(w.begun, begin), append(w.took, took)
				case ctx.Err() == nil && w.failed == nil:
					w.failed = err
				}
				w.mu.Unlock()
			}
		})
	}
	return sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
}

// take gives what was measured so far, in order, and begins anew.
func (w *writers) take() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	took := w.took
	w.begun, w.took = nil, nil
	slices.Sort(took)
	return took
}

// since gives what was measured of writes that were under way after a time, in order.
func (w *writers) since(at time.Time) (took []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, b := range w.begun {
		if b.Add(w.took[i]).After(at) {
			took = append(took, w.took[i])
		}
	}
	slices.Sort(took)
	return took
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
