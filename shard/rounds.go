package shard

import (
	"sync"
	"time"
)

// Rounds lines up the proposals of a member's shards, so that one sync of the
// raft log, here and on each follower, serves many of them.
//
// A shard that proposes whenever its last batch applied falls out of step with
// the others: each of n shards then waits for about one and a half syncs, and
// the disk does n of them where one would do. So a shard that wants to propose
// while others of the member have proposals in flight waits for those to finish
// and proposes together with all that waited. A shard alone never waits.
//
// # Invariants
//
//   - Rounds only delays: it knows nothing of epochs and revisions, and no rule
//     of the pipeline rests on it.
//   - A round is over when all its members ended, or after patience, which is
//     several times what rounds take: a shard without a majority holds up the
//     others once for that long, and is not counted in later rounds until it
//     begins a batch again.
//   - Every member of a round ends it exactly once; ends of earlier rounds are
//     ignored.
//
// Full batches behind the first one (pipeline, Limits.Depth) do not pass here.
type Rounds struct {
	mu struct {
		sync.Mutex
		// round is the number of the current one, running how many shards of it
		// have not ended.
		round   uint64
		running int
		began   time.Time
		// typical is a moving average of what rounds take.
		typical time.Duration
		waiting []*pipeline
		// watched is the round that a timer watches.
		watched uint64
	}
}

const (
	// patienceFactor times the typical round is how long a round may last while
	// others wait, within the bounds.
	patienceFactor = 4
	patienceLeast  = time.Millisecond
	patienceMost   = 50 * time.Millisecond
)

// NewRounds returns the rounds of one member.
func NewRounds() *Rounds { return &Rounds{} }

// begin lets a pipeline propose, in the round that is returned, or has it kicked
// when it may.
func (r *Rounds) begin(p *pipeline) (round uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case p.granted != 0:
		round, p.granted = p.granted, 0
		return round, true
	case r.mu.running == 0:
		r.mu.round++
		r.mu.running = 1
		r.mu.began = time.Now()
		return r.mu.round, true
	case !p.lined:
		p.lined = true
		r.mu.waiting = append(r.mu.waiting, p)
		r.watchLocked()
	}
	return 0, false
}

// end takes a pipeline's part in a round out of it.
func (r *Rounds) end(round uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if round != r.mu.round || r.mu.running == 0 {
		return
	}
	if r.mu.running--; r.mu.running > 0 {
		return
	}
	took := time.Since(r.mu.began)
	r.mu.typical += (took - r.mu.typical) / 8
	r.openLocked()
}

// leave takes a pipeline that stopped out of whatever it was granted or waits for.
func (r *Rounds) leave(p *pipeline) {
	r.mu.Lock()
	granted := p.granted
	p.granted = 0
	if p.lined {
		p.lined = false
		for i, w := range r.mu.waiting {
			if w == p {
				r.mu.waiting = append(r.mu.waiting[:i], r.mu.waiting[i+1:]...)
				break
			}
		}
	}
	r.mu.Unlock()
	if granted != 0 {
		r.end(granted)
	}
}

// openLocked begins a round of all that wait.
func (r *Rounds) openLocked() {
	if len(r.mu.waiting) == 0 {
		return
	}
	r.mu.round++
	r.mu.running = len(r.mu.waiting)
	r.mu.began = time.Now()
	for i, p := range r.mu.waiting {
		p.granted, p.lined = r.mu.round, false
		p.kick()
		r.mu.waiting[i] = nil
	}
	r.mu.waiting = r.mu.waiting[:0]
}

// watchLocked sees to it that the current round does not hold up the waiting for
// ever.
func (r *Rounds) watchLocked() {
	if r.mu.watched == r.mu.round {
		return
	}
	round := r.mu.round
	r.mu.watched = round
	patience := min(max(patienceFactor*r.mu.typical, patienceLeast), patienceMost)
	time.AfterFunc(max(patience-time.Since(r.mu.began), 0), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.mu.round != round || r.mu.running == 0 {
			return
		}
		// Nobody may be waiting any more; who comes next watches anew.
		r.mu.watched = 0
		r.mu.typical += (time.Since(r.mu.began) - r.mu.typical) / 8
		r.openLocked()
	})
}
