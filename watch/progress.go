package watch

import (
	"context"
	"math"
)

// maxRaises bounds how often the revision of a progress report to all watches is
// raised because some of them ran ahead meanwhile. Then each is told its own.
const maxRaises = 8

// Progress answers the client's request for progress: once every watch of the
// stream was handed all events up to the revision that is current now, one
// response says so for all. Requests that are not answered yet are answered
// together. Like etcd, it says nothing where there is no watch, or one that
// begins in the future.
func (s *Stream) Progress(ctx context.Context) error {
	if err := s.waitForRoom(ctx); err != nil {
		return err
	}
	now, err := s.hub.now(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return ErrStreamClosed
	}
	s.mu.progress, s.mu.raised = max(s.mu.progress, now.revision), 0
	s.asked.Store(true)
	s.mu.Unlock()
	s.checkProgress()
	return nil
}

// tick is the periodic report to watches that asked for it and had no events
// since the last tick.
func (s *Stream) tick(ctx context.Context) {
	if !s.wantsTick() {
		return
	}
	now, err := s.hub.now(ctx)
	if err != nil {
		return
	}
	s.mu.Lock()
	if s.cost.Load() < s.limitLocked(true) {
		for _, w := range s.mu.watchers {
			if !w.progress {
				continue
			}
			if w.quiet {
				w.told = now.revision
				s.asked.Store(true)
			}
			w.quiet = true
		}
	}
	s.mu.Unlock()
	s.checkProgress()
}

func (s *Stream) wantsTick() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.mu.watchers {
		if w.progress {
			return true
		}
	}
	return false
}

// checkProgress reports what can be reported by now, and has itself called again
// by the groups that are not there yet. Watches that catch up call it when they
// join a group. No lock of a group may be held.
func (s *Stream) checkProgress() {
	for again := true; again && s.asked.Load(); {
		again = false
		for g, rev := range s.report() {
			if !g.await(rev, s) {
				again = true
			}
		}
	}
}

// report queues the reports that are due and returns the groups that must get
// further first, and how far.
func (s *Stream) report() map[*group]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		s.asked.Store(false)
		return nil
	}
	waits := map[*group]int64{}
	lowest, ready, watches := int64(math.MaxInt64), true, 0
	asked := false
	for _, w := range s.mu.watchers {
		if w.compacted {
			continue
		}
		watches++
		if w.start > s.mu.progress {
			s.mu.progress = 0
		}
		if !w.quiet || w.start > w.told {
			w.told = 0
		}
		g, pos := w.position()
		if g == nil {
			ready, asked = false, asked || w.told > 0
			continue
		}
		lowest = min(lowest, pos)
		if pos < s.mu.progress {
			waits[g] = max(waits[g], s.mu.progress)
		}
		switch {
		case w.told == 0:
		case pos < w.told:
			waits[g] = max(waits[g], w.told)
			asked = true
		default:
			s.tellLocked(w, pos)
			w.told = 0
		}
	}
	if watches == 0 {
		s.mu.progress = 0
	}
	if s.mu.progress > 0 && ready && lowest >= s.mu.progress {
		s.broadcastLocked(lowest, waits)
	}
	s.asked.Store(asked || s.mu.progress > 0)
	return waits
}

// broadcastLocked tells all watches at once that they have seen everything up to
// lowest, unless one of them has been handed a later event: a client would take
// the report for that watch's position and go back.
func (s *Stream) broadcastLocked(lowest int64, waits map[*group]int64) {
	if lowest >= s.mu.newest {
		s.enqueueLocked(item{kind: itemProgress, id: InvalidWatchID, revision: lowest})
		s.mu.progress, s.mu.newest = 0, lowest
		for _, w := range s.mu.watchers {
			w.last = max(w.last, lowest)
		}
		return
	}
	if s.mu.raised++; s.mu.raised > maxRaises {
		for _, w := range s.mu.watchers {
			if g, pos := w.position(); g != nil {
				s.tellLocked(w, pos)
			}
		}
		s.mu.progress = 0
		return
	}
	s.mu.progress = s.mu.newest
	for _, w := range s.mu.watchers {
		if g, pos := w.position(); g != nil && pos < s.mu.progress {
			waits[g] = max(waits[g], s.mu.progress)
		}
	}
}

// tellLocked reports one watch's progress. The watch may be ahead of the group that
// it is in, for instance after it moved to another one: what it was told once is
// not taken back.
func (s *Stream) tellLocked(w *watcher, pos int64) {
	w.last = max(w.last, pos)
	s.mu.newest = max(s.mu.newest, w.last)
	s.enqueueLocked(item{kind: itemProgress, id: w.id, revision: w.last})
}

// position returns the live group that the watcher is in and how far that is;
// nil if it is elsewhere. Everything up to the position was handed to the stream
// by then: a watcher leaves its group before the group's position moves past
// what it was not handed.
func (w *watcher) position() (*group, int64) {
	g := w.group.Load()
	if g == nil || !g.live {
		return nil, 0
	}
	pos := g.pos.Load()
	if w.group.Load() != g {
		return nil, 0
	}
	return g, pos
}

// waitForRoom holds up a client that asks for more and more but does not read
// the answers.
func (s *Stream) waitForRoom(ctx context.Context) error {
	for {
		s.mu.Lock()
		room := s.cost.Load() < 2*s.limitLocked(true)
		s.mu.Unlock()
		if room {
			return nil
		}
		select {
		case <-s.roomc:
		case <-s.done:
			return ErrStreamClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
