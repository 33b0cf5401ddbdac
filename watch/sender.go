package watch

import (
	"context"
	"math/rand/v2"
	"time"
)

// Run sends the stream's responses by way of send, one at a time and in order,
// until ctx ends, the stream is closed or send fails. It returns nil if the
// stream was closed.
func (s *Stream) Run(ctx context.Context, send func(*Response) error) error {
	interval := s.hub.cfg.ProgressInterval
	// Streams that began together, as after a restart, do not tick together.
	interval += time.Duration(rand.Int64N(int64(interval)/10 + 1))
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		sent, err := s.flush(send)
		if err != nil {
			return err
		}
		if sent {
			continue
		}
		select {
		case <-s.wakec:
		case <-ticker.C:
			s.hub.spawn(func() { s.tick(ctx) })
		case <-s.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// flush sends what is queued, and lets stalled watches go on once that is gone.
func (s *Stream) flush(send func(*Response) error) (sent bool, err error) {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return false, nil
	}
	items := s.mu.out.take()
	var resume []*watcher
	if len(s.mu.stalled) > 0 && s.cost.Load() < s.limitLocked(true)/4 {
		resume, s.mu.stalled = s.mu.stalled, nil
	}
	s.mu.Unlock()
	if len(resume) > 0 {
		s.hub.stats.slow.Add(-int64(len(resume)))
		for _, w := range resume {
			s.hub.attach(w)
		}
	}
	r := &s.response
	for i := range items {
		it := &items[i]
		// What follows a failure or the end is dropped, but counted.
		if err == nil && !s.isClosed() {
			err = it.send(r, s.hub.cfg.MaxResponseBytes, send)
			s.hub.stats.events.Add(int64(it.events))
		}
		s.cost.Add(-it.cost)
		s.hub.stats.pending.Add(-int64(it.events))
		*it = item{}
	}
	if len(items) > 0 {
		select {
		case s.roomc <- struct{}{}:
		default:
		}
	}
	return len(items) > 0 || len(resume) > 0, err
}

func (s *Stream) isClosed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// send fills r with the item and sends it.
func (it *item) send(r *Response, maxBytes int, send func(*Response) error) error {
	*r = Response{WatchID: it.id, Revision: it.revision, CancelReason: it.reason, Batches: r.Batches[:0]}
	switch it.kind {
	case itemCreated:
		r.Created = true
	case itemRefused:
		r.Created, r.Canceled = true, true
	case itemCanceled:
		r.Canceled = true
	case itemCompacted:
		r.Canceled, r.CompactRevision = true, it.compacted
	case itemEvents:
		r.Batches = append(append(r.Batches, it.batch), it.more...)
		if it.fragment {
			return r.fragments(maxBytes, send)
		}
	}
	return send(r)
}

// stall keeps watchers that the queue had no room for until it has drained. Their
// next is set.
func (s *Stream) stall(ws []*watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return
	}
	for _, w := range ws {
		if !w.canceled.Load() {
			s.mu.stalled = append(s.mu.stalled, w)
			s.hub.stats.slow.Add(1)
		}
	}
	// The sender may have emptied the queue between the refusal and now.
	s.signal()
}

func (s *Stream) dropStalledLocked(w *watcher) {
	for i, o := range s.mu.stalled {
		if o == w {
			s.mu.stalled = append(s.mu.stalled[:i], s.mu.stalled[i+1:]...)
			s.hub.stats.slow.Add(-1)
			return
		}
	}
}
