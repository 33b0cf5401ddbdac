package watch

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// maxRingShares bounds into how many rings the memory for them is divided: many
// shards are rarely busy all at once.
const maxRingShares = 256

// Hub is one member's watch service: it takes in what the local replicas apply
// (it is their shard.Sink) and delivers it to the watches of all client streams.
type Hub struct {
	cfg Config
	log *zap.Logger
	// live runs groups, which touch memory only; history runs cohorts, which
	// read disks and other members.
	live, history *scheduler

	topology  atomic.Pointer[topology]
	ringLimit atomic.Int64
	// interest counts groups, cohorts and followers: without any, nobody will
	// ever look at a ring.
	interest atomic.Int64
	// seen is the largest revision that this member has heard of.
	seen atomic.Int64
	// sourceSerial numbers sources.
	sourceSerial atomic.Uint64

	mu struct {
		sync.Mutex
		locals map[uint64]*source
		closed bool
	}
	// background counts goroutines; its lock is a leaf.
	background struct {
		sync.Mutex
		sync.WaitGroup
		closed bool
	}
	groups struct {
		sync.Mutex
		live map[spanKey]*group
		// cohorts are the groups that read history, by the span they all watch.
		cohorts map[spanKey][]*group
	}
	streams struct {
		sync.Mutex
		open map[*Stream]struct{}
	}
	current resolvedCurrent
	resolve resolver
	feeds   feeds
	stats   counters

	ctx    context.Context
	cancel context.CancelFunc
}

var _ shard.Sink = (*Hub)(nil)

// NewHub starts a hub. It must be closed.
func NewHub(cfg Config) *Hub {
	cfg.setDefaults()
	h := &Hub{cfg: cfg, log: cfg.Logger}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.mu.locals = map[uint64]*source{}
	h.groups.live = map[spanKey]*group{}
	h.groups.cohorts = map[spanKey][]*group{}
	h.streams.open = map[*Stream]struct{}{}
	h.resolve.init(h)
	h.feeds.init(h)
	workers, readers := cfg.Workers, cfg.CatchUpWorkers
	if cfg.manual {
		workers, readers = 0, 0
	}
	h.live, h.history = newScheduler(workers), newScheduler(readers)
	users := newSegment(keyspace.Users(), h.newSource(0, false))
	h.topology.Store(&topology{segments: []*segment{users}})
	h.ringLimit.Store(int64(cfg.RingBytes))
	return h
}

// Close ends all streams and waits for everything that the hub has under way. No
// Sink call may come after it.
func (h *Hub) Close() {
	h.mu.Lock()
	h.mu.closed = true
	h.mu.Unlock()
	h.background.Lock()
	h.background.closed = true
	h.background.Unlock()
	h.cancel()
	h.streams.Lock()
	open := make([]*Stream, 0, len(h.streams.open))
	for s := range h.streams.open {
		open = append(open, s)
	}
	h.streams.Unlock()
	for _, s := range open {
		s.Close()
	}
	h.resolve.close()
	h.live.close()
	h.history.close()
	h.background.Wait()
}

// spawn runs f on a goroutine of its own that Close waits for; not once Close
// has begun.
func (h *Hub) spawn(f func()) {
	if h.cfg.manual {
		h.cfg.spawn(f)
		return
	}
	h.background.Lock()
	defer h.background.Unlock()
	if h.background.closed {
		return
	}
	h.background.Add(1)
	go func() {
		defer h.background.Done()
		f()
	}()
}

// after wakes a task once some time has passed, for what no change announces.
func (h *Hub) after(d time.Duration, t *task) {
	if h.cfg.manual {
		return
	}
	time.AfterFunc(d, t.wake)
}

func (h *Hub) newSource(id uint64, local bool) *source {
	return &source{shard: id, local: local, serial: h.sourceSerial.Add(1)}
}

func (h *Hub) saw(rev int64) {
	for {
		old := h.seen.Load()
		if rev <= old || h.seen.CompareAndSwap(old, rev) {
			return
		}
	}
}

// broken reports an event or an answer that contradicts what watches were
// promised. To go on would be to deliver out of order, so the member stops.
func (h *Hub) broken(err error, fields ...zap.Field) {
	h.log.Panic("watch invariant is broken", append(fields, zap.Error(err))...)
}

// Opened implements shard.Sink.
func (h *Hub) Opened(id uint64, desc *kvdpb.Descriptor, applied uint64, lastRevision int64) {
	h.open(id, desc, applied, lastRevision)
}

