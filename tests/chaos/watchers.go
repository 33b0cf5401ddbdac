package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/history"
)

// everything is the whole key space, from the first write on.
var everything = history.WatchRequest{Key: "\x00", End: "\x00", Revision: 1, PrevKV: true}

// watchers are the watches of a round: one of everything through each member, from which the log is made, and others that come and go.
type watchers struct {
	recorder *history.Recorder
	clients  []*clientv3.Client // one per member
	names    []string
	all      []*history.LiveWatch // of everything, one per member

	mu struct {
		sync.Mutex
		open map[*history.LiveWatch]struct{}
		done []*history.Watch
	}
}

func openWatchers(ctx context.Context, r *history.Recorder, clients []*clientv3.Client, names []string) *watchers {
	w := &watchers{recorder: r, clients: clients, names: names}
	w.mu.open = map[*history.LiveWatch]struct{}{}
	for i, cli := range clients {
		w.all = append(w.all, r.Watch(ctx, cli, 100+i, names[i], everything))
	}
	return w
}

// position is the revision up to which every member has told everything.
func (w *watchers) position() int64 {
	least := w.all[0].Position()
	for _, l := range w.all[1:] {
		least = min(least, l.Position())
	}
	return least
}

// come opens watches and closes them again after a while, until stop is closed; some stay open.
func (w *watchers) come(ctx context.Context, stop <-chan struct{}, rng *rand.Rand, seen func() int64) {
	pace := time.NewTicker(150 * time.Millisecond)
	defer pace.Stop()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-pace.C:
		}
		w.askProgress(ctx)
		member := rng.IntN(len(w.clients))
		req := randomWatch(rng, seen())
		w.mu.Lock()
		if len(w.mu.open) >= 20 {
			for old := range w.mu.open {
				old.Close()
				w.mu.done = append(w.mu.done, old.Snapshot())
				delete(w.mu.open, old)
				break
			}
		}
		w.mu.open[w.recorder.Watch(ctx, w.clients[member], 200+n, w.names[member], req)] = struct{}{}
		w.mu.Unlock()
	}
}

// askProgress asks for progress notifications on all watches of all clients.
func (w *watchers) askProgress(ctx context.Context) {
	for _, cli := range w.clients {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		// A member that is away does not answer: that is no fault of the watch.
		_ = cli.RequestProgress(ctx)
		cancel()
	}
}

func randomWatch(rng *rand.Rand, seen int64) history.WatchRequest {
	from := rng.IntN(keys)
	req := history.WatchRequest{Key: keyName(from), PrevKV: rng.IntN(2) == 0, ProgressNotify: rng.IntN(2) == 0, Fragment: rng.IntN(3) == 0}
	switch rng.IntN(4) {
	case 0: // one key
	case 1:
		req.Key, req.End = "\x00", "\x00"
	default:
		req.End = keyName(min(keys, from+1+rng.IntN(15)))
	}
	switch rng.IntN(5) {
	case 0: // from now on
	case 1:
		req.Revision = seen + 1 + rng.Int64N(30) // from a revision to come
	default:
		req.Revision = max(1, seen-rng.Int64N(400))
	}
	req.NoPut, req.NoDelete = rng.IntN(8) == 0, rng.IntN(8) == 0
	return req
}

// snapshot is every watch, and which of them are still open.
func (w *watchers) snapshot() (all []*history.Watch, done []*history.Watch, open []*history.Watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.all {
		all = append(all, l.Snapshot())
	}
	for l := range w.mu.open {
		open = append(open, l.Snapshot())
	}
	return all, append(done, w.mu.done...), open
}

// caughtUp tells which watch still lacks something of what the store holds up to rev.
func (w *watchers) caughtUp(rev int64, operations []*history.Operation) error {
	for i, l := range w.all {
		if l.Ended() {
			return fmt.Errorf("the watch of everything on %s was ended by the server", w.names[i])
		}
		if at := l.Position(); at < rev {
			return fmt.Errorf("the watch of everything on %s has come to %d, the store to %d", w.names[i], at, rev)
		}
	}
	all, _, open := w.snapshot()
	log, err := history.NewLog(all)
	if err != nil {
		return err
	}
	ev := &history.Evidence{Log: log, Operations: operations, Complete: true}
	var errs []error
	for _, x := range append(all, open...) {
		if err := history.CheckWatch(ev, x); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (w *watchers) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.mu.open {
		l.Close()
	}
	for _, l := range w.all {
		l.Close()
	}
}
