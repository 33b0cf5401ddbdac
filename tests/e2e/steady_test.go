package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// steadyPrefix is where the keys of the steady load are.
const steadyPrefix = "steady/"

// steady is a light load of clients as they come: no retries beyond the client library's own. Every request must succeed, a watch
// over everything must see every write once and in order.
type steady struct {
	t     *testing.T
	cli   *clientv3.Client
	stop  chan struct{}
	wg    sync.WaitGroup
	watch clientv3.WatchChan
	// events are those that came and were not looked at yet.
	events []*clientv3.Event

	mu struct {
		sync.Mutex
		errs  []error
		acked map[int64]string
		took  []time.Duration
		// worst is what the slowest request was.
		worst   time.Duration
		worstAt time.Time
	}
}

// steadyKeys is how many keys the load spreads over.
const steadyKeys = 1000

func startSteady(t *testing.T, cli *clientv3.Client, writers int) *steady {
	t.Helper()
	s := &steady{t: t, cli: cli, stop: make(chan struct{})}
	s.mu.acked = map[int64]string{}
	first, err := cli.Get(within(t, patience), steadyPrefix)
	if err != nil {
		t.Fatal(err)
	}
	s.watch = cli.Watch(t.Context(), steadyPrefix, clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision+1))
	for n := range writers {
		s.wg.Go(func() { s.work(n) })
	}
	return s
}

func steadyKey(i int) string { return fmt.Sprintf("%s%03d", steadyPrefix, i%steadyKeys) }

func (s *steady) work(n int) {
	pace := time.NewTicker(4 * time.Millisecond)
	defer pace.Stop()
	for i := 0; ; i++ {
		select {
		case <-s.stop:
			return
		case <-pace.C:
		}
		key := steadyKey(i*37 + n*101)
		began := time.Now()
		resp, err := s.cli.Put(s.t.Context(), key, fmt.Sprint(n, "-", i))
		if err == nil {
			s.mu.Lock()
			s.mu.acked[resp.Header.Revision] = key
			s.mu.Unlock()
		}
		s.done("put", began, err)
		if i%4 == 0 {
			began = time.Now()
			got, err := s.cli.Get(s.t.Context(), key)
			if err == nil && resp != nil && (got.Header.Revision < resp.Header.Revision || len(got.Kvs) != 1) {
				err = fmt.Errorf("%d keys at revision %d after a put at %d", len(got.Kvs), got.Header.Revision, resp.Header.Revision)
			}
			s.done("get", began, err)
		}
		if i%16 == 0 {
			began = time.Now()
			_, err := s.cli.Get(s.t.Context(), steadyPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
			s.done("count", began, err)
		}
	}
}

func (s *steady) done(what string, began time.Time, err error) {
	d := time.Since(began)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.took = append(s.mu.took, d)
	if d > s.mu.worst {
		s.mu.worst, s.mu.worstAt = d, began
	}
	if err != nil {
		s.mu.errs = append(s.mu.errs, fmt.Errorf("%s at %s: %w", what, began.Format("15:04:05.000"), err))
	}
}

// lap gives the durations since the last one, and starts over.
func (s *steady) lap() string {
	s.mu.Lock()
	took, worst := s.mu.took, s.mu.worst
	s.mu.took, s.mu.worst = nil, 0
	s.mu.Unlock()
	if len(took) == 0 {
		return "no requests"
	}
	slices.Sort(took)
	at := func(share float64) time.Duration {
		return took[min(int(share*float64(len(took))), len(took)-1)].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%d requests, p50 %v, p99 %v, p99.9 %v, longest %v", len(took), at(0.5), at(0.99), at(0.999), worst.Round(time.Millisecond))
}

// finish ends the load and checks what it saw.
func (s *steady) finish() {
	s.t.Helper()
	close(s.stop)
	s.wg.Wait()
	if err := errors.Join(s.mu.errs...); err != nil {
		s.t.Fatalf("%d requests failed: %v", len(s.mu.errs), err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	for _, next := range slices.Sorted(maps.Keys(s.mu.acked)) {
		ev, err := s.event(ctx)
		if err != nil {
			s.t.Fatalf("the watch has not seen revision %d: %v", next, err)
		}
		if ev.Kv.ModRevision != next || s.mu.acked[next] != string(ev.Kv.Key) {
			s.t.Fatalf("revision %d of %q came; %d, put of %q, was next", ev.Kv.ModRevision, ev.Kv.Key, next, s.mu.acked[next])
		}
	}
}

// event is the watch's next one.
func (s *steady) event(ctx context.Context) (*clientv3.Event, error) {
	for len(s.events) == 0 {
		select {
		case resp, ok := <-s.watch:
			if !ok || resp.Err() != nil {
				return nil, fmt.Errorf("it ended: %w", resp.Err())
			}
			s.events = resp.Events
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	ev := s.events[0]
	s.events = s.events[1:]
	return ev, nil
}

// shardJSON is what kvctl shard list tells of a shard.
type shardJSON struct {
	ID    uint64 `json:"id"`
	Start string `json:"start"`
	Owner *struct {
		Name string `json:"name"`
	} `json:"owner"`
	Replicas []struct {
		Name    string `json:"name"`
		Voting  bool   `json:"voting"`
		Joining bool   `json:"joining"`
		Leaving bool   `json:"leaving"`
		Corrupt bool   `json:"corrupt"`
	} `json:"replicas"`
	Phase     string `json:"phase"`
	Operation string `json:"operation"`
}

// voters are the members with replicas that vote and stay.
func (s shardJSON) voters() []string {
	var names []string
	for _, r := range s.Replicas {
		if r.Voting && !r.Leaving {
			names = append(names, r.Name)
		}
	}
	return names
}

// settled waits until every shard has n replicas, an owner and nothing under way.
func (e *env) settled(t *testing.T, n int) []shardJSON {
	t.Helper()
	var all []shardJSON
	eventually(t, time.Minute, func(context.Context) error {
		all = e.shards(t)
		for _, s := range all {
			if len(s.voters()) != n || len(s.Replicas) != n || s.Operation != "" || s.Owner == nil || s.Phase != "serving" {
				return fmt.Errorf("shard %+v has not settled on %d replicas", s, n)
			}
		}
		return nil
	})
	return all
}

// member finds a member by name.
func member(c *cluster.Cluster, name string) *cluster.Member {
	for _, m := range c.Members {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// noise is text that does not compress; the same each time.
func noise(n int) string {
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return string(b)
}