// Restored implements shard.Sink. What the replica skipped is on its disk:
// watches below lastRevision read it there before they see anything newer.
func (h *Hub) Restored(id uint64, desc *kvdpb.Descriptor, applied uint64, lastRevision int64) {
	h.open(id, desc, applied, lastRevision)
}

func (h *Hub) open(id uint64, desc *kvdpb.Descriptor, applied uint64, lastRevision int64) {
	h.saw(lastRevision)
	h.mu.Lock()
	defer h.mu.Unlock()
	src := h.mu.locals[id]
	if src == nil {
		src = h.newSource(id, true)
		h.mu.locals[id] = src
	}
	src.mu.Lock()
	src.mu.generation, src.mu.span = desc.Generation, spanOf(desc)
	src.mu.last = max(src.mu.last, lastRevision)
	for _, seg := range src.mu.segments {
		// A replica that jumped over a split speaks for its half only.
		if src.mu.span.ContainsSpan(seg.span) {
			seg.jump(lastRevision)
		}
	}
	src.mu.Unlock()
	h.rebuildLocked()
	src.mu.Lock()
	src.reachLocked(applied)
	src.mu.Unlock()
}

// Applied implements shard.Sink.
func (h *Hub) Applied(id uint64, applied uint64, events []shard.Event) {
	src := h.local(id)
	if src == nil {
		return
	}
	keep := h.interest.Load() > 0
	limit := int(h.ringLimit.Load())
	src.mu.Lock()
	defer src.mu.Unlock()
	if len(events) > 0 {
		src.mu.last = max(src.mu.last, events[len(events)-1].Revision)
		h.saw(src.mu.last)
		for _, seg := range src.mu.segments {
			if !keep {
				seg.pass(src.mu.last)
				continue
			}
			if err := seg.append(entriesOf(events, seg.span), limit); err != nil {
				h.broken(err, zap.Uint64("shard", id), zap.Uint64("applied", applied))
			}
			// All keys of the source up to last were handed over, so the segment is
			// resolved up to there even where none of them lies in it.
			seg.credit(src.mu.last)
		}
	}
	src.reachLocked(applied)
}

// Split implements shard.Sink. The child's span keeps what the parent resolved.
func (h *Hub) Split(parent, _ *kvdpb.Descriptor, applied uint64, revision int64) {
	h.reshaped(parent, applied, revision)
}

// Absorbed implements shard.Sink. The keys that came go on from where their former
// shard had got to; what that had not handed over is read from the store. Nothing of
// the shard's own keys is missing up to revision: its owner had asked for none beyond
// what was applied, and asks for larger ones from now on.
func (h *Hub) Absorbed(desc *kvdpb.Descriptor, applied uint64, revision int64) {
	h.reshaped(desc, applied, revision)
}

// reshaped takes in that a shard holds other keys from index applied on, and that all
// events of its former ones up to revision were handed over.
func (h *Hub) reshaped(desc *kvdpb.Descriptor, applied uint64, revision int64) {
	h.saw(revision)
	h.mu.Lock()
	defer h.mu.Unlock()
	src := h.mu.locals[desc.Shard]
	if src == nil {
		return
	}
	src.mu.Lock()
	for _, seg := range src.mu.segments {
		seg.credit(revision)
	}
	src.mu.generation, src.mu.span = desc.Generation, spanOf(desc)
	src.mu.last = max(src.mu.last, revision)
	src.mu.Unlock()
	h.rebuildLocked()
	src.mu.Lock()
	src.reachLocked(applied)
	src.mu.Unlock()
}

// Closed implements shard.Sink.
func (h *Hub) Closed(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.locals[id] == nil {
		return
	}
	delete(h.mu.locals, id)
	h.rebuildLocked()
}

// MapChanged tells the hub that the range map has changed. It matters for keys
// without a local replica only.
func (h *Hub) MapChanged() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.mu.closed {
		h.rebuildLocked()
	}
}

func (h *Hub) local(id uint64) *source {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.locals[id]
}

func spanOf(d *kvdpb.Descriptor) keyspace.Span { return keyspace.Span{Start: d.Start, End: d.End} }

// entriesOf builds the entries of the events that lie in span.
func entriesOf(events []shard.Event, span keyspace.Span) []*entry {
	out := make([]*entry, 0, len(events))
	for i := range events {
		if !span.Contains(events[i].KV.Key) {
			continue
		}
		if e, ok := entryOf(&events[i]); ok {
			out = append(out, e)
		}
	}
	return out
}
