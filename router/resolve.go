package router

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kvd-io/kvd/shard"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Resolve asks the owners of shards for their resolved revisions, at least rev
// each: one message per member, whatever the number of shards. It calls answer,
// from any goroutine, for each shard whose owner can tell, and returns when no
// more answers will come or ctx ends. It tries once: the callers ask again when
// they next want to know.
func (r *Router) Resolve(ctx context.Context, rev int64, shards []uint64, answer func(shard.Resolved)) {
	// What could not be had is not answered.
	_ = r.resolveEach(ctx, rev, shards, answer)
}

// resolveAll returns what was answered; the error joins those of the others.
func (r *Router) resolveAll(ctx context.Context, rev int64, shards []uint64) ([]shard.Resolved, error) {
	var mu sync.Mutex
	var all []shard.Resolved
	err := r.resolveEach(ctx, rev, shards, func(res shard.Resolved) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, res)
	})
	return all, err
}

func (r *Router) resolveEach(ctx context.Context, rev int64, shards []uint64, answer func(shard.Resolved)) error {
	var local []Replica
	remote := make(map[uint64][]uint64)
	var errs []error
	m := r.cfg.Placement.Map()
	for _, id := range shards {
		d := m.ByID(id)
		if d == nil {
			errs = append(errs, fmt.Errorf("%w of shard %d", errNoRoute, id))
			continue
		}
		rep, member, err := r.target(d, 0)
		switch {
		case err != nil:
			errs = append(errs, err)
		case rep != nil:
			local = append(local, rep)
		default:
			remote[member] = append(remote[member], id)
		}
	}
	g := &gathering{r: r, answer: answer, errs: errs}
	var wg sync.WaitGroup
	for member, ids := range remote {
		for len(ids) > 0 {
			some := ids[:min(len(ids), maxResolve)]
			ids = ids[len(some):]
			wg.Go(func() { r.resolveRemote(ctx, member, rev, some, g.take) })
		}
	}
	resolveLocal(ctx, rev, local, func(a resolved) { g.take([]resolved{a}) })
	wg.Wait()
	return g.end()
}

// gathering passes answers on until it is ended.
type gathering struct {
	r      *Router
	answer func(shard.Resolved)

	mu    sync.Mutex
	ended bool
	errs  []error
}

func (g *gathering) take(answers []resolved) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return
	}
	for _, a := range answers {
		if a.err == nil {
			g.answer(a.Resolved)
			continue
		}
		g.r.learnFrom(a.err)
		g.errs = append(g.errs, fmt.Errorf("shard %d: %w", a.Shard, a.err))
	}
}

// end makes sure that no answer is passed on any more.
func (g *gathering) end() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
	return errors.Join(g.errs...)
}

// maxResolving bounds how many shards of one question wait at a time.
const maxResolving = 1024

// resolveLocal asks replicas of this member, all at once, and returns when all
// have answered.
func resolveLocal(ctx context.Context, rev int64, reps []Replica, answer func(resolved)) {
	one := func(rep Replica) {
		res, err := rep.Resolve(ctx, rev)
		if err != nil {
			res.Shard = rep.Descriptor().GetShard()
		}
		answer(resolved{Resolved: res, err: err})
	}
	if len(reps) == 1 {
		one(reps[0])
		return
	}
	slots := make(chan struct{}, maxResolving)
	var wg sync.WaitGroup
	for _, rep := range reps {
		slots <- struct{}{}
		wg.Go(func() {
			one(rep)
			<-slots
		})
	}
	wg.Wait()
}

// resolveRemote asks another member about shards that it owns.
func (r *Router) resolveRemote(ctx context.Context, member uint64, rev int64, ids []uint64, take func([]resolved)) {
	f := r.takeFlight()
	err := r.askResolve(ctx, f, member, rev, ids, take)
	r.putFlight(f)
	if err == nil {
		return
	}
	failed := make([]resolved, len(ids))
	for i, id := range ids {
		failed[i] = resolved{Resolved: shard.Resolved{Shard: id}, err: err}
	}
	take(failed)
}

func (r *Router) askResolve(ctx context.Context, f *flight, member uint64, rev int64, ids []uint64, take func([]resolved)) error {
	c, l := f.call, r.link(member)
	c.partial = take
	q := resolveFrame{timeout: max(r.remaining(ctx, f), 0) + ownerGrace, rev: rev, shards: ids}
	id, err := l.send(c, 10*len(ids), func(b []byte, id uint64) []byte {
		q.id = id
		return appendResolveFrame(b, &q)
	})
	if err != nil {
		return err
	}
	if err := r.await(ctx, f); err != nil {
		if l.cancel(id) {
			return err
		}
		<-c.done
	}
	return ownContext(c.err)
}

// resolve takes a resolve frame.
func (l *link) resolve(r *Router, frame []byte) error {
	q, err := decodeResolveFrame(frame)
	if err != nil {
		return err
	}
	var reps []Replica
	var without []resolved
	for _, id := range q.shards {
		if rep, ok := r.cfg.Replicas.Replica(id); ok {
			reps = append(reps, rep)
		} else {
			without = append(without, resolved{Resolved: shard.Resolved{Shard: id}, err: errNoReplica})
		}
	}
	s := &served{r: r, l: l, id: q.id}
	if q.timeout > 0 {
		s.ctx.deadline = time.Now().Add(q.timeout)
	}
	l.mu.Lock()
	full := len(l.mu.served) >= maxServed
	if !full {
		l.mu.served[q.id] = s
	}
	l.mu.Unlock()
	if full {
		s.answer(nil, rpctypes.ErrGRPCRequestTooManyRequests)
		return nil
	}
	r.background(func(context.Context) {
		s.resolve(q.rev, reps, without)
		l.mu.Lock()
		if l.mu.served[q.id] == s {
			delete(l.mu.served, q.id)
		}
		l.mu.Unlock()
		s.ctx.cancel()
	})
	return nil
}

// resolveFlush is how long an answer waits for others to share its frame.
const resolveFlush = 500 * time.Microsecond

// resolve answers for each replica as soon as it can tell, so that a shard that
// cannot does not hold up the others.
func (s *served) resolve(rev int64, reps []Replica, batch []resolved) {
	answers := make(chan resolved)
	left := len(reps)
	if left > 0 {
		go resolveLocal(&s.ctx, rev, reps, func(a resolved) { answers <- a })
	}
	flush := time.NewTimer(resolveFlush)
	defer flush.Stop()
	for left > 0 {
		select {
		case a := <-answers:
			batch = append(batch, a)
			left--
		case <-flush.C:
			if len(batch) > 0 {
				s.send(func(b []byte) []byte { return appendResolveReply(b, s.id, batch, true) })
				batch = batch[:0]
			}
			flush.Reset(resolveFlush)
		}
	}
	s.send(func(b []byte) []byte { return appendResolveReply(b, s.id, batch, false) })
}
