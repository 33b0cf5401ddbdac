package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// seen is one event: which put it shows, at which revision.
type seen struct {
	revision int64
	put      int32
}

// follower is one watch over the whole index through one member. It outlives that member: a stock client resumes.
type follower struct {
	name  string
	model *model

	mu struct {
		sync.Mutex
		events []seen
		err    error
	}
	advanced chan struct{} // capacity 1: something was added
}

// follow watches from a revision until ctx ends.
func follow(ctx context.Context, name string, cli *clientv3.Client, m *model, from int64) *follower {
	f := &follower{name: name, model: m, advanced: make(chan struct{}, 1)}
	ch := cli.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(from))
	// A watch that requires a leader is ended by the server when there is none for a while, and must be opened again by its user.
	go func() {
		for {
			next, err := f.drain(ch, from)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				f.mu.Lock()
				f.mu.err = err
				f.mu.Unlock()
				f.signal()
				return
			}
			from = next
			ch = cli.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(from))
		}
	}()
	return f
}

// drain takes events until the watch ends and gives the revision to go on from.
func (f *follower) drain(ch clientv3.WatchChan, from int64) (int64, error) {
	for resp := range ch {
		if resp.CompactRevision != 0 {
			return 0, fmt.Errorf("history from revision %d was compacted to %d", from, resp.CompactRevision)
		}
		for _, ev := range resp.Events {
			if err := f.take(ev, from); err != nil {
				return 0, err
			}
			from = ev.Kv.ModRevision + 1
		}
		f.signal()
		if err := resp.Err(); err != nil && !errors.Is(err, rpctypes.ErrNoLeader) {
			return 0, fmt.Errorf("cancelled at revision %d: %w", from, err)
		}
	}
	return from, nil
}

// take checks one event against the puts that were sent and against the order.
func (f *follower) take(ev *clientv3.Event, from int64) error {
	rev := ev.Kv.ModRevision
	if rev < from {
		return fmt.Errorf("revision %d after %d: out of order or twice", rev, from-1)
	}
	if ev.Type != mvccpb.Event_PUT {
		return fmt.Errorf("revision %d deletes %q, which nobody asked for", rev, ev.Kv.Key)
	}
	n, err := f.model.identify(string(ev.Kv.Key), string(ev.Kv.Value))
	if err != nil {
		return fmt.Errorf("revision %d: %w", rev, err)
	}
	f.mu.Lock()
	f.mu.events = append(f.mu.events, seen{rev, int32(n)})
	f.mu.Unlock()
	return nil
}

func (f *follower) signal() {
	select {
	case f.advanced <- struct{}{}:
	default:
	}
}

// position is the revision of the last event and how many there were.
func (f *follower) position() (rev int64, count int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.mu.events); n > 0 {
		rev, count = f.mu.events[n-1].revision, n
	}
	return rev, count, f.mu.err
}

// waitFor waits until the event of a revision was seen.
func (f *follower) waitFor(ctx context.Context, rev int64) error {
	for {
		at, _, err := f.position()
		if err != nil {
			return fmt.Errorf("watch through %s: %w", f.name, err)
		}
		if at >= rev {
			return nil
		}
		select {
		case <-f.advanced:
		case <-ctx.Done():
			return fmt.Errorf("watch through %s is at revision %d, revision %d has not come: %w", f.name, at, rev, ctx.Err())
		}
	}
}

func (f *follower) list() []seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.events
}
