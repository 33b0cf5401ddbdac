package multiraft

import (
	"context"
	"errors"
	"sync/atomic"
)

// ReadIndex returns nil once the local state machine has applied everything that was committed in the shard when the call began; the leader has then
// confirmed after that moment that it still leads. ErrNotReady (there is no leader), ErrBusy and ErrTimeout may be tried again.
//
// A round that was under way when the leader changed is lost without a word, so it is begun anew then; that only makes the index later.
func (h *Host) ReadIndex(ctx context.Context, shard uint64) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	r := h.replica(shard)
	if r == nil {
		return ErrNotFound
	}
	h.counters.reads.Add(1)
	for {
		again, err := h.readIndex(ctx, r)
		if !again {
			if err != nil {
				h.counters.readsFailed.Add(1)
			}
			return err
		}
		h.counters.readsRepeated.Add(1)
	}
}

func (h *Host) readIndex(ctx context.Context, r *replica) (again bool, err error) {
	changed := r.changed.wait()
	if err := h.enter(); err != nil {
		return false, err
	}
	// Messages of a follower's round can be lost, too.
	rs, err := h.nh.ReadIndex(r.shard, min(h.timeout(ctx), 2*h.cfg.Election))
	h.leave()
	if err != nil {
		return false, translate(err)
	}
	select {
	case s := <-rs.AppliedC():
		// Dragonboat completes the request when its applied index has reached the read index, see its request.go, pendingReadIndex.applied.
		done := s.Completed()
		o := outcome(&s)
		rs.Release()
		if done {
			return false, nil
		}
		return errors.Is(o.Err, ErrTimeout) && ctx.Err() == nil, o.Err
	case <-changed:
		return true, nil
	case <-ctx.Done():
		return false, ctxError(ctx)
	}
}

// broadcast wakes everybody who waits. Waiting costs an atomic load unless it is the first since the last signal.
type broadcast struct{ c atomic.Pointer[chan struct{}] }

// wait returns a channel that the next signal closes.
func (b *broadcast) wait() <-chan struct{} {
	for {
		if c := b.c.Load(); c != nil {
			return *c
		}
		c := make(chan struct{})
		if b.c.CompareAndSwap(nil, &c) {
			return c
		}
	}
}

func (b *broadcast) signal() {
	if c := b.c.Swap(nil); c != nil {
		close(*c)
	}
}
