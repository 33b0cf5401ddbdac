package shard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// log takes changes of records through the log and returns once they are applied
// here, or never will be, or the tenure is over: then their fate is unknown.
//
// The command is proposed again until it is applied. Its place in the epoch's
// sequence makes that harmless: as only this goroutine takes places, a copy that
// finds the place taken finds it taken by an earlier copy of itself.
func (s *lessor) log(changed map[int64]*kvdpb.LeaseRecord) error {
	if len(changed) == 0 {
		return nil
	}
	c := &kvdpb.ShardLeases{Epoch: s.t.epoch, Seq: s.seq}
	for _, id := range slices.Sorted(maps.Keys(changed)) {
		if record := changed[id]; record != nil {
			c.Set = append(c.Set, record)
		} else {
			c.Drop = append(c.Drop, id)
		}
	}
	unsure := false
	for delay := driveRetryFirst; ; delay = min(2*delay, driveRetryMost) {
		err := s.t.r.propose(s.t.ctx, &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Leases{Leases: c}})
		var rejected *RejectedError
		var notAppended *notAppendedError
		switch {
		case err == nil:
			s.seq++
			return nil
		case errors.As(err, &rejected) && rejected.Rejection == OutOfSequence && unsure:
			s.seq++
			return nil
		case errors.As(err, &rejected) && rejected.Rejection == OutsideSpan:
			// A split came first: the records are another shard's.
			return ErrSpanMoving
		case errors.As(err, &rejected):
			return s.over(unsure, err)
		case !errors.As(err, &notAppended):
			unsure = true
		}
		if s.t.over() || !pause(s.t.ctx, delay) {
			return s.over(unsure, err)
		}
	}
}

// over is the error for a change whose epoch is.
func (s *lessor) over(unsure bool, cause error) error {
	if unsure {
		return s.t.r.ambiguous(cause)
	}
	return s.t.r.notOwner()
}

// drain takes in nothing more, and logs what is left of each lease (note), so that
// the next owner counts from there.
func (s *lessor) drain(ctx context.Context, slack time.Duration) (tooMuch time.Duration, err error) {
	if tooMuch, err = s.note(ctx, slack); err != nil {
		return tooMuch, err
	}
	select {
	case <-s.loaded:
	default:
		return tooMuch, nil
	}
	s.mu.Lock()
	s.mu.stopped = true
	s.mu.Unlock()
	return tooMuch, s.settle(ctx)
}

// note logs what is left of each lease, but for those of which the log says less than
// slack too much: so much longer they may live. tooMuch is the most that it says too
// much of one of those.
func (s *lessor) note(ctx context.Context, slack time.Duration) (tooMuch time.Duration, err error) {
	select {
	case <-s.loaded:
	default:
		return 0, nil
	}
	var all []*lease
	s.mu.Lock()
	for _, l := range s.mu.leases {
		if l.ending {
			continue
		}
		if over := remaining(l.record) - l.end.Sub(s.now()); slack == 0 || over >= slack {
			all = append(all, l)
		} else {
			tooMuch = max(tooMuch, over)
		}
	}
	s.mu.Unlock()
	for some := range slices.Chunk(all, maxLeaseChange) {
		// Only those that are on their way: the tenure may go on after an error.
		s.mu.Lock()
		for _, l := range some {
			l.checkpointing = true
		}
		s.mu.Unlock()
		s.checkpoint(some)
		if err := s.settle(ctx); err != nil {
			return tooMuch, fmt.Errorf("checkpoint leases: %w", err)
		}
	}
	return tooMuch, nil
}

// settle waits until nothing is in line.
func (s *lessor) settle(ctx context.Context) error {
	s.mu.Lock()
	if len(s.mu.queue) == 0 && !s.mu.busy {
		s.mu.Unlock()
		return nil
	}
	if s.mu.idle == nil {
		s.mu.idle = make(chan struct{})
	}
	idle := s.mu.idle
	s.mu.Unlock()
	s.kick()
	select {
	case <-idle:
		return nil
	case <-s.t.ctx.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cloneRecord copies a record that is to be changed.
func cloneRecord(l *kvdpb.LeaseRecord) *kvdpb.LeaseRecord {
	return proto.Clone(l).(*kvdpb.LeaseRecord)
}
