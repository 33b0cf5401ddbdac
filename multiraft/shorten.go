package multiraft

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// A replica that starts reads its log from its last snapshot on, though its state machine contains nearly all of it: Dragonboat hands
// entries over from there, and one step worker reads them for all replicas, one after another. Config.SnapshotEntries does not bound that: one entry of
// a busy shard holds hundreds of writes. So the logs are bounded by their bytes as well, all replicas' together, because they are read together: when what
// came since the last snapshots exceeds Config.SnapshotBytes, the replica with most of it takes one. Only a replica that has
// shortenLeast does, since a snapshot costs some syncs however small; so many small logs may exceed the bound by that much each.

const (
	shortenLeast = 1 << 20
	// shortenPatience is how long one snapshot may take.
	shortenPatience = time.Minute
	// shortenRest is the pause after one that failed.
	shortenRest = time.Second
)

// Flusher is a StateMachine that can make durable what it has applied while it goes on applying. It is asked to ahead of Sync, during which nothing can be
// applied and which then has little left to do.
type Flusher interface {
	// Flush may be called at any time after Open, even after Close. It does not report: if it failed, Sync fails too.
	Flush()
}

// shortener bounds the logs of all replicas of a host.
type shortener struct {
	h     *Host
	least int64
	// above is how many bytes there must be before the logs are looked at.
	above atomic.Int64
	poke  chan struct{}
	done  chan struct{}
}

func newShortener(h *Host) *shortener {
	s := &shortener{h: h, least: min(shortenLeast, h.cfg.SnapshotBytes), poke: make(chan struct{}, 1), done: make(chan struct{})}
	s.above.Store(h.cfg.SnapshotBytes)
	return s
}

// bytes is how much of the logs the next start would read.
func (s *shortener) bytes() int64 {
	if logs := s.h.logs.Load(); logs != nil {
		return logs.UnsavedBytes()
	}
	return 0
}

// look is called after every apply.
func (s *shortener) look() {
	if s.bytes() <= s.above.Load() {
		return
	}
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// run shortens one log at a time until the host closes.
func (s *shortener) run() {
	defer close(s.done)
	for {
		select {
		case <-s.h.ctx.Done():
			return
		case <-s.poke:
			s.shorten()
		}
	}
}

// shorten takes snapshots until the logs are within their bound, or none is worth one.
func (s *shortener) shorten() {
	for s.h.ctx.Err() == nil && s.bytes() > s.h.cfg.SnapshotBytes {
		before := s.bytes()
		if !s.shortenLongest() || s.bytes() >= before {
			s.above.Store(s.bytes() + s.least)
			return
		}
	}
	s.above.Store(s.h.cfg.SnapshotBytes)
}

// shortenLongest makes the replica with the longest log take a snapshot, and tells whether it did. What stays of the log for followers that lag is as much as
// ever: the next start does not read it.
func (s *shortener) shortenLongest() bool {
	var r *replica
	longest := s.h.logs.Load().MostUnsaved(func(shard, id uint64) bool {
		of := s.h.replica(shard)
		if of == nil || of.id != id || !of.ready.Load() {
			return false
		}
		r = of
		return true
	})
	if longest.Bytes < s.least {
		return false
	}
	if r.flush != nil {
		r.flush()
	}
	ctx, cancel := context.WithTimeout(s.h.ctx, shortenPatience)
	defer cancel()
	err := s.h.RequestSnapshot(ctx, r.shard, false, 0)
	switch {
	case err == nil:
		return true
	case errors.Is(err, ErrStopped), errors.Is(err, ErrNotFound):
		return false
	}
	s.h.log.Warn("a raft log could not be shortened", zap.Uint64("shard", r.shard), zap.Uint64("replica", r.id), zap.Error(err))
	select {
	case <-s.h.ctx.Done():
	case <-time.After(shortenRest):
	}
	return false
}
