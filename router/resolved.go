package router

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/shard"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errNotResolved: no local replica can answer a serializable read.
var errNotResolved = status.Error(codes.Unavailable, "kvd: no local replica can answer")

// resolvedTable remembers what owners said of shards that have a replica here,
// so that serializable reads of idle shards are not forever old.
//
// Each answer costs its owner a round of raft unless it has other readers, so a
// thousand shards that nobody uses must not be asked about by every member each
// second. Shards that serializable reads have touched within wantedFor are asked
// about at each tick; of the others each one at every idleTicks-th. That is how old
// they are at most on a member that loses its connections. The first read of
// such a shard does not make do with it: it asks first, for firstPatience at most.
type resolvedTable struct {
	mu     sync.RWMutex
	shards map[uint64]shard.Resolved
	// wanted is when a shard was last read, in nanoseconds of the monotonic clock
	// since began.
	wanted map[uint64]*atomic.Int64
	began  time.Time

	// asking is held by the one first read that asks.
	asking chan struct{}
}

const (
	wantedFor     = time.Minute
	idleTicks     = 5
	firstPatience = 250 * time.Millisecond
	// wantedStep is how exact it is known when a shard was last read, so that reads
	// do not all write.
	wantedStep = time.Second
)

func newResolvedTable() *resolvedTable {
	return &resolvedTable{shards: make(map[uint64]shard.Resolved), wanted: make(map[uint64]*atomic.Int64), began: time.Now(), asking: make(chan struct{}, 1)}
}

func (t *resolvedTable) learn(rs []shard.Resolved, live func(shard uint64) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range rs {
		if old, ok := t.shards[r.Shard]; !ok || r.Generation > old.Generation || (r.Generation == old.Generation && r.Revision > old.Revision) {
			t.shards[r.Shard] = r
		}
	}
	for id := range t.shards {
		if !live(id) {
			delete(t.shards, id)
		}
	}
	for id := range t.wanted {
		if !live(id) {
			delete(t.wanted, id)
		}
	}
}

// at returns the revision at which a view is exact: every write of its span up
// to it is in the view, and none is missing.
func (t *resolvedTable) at(id uint64, v View) int64 {
	rev := v.Revision()
	t.mu.RLock()
	defer t.mu.RUnlock()
	span := v.Span()
	if r, ok := t.shards[id]; ok && r.Generation == v.Generation() && r.Applied <= v.Applied() &&
		bytes.Equal(r.Span.Start, span.Start) && bytes.Equal(r.Span.End, span.End) {
		rev = max(rev, r.Revision)
	}
	return rev
}

// touch notes that shards are read, and returns those that were not for long.
func (t *resolvedTable) touch(parts []part, now time.Time) (cold []uint64) {
	at := int64(now.Sub(t.began))
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, p := range parts {
		w := t.wanted[p.desc.Shard]
		if w == nil {
			cold = append(cold, p.desc.Shard)
			continue
		}
		switch last := w.Load(); {
		case at-last >= int64(wantedFor):
			cold = append(cold, p.desc.Shard)
		case at-last >= int64(wantedStep):
			w.Store(at)
		}
	}
	return cold
}

// want makes shards ones that are read.
func (t *resolvedTable) want(shards []uint64, now time.Time) {
	at := int64(now.Sub(t.began))
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range shards {
		w := t.wanted[id]
		if w == nil {
			w = &atomic.Int64{}
			t.wanted[id] = w
		}
		w.Store(at)
	}
}

// due tells whether a shard is to be asked about at a tick.
func (t *resolvedTable) due(id, tick uint64, now time.Time) bool {
	if (id+tick)%idleTicks == 0 {
		return true
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	w := t.wanted[id]
	return w != nil && int64(now.Sub(t.began))-w.Load() < int64(wantedFor)
}

// warm sees to it that what is known of the shards of a serializable read is
// not old, as far as that takes no longer than firstPatience. Most reads find
// that it is so already.
func (r *Router) warm(ctx context.Context, parts []part) {
	if len(r.stale.touch(parts, time.Now())) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, firstPatience)
	defer cancel()
	select {
	case r.stale.asking <- struct{}{}:
		defer func() { <-r.stale.asking }()
	case <-ctx.Done():
		return
	}
	// Whoever asked before may have asked for these.
	cold := r.stale.touch(parts, time.Now())
	if len(cold) == 0 {
		return
	}
	r.refresh(ctx, r.cfg.Placement.Map(), cold)
	// Without an answer, too: later reads do not wait.
	r.stale.want(cold, time.Now())
}

// refreshResolved keeps the resolved revisions of local replicas fresh.
func (r *Router) refreshResolved(ctx context.Context) {
	ticker := time.NewTicker(r.cfg.ResolveInterval)
	defer ticker.Stop()
	for tick := uint64(0); ; tick++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		r.refreshOnce(ctx, tick)
	}
}

// refreshOnce does what is due at one tick.
func (r *Router) refreshOnce(ctx context.Context, tick uint64) {
	ctx, cancel := context.WithTimeout(ctx, max(r.cfg.ResolveInterval, time.Second))
	defer cancel()
	m := r.cfg.Placement.Map()
	now := time.Now()
	var ids []uint64
	for _, d := range m.Live() {
		if _, ok := r.cfg.Replicas.Replica(d.Shard); ok && r.stale.due(d.Shard, tick, now) {
			ids = append(ids, d.Shard)
		}
	}
	r.refresh(ctx, m, ids)
}

// refresh asks about shards. What cannot be had is not learned.
func (r *Router) refresh(ctx context.Context, m *placement.Map, ids []uint64) {
	if len(ids) == 0 {
		return
	}
	g, err := r.cfg.Placement.Current(ctx)
	if err != nil {
		return
	}
	got, _ := r.resolveAll(ctx, g.First, ids)
	r.stale.learn(got, func(id uint64) bool { return m.ByID(id) != nil })
}
