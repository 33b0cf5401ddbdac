package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	recipe "go.etcd.io/etcd/client/v3/experimental/recipes"
	"golang.org/x/sync/errgroup"
)

// The recipes of etcd's client make their keys below a name, each with a lease or a random number at its end. The tests cut
// shards there, so that the keys of one lock lie in several.

// session is a lease that is kept alive, through one member.
func (e *env) session(t *testing.T, member int) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(e.pinned[member%len(e.pinned)], concurrency.WithTTL(60), concurrency.WithContext(t.Context()))
	if err != nil {
		t.Fatalf("session: %v", err)
	}
	t.Cleanup(s.Orphan)
	return s
}

// done waits for something that has no context of its own.
func done(t *testing.T, what string, do func() error) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- do() }()
	select {
	case err := <-ended:
		must(t, what, err)
	case <-within(t, patience).Done():
		t.Fatalf("%s does not end", what)
	}
}

// testMutex: what is done under a lock is done by one at a time, and a lock ends with its session.
func testMutex(t *testing.T, e *env, p string) {
	e.split(t, p+"lock/5", p+"n")
	ctx := within(t, patience)
	const clients, rounds = 4, 4
	var g errgroup.Group
	for i := range clients {
		m := concurrency.NewMutex(e.session(t, i), p+"lock")
		cli := e.pinned[i%len(e.pinned)]
		g.Go(func() error {
			for range rounds {
				if err := m.Lock(ctx); err != nil {
					return err
				}
				got, err := cli.Get(ctx, p+"number")
				if err != nil {
					return err
				}
				n := 0
				if len(got.Kvs) > 0 {
					n, _ = strconv.Atoi(string(got.Kvs[0].Value))
				}
				// The lock's key is proof that the lock is still held.
				put, err := cli.Txn(ctx).If(m.IsOwner()).Then(clientv3.OpPut(p+"number", strconv.Itoa(n+1))).Commit()
				if err != nil {
					return err
				}
				if !put.Succeeded {
					return errors.New("the lock was lost")
				}
				if err := m.Unlock(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	must(t, "locks", g.Wait())
	if got := string(e.get(t, p+"number").Kvs[0].Value); got != strconv.Itoa(clients*rounds) {
		t.Errorf("counted %s of %d", got, clients*rounds)
	}
	holder, other := e.session(t, 0), e.session(t, 1)
	must(t, "lock", concurrency.NewMutex(holder, p+"lock").Lock(ctx))
	second := concurrency.NewMutex(other, p+"lock")
	if err := second.TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		t.Errorf("try of a held lock: %v", err)
	}
	must(t, "close the session", holder.Close())
	must(t, "lock after the session of its holder", second.Lock(ctx))
	must(t, "unlock", second.Unlock(ctx))
}

// testElection: one leader at a time, told to who watches, in order.
func testElection(t *testing.T, e *env, p string) {
	e.split(t, p+"el/5")
	ctx := within(t, patience)
	first, second := concurrency.NewElection(e.session(t, 0), p+"el"), concurrency.NewElection(e.session(t, 1), p+"el")
	if _, err := first.Leader(ctx); !errors.Is(err, concurrency.ErrElectionNoLeader) {
		t.Errorf("leader before there is one: %v", err)
	}
	told := concurrency.NewElection(e.session(t, 2), p+"el").Observe(ctx)
	want := func(value string) {
		t.Helper()
		if r, ok := <-told; !ok || string(r.Kvs[0].Value) != value {
			t.Errorf("told of %v, want %s", r, value)
		}
	}
	must(t, "campaign", first.Campaign(ctx, "a"))
	want("a")
	won := make(chan error, 1)
	go func() { won <- second.Campaign(ctx, "b") }()
	must(t, "proclaim", first.Proclaim(ctx, "a2"))
	want("a2")
	if l, err := second.Leader(ctx); err != nil || string(l.Kvs[0].Value) != "a2" {
		t.Errorf("leader: %v, %v", l, err)
	}
	select {
	case err := <-won:
		t.Errorf("a second leader beside the first: %v", err)
	default:
	}
	must(t, "resign", first.Resign(ctx))
	must(t, "campaign", <-won)
	want("b")
}

// testSTM: transfers between accounts in different shards keep the sum, at every level that promises it.
func testSTM(t *testing.T, e *env, p string) {
	e.split(t, p+"2", p+"4")
	ctx := within(t, patience)
	const accounts, start = 6, 100
	for i := range accounts {
		e.put(t, p+strconv.Itoa(i), strconv.Itoa(start))
	}
	for name, level := range map[string]concurrency.Isolation{
		"serializable snapshot": concurrency.SerializableSnapshot, "serializable": concurrency.Serializable, "repeatable reads": concurrency.RepeatableReads,
	} {
		var g errgroup.Group
		for i := range 4 {
			cli := e.pinned[i%len(e.pinned)]
			g.Go(func() error {
				for n := range 8 {
					from, to := p+strconv.Itoa((i+n)%accounts), p+strconv.Itoa((i+2*n+1)%accounts)
					if from == to {
						continue
					}
					_, err := concurrency.NewSTM(cli, func(s concurrency.STM) error {
						a, err := strconv.Atoi(s.Get(from))
						if err != nil {
							return err
						}
						b, err := strconv.Atoi(s.Get(to))
						if err != nil {
							return err
						}
						s.Put(from, strconv.Itoa(a-1))
						s.Put(to, strconv.Itoa(b+1))
						return nil
					}, concurrency.WithIsolation(level), concurrency.WithAbortContext(ctx), concurrency.WithPrefetch(from, to))
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
		must(t, name, g.Wait())
		sum := 0
		for _, kv := range e.get(t, p, clientv3.WithPrefix()).Kvs {
			n, err := strconv.Atoi(string(kv.Value))
			must(t, "value", err)
			sum += n
		}
		if sum != accounts*start {
			t.Errorf("%s: the sum is %d, not %d", name, sum, accounts*start)
		}
	}
	resp, err := concurrency.NewSTM(e.cli, func(s concurrency.STM) error {
		s.Put(p+"0", s.Get(p+"1")+"!")
		s.Del(p + "5")
		return nil
	}, concurrency.WithIsolation(concurrency.ReadCommitted), concurrency.WithAbortContext(ctx))
	if err != nil || !resp.Succeeded || e.get(t, p, clientv3.WithPrefix()).Count != accounts-1 {
		t.Errorf("read committed: %v, %v", resp, err)
	}
}

// testQueues: what was queued comes out once, by its order.
func testQueues(t *testing.T, e *env, p string) {
	e.split(t, p+"p/00002", p+"q/", p+"q/17")
	const n = 6
	q, urgent := recipe.NewQueue(e.pinned[0], p+"q"), recipe.NewPriorityQueue(e.pinned[0], p+"p")
	for i := range n {
		done(t, "enqueue", func() error { return q.Enqueue(strconv.Itoa(i)) })
		done(t, "enqueue by priority", func() error { return urgent.Enqueue(strconv.Itoa(i), uint16(n-i)) })
	}
	var got, order []string
	for i := range n {
		done(t, "dequeue", func() error {
			v, err := recipe.NewQueue(e.pinned[i%len(e.pinned)], p+"q").Dequeue()
			got = append(got, v)
			return err
		})
		done(t, "dequeue by priority", func() error {
			v, err := recipe.NewPriorityQueue(e.pinned[i%len(e.pinned)], p+"p").Dequeue()
			order = append(order, v)
			return err
		})
	}
	if fmt.Sprint(got) != "[0 1 2 3 4 5]" {
		t.Errorf("the queue gave %v", got)
	}
	if fmt.Sprint(order) != "[5 4 3 2 1 0]" {
		t.Errorf("the priority queue gave %v", order)
	}
	// Whoever finds it empty waits.
	waiting := make(chan string, 1)
	go func() {
		if v, err := recipe.NewQueue(e.pinned[1], p+"q").Dequeue(); err == nil {
			waiting <- v
		}
	}()
	done(t, "enqueue", func() error { return q.Enqueue("late") })
	done(t, "dequeue of an empty queue", func() error {
		if v := <-waiting; v != "late" {
			return fmt.Errorf("got %q", v)
		}
		return nil
	})
}

// testBarriers: nobody passes before it is time.
func testBarriers(t *testing.T, e *env, p string) {
	e.split(t, p+"d/waiters/5", p+"rw/write")
	b := recipe.NewBarrier(e.pinned[0], p+"b")
	done(t, "hold", b.Hold)
	passed := make(chan error, 1)
	go func() { passed <- recipe.NewBarrier(e.pinned[1], p+"b").Wait() }()
	select {
	case err := <-passed:
		t.Errorf("passed a barrier: %v", err)
	default:
	}
	done(t, "release", b.Release)
	done(t, "wait", func() error { return <-passed })

	var g errgroup.Group
	for i := range 3 {
		d := recipe.NewDoubleBarrier(e.session(t, i), p+"d", 3)
		g.Go(func() error {
			if err := d.Enter(); err != nil {
				return fmt.Errorf("enter: %w", err)
			}
			return d.Leave()
		})
	}
	done(t, "double barrier", g.Wait)

	// Two readers at once, then a writer alone.
	readers := []*recipe.RWMutex{recipe.NewRWMutex(e.session(t, 0), p+"rw"), recipe.NewRWMutex(e.session(t, 1), p+"rw")}
	for _, r := range readers {
		done(t, "lock for reading", r.RLock)
	}
	w := recipe.NewRWMutex(e.session(t, 2), p+"rw")
	written := make(chan error, 1)
	go func() { written <- w.Lock() }()
	eventually(t, patience, func(ctx context.Context) error {
		got, err := e.cli.Get(ctx, p+"rw/write", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err == nil && got.Count == 0 {
			err = errors.New("the writer does not wait")
		}
		return err
	})
	for _, r := range readers {
		select {
		case err := <-written:
			t.Fatalf("a writer beside readers: %v", err)
		default:
		}
		done(t, "unlock of a reader", r.RUnlock)
	}
	done(t, "lock for writing", func() error { return <-written })
	done(t, "unlock of the writer", w.Unlock)
	if left := keysBelow(e.get(t, p+"rw", clientv3.WithPrefix())); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func keysBelow(r *clientv3.GetResponse) []string {
	var keys []string
	for _, kv := range r.Kvs {
		keys = append(keys, string(kv.Key))
	}
	slices.Sort(keys)
	return keys
}
