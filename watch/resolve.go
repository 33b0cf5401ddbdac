package watch

import (
	"context"
	"sync"
	"time"

	"github.com/kvd-io/kvd/shard"
)

const (
	// roundTimeout bounds a round of questions.
	roundTimeout = 2 * time.Second
	// roundPatience is how long a round keeps the next one from leaving. After
	// that it lingers: only the shards that have not answered wait for its end, so
	// that a member that is gone does not hold up watches on other shards.
	roundPatience = 20 * time.Millisecond
	// A question without a usable answer is put again after a while that doubles
	// from minAgain to maxAgain: its shard is changing hands, or its owner is gone.
	minAgain = 2 * time.Millisecond
	maxAgain = 250 * time.Millisecond
)

// resolver asks the owners of shards that hold up a watch how far they are
// resolved. It works in rounds: what is wanted while a round is under way is
// asked for in the next, all of it together. Nothing is asked while nothing is
// wanted.
type resolver struct {
	hub *Hub
	mu  struct {
		sync.Mutex
		wanted map[*segment]*want
		// current is the round that keeps the next one waiting, if any.
		current *round
		timer   *time.Timer
		closed  bool
	}
}

// want is a segment that has to be resolved up to rev.
type want struct {
	rev int64
	// asked is the round that has the question.
	asked *round
	// again is when it may be asked next, delay the last pause.
	again time.Time
	delay time.Duration
}

// round is one call of Config.Resolver.
type round struct {
	segments []*segment
	patience *time.Timer
}

func (rd *round) stop() {
	if rd.patience != nil {
		rd.patience.Stop()
	}
}

func (r *resolver) init(h *Hub) {
	r.hub = h
	r.mu.wanted = map[*segment]*want{}
}

// close stops the timers. Rounds end with the hub's context.
func (r *resolver) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.closed = true
	if r.mu.timer != nil {
		r.mu.timer.Stop()
	}
	if r.mu.current != nil {
		r.mu.current.stop()
	}
}

// want asks for the resolution of segments up to rev, which is allotted. It never
// blocks: the answers show in the segments.
func (r *resolver) want(segments []*segment, rev int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range segments {
		if s.readable() >= rev {
			continue
		}
		w := r.mu.wanted[s]
		if w == nil {
			w = &want{}
			r.mu.wanted[s] = w
		}
		w.rev = max(w.rev, rev)
	}
	r.startLocked()
}

// startLocked begins a round if anything is wanted, unless one is under way. What
// it asks is gathered when it runs, so that groups which find out at the same time
// what they want share it.
func (r *resolver) startLocked() {
	if r.mu.current != nil || r.mu.closed || len(r.mu.wanted) == 0 {
		return
	}
	rd := &round{}
	r.mu.current = rd
	r.hub.spawn(func() { r.run(rd) })
}

// gather takes what may be asked now into a round.
func (r *resolver) gather(rd *round) (rev int64, shards []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	asked := map[uint64]bool{}
	for s, w := range r.mu.wanted {
		switch {
		case s.isFrozen(), s.readable() >= w.rev:
			delete(r.mu.wanted, s)
			continue
		case w.asked != nil:
			continue
		case s.source.shard == 0, s.source.awaits(s, w.rev):
			// Nobody to ask yet, or the answer is here and waits for the replica.
			// Whatever changes that wakes the groups, and they want anew.
			delete(r.mu.wanted, s)
			continue
		case now.Before(w.again):
			continue
		}
		w.asked = rd
		rd.segments = append(rd.segments, s)
		rev = max(rev, w.rev)
		if id := s.source.shard; !asked[id] {
			asked[id] = true
			shards = append(shards, id)
		}
	}
	if len(shards) > 0 && !r.hub.cfg.manual {
		rd.patience = time.AfterFunc(roundPatience, func() { r.release(rd) })
	}
	return rev, shards
}

func (r *resolver) startAtLocked(d time.Duration) {
	if r.mu.timer != nil {
		r.mu.timer.Stop()
	}
	if r.mu.closed {
		return
	}
	r.mu.timer = time.AfterFunc(d, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.startLocked()
	})
}

// release lets the next round leave.
func (r *resolver) release(rd *round) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.current == rd {
		r.mu.current = nil
		r.startLocked()
	}
}

func (r *resolver) run(rd *round) {
	rev, shards := r.gather(rd)
	if len(shards) > 0 {
		r.hub.stats.rounds.Add(1)
		ctx, cancel := context.WithTimeout(r.hub.ctx, roundTimeout)
		r.hub.cfg.Resolver.Resolve(ctx, rev, shards, func(res shard.Resolved) { r.answer(rd, res) })
		cancel()
	}
	r.finish(rd)
}

// answer takes in what an owner said.
func (r *resolver) answer(rd *round, res shard.Resolved) {
	for _, s := range rd.segments {
		if s.source.shard != res.Shard {
			continue
		}
		r.hub.saw(res.Revision)
		// The source of all segments of one shard is one, but for a shard that has
		// just come or gone.
		s.source.answer(res)
		r.mu.Lock()
		if w := r.mu.wanted[s]; w != nil && w.asked == rd && (s.readable() >= w.rev || s.source.awaits(s, w.rev)) {
			delete(r.mu.wanted, s)
		}
		r.mu.Unlock()
	}
}

// finish ends a round: what it did not bring is asked again later, and what was
// wanted meanwhile at once.
func (r *resolver) finish(rd *round) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rd.stop()
	now := time.Now()
	for _, s := range rd.segments {
		w := r.mu.wanted[s]
		if w == nil || w.asked != rd {
			continue
		}
		w.asked = nil
		if !r.hub.cfg.manual {
			w.delay = min(max(2*w.delay, minAgain), maxAgain)
			w.again = now.Add(w.delay)
		}
	}
	if r.mu.current == rd {
		r.mu.current = nil
	}
	ready, next := false, time.Time{}
	for _, w := range r.mu.wanted {
		switch {
		case w.asked != nil:
		case !now.Before(w.again):
			ready = true
		case next.IsZero() || w.again.Before(next):
			next = w.again
		}
	}
	if ready {
		r.startLocked()
	} else if !next.IsZero() {
		r.startAtLocked(next.Sub(now))
	}
}
