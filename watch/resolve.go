package watch

import (
	"context"
	"slices"
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
	// byShard finds the segments of a shard. It is one, but while the shard comes
	// or goes.
	byShard  map[uint64][]*segment
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
	segments = r.try(segments, rev)
	if len(segments) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range segments {
		w := r.mu.wanted[s]
		if w == nil {
			w = &want{}
			r.mu.wanted[s] = w
		}
		w.rev = max(w.rev, rev)
	}
	r.startLocked()
}

// try credits what can be told at once and returns the segments that are not
// resolved up to rev then.
func (r *resolver) try(segments []*segment, rev int64) (left []*segment) {
	var shards []uint64
	for _, s := range segments {
		if s.readable() >= rev {
			continue
		}
		left = append(left, s)
		if s.source.local {
			shards = append(shards, s.source.shard)
		}
	}
	at, ok := r.hub.cfg.Resolver.(TryResolver)
	if !ok || len(shards) == 0 {
		return left
	}
	at.TryResolve(rev, shards, func(res shard.Resolved) {
		// What this member owns it has a replica of, unless that is just leaving.
		if src := r.hub.local(res.Shard); src != nil {
			src.answer(res)
		}
	})
	return slices.DeleteFunc(left, func(s *segment) bool { return s.readable() >= rev || s.source.awaits(s, rev) })
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
	rd.byShard = make(map[uint64][]*segment, len(r.mu.wanted))
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
		id := s.source.shard
		if rd.byShard[id] == nil {
			shards = append(shards, id)
		}
		rd.byShard[id] = append(rd.byShard[id], s)
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
	r.hub.saw(res.Revision)
	for _, s := range rd.byShard[res.Shard] {
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
