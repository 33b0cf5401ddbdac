package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/command"
	"github.com/kvd-io/kvd/shard/ownership"
)

// The driver makes the raft leader the owner. It runs while the local replica
// leads and compares what is with what should be, again at every change: the
// group is initialized, its ownership is this process's and its tenure lives,
// the tenure serves. So whatever installs another owner, such as a late claim of
// a former leader that was forwarded, is answered by the next claim.

const (
	driveRetryFirst = 5 * time.Millisecond
	driveRetryMost  = 500 * time.Millisecond
	// catchUpPatience bounds one attempt to see the present state of the group.
	catchUpPatience = 2 * time.Second
	// proposePatience bounds the wait for one proposal of the driver. Nothing
	// hangs on it: a late command is rejected or does what it should.
	proposePatience = 500 * time.Millisecond
	// probePatience bounds one question of the wait-out, probeRetry is the pause
	// after one that brought nothing.
	// probeMost bounds the pause in any case: the sequencer may be replaced.
	probePatience = 500 * time.Millisecond
	probeRetry    = 10 * time.Millisecond
	probeMost     = 50 * time.Millisecond
)

// LeaderChanged tells the replica who leads its group. It does not block.
func (r *Replica) LeaderChanged(e multiraft.LeaderEvent) {
	leads := e.Leader == r.cfg.Replica
	r.mu.Lock()
	if r.mu.closed {
		r.mu.Unlock()
		return
	}
	led := r.mu.leading
	r.mu.leading = leads
	switch {
	case leads && !led:
		r.startDrivingLocked()
	case led && !leads:
		r.mu.stopDriving()
		r.mu.held = false
	}
	r.mu.Unlock()
	r.notifyChange()
	t := r.tenure.Load()
	switch {
	case t == nil:
	case !leads:
		t.end()
	case led:
		// Another term: what was proposed in between may have been lost.
		t.pipeline.resend()
	}
}

func (r *Replica) startDrivingLocked() {
	ctx, cancel := context.WithCancel(context.Background())
	r.mu.stopDriving = cancel
	r.drivers.Add(1)
	go func() {
		defer r.drivers.Done()
		defer cancel()
		r.drive(ctx)
	}()
}

// drive runs while the replica leads.
func (r *Replica) drive(ctx context.Context) {
	if !r.catchUp(ctx) {
		return
	}
	delay := driveRetryFirst
	for ctx.Err() == nil {
		changed := r.changes()
		acted, err := r.step(ctx)
		if err != nil {
			r.log.Debug("ownership", zap.Error(err))
			pause(ctx, delay)
			delay = min(2*delay, driveRetryMost)
			continue
		}
		delay = driveRetryFirst
		if acted {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// catchUp waits until this replica has applied what its group has committed, so
// that a claim names the epoch that stands.
func (r *Replica) catchUp(ctx context.Context) bool {
	for delay := driveRetryFirst; ctx.Err() == nil; delay = min(2*delay, driveRetryMost) {
		attempt, cancel := context.WithTimeout(ctx, catchUpPatience)
		err := r.cfg.Raft.ReadIndex(attempt)
		cancel()
		if err == nil {
			return true
		}
		r.log.Debug("waiting to catch up before claiming", zap.Error(err))
		pause(ctx, delay)
	}
	return false
}

// step does the next thing towards serving and tells whether there was one.
func (r *Replica) step(ctx context.Context) (acted bool, err error) {
	v := r.view.Load()
	if !v.initialized {
		return true, r.proposeInit(ctx, v.desc)
	}
	o := v.ownership
	t := r.tenure.Load()
	switch {
	case t != nil && t.epoch == o.Epoch && t.serves():
		return false, nil
	case r.heldBack():
		return false, nil
	case t != nil && t.epoch == o.Epoch && !t.over():
		return true, r.waitOut(ctx, t)
	}
	return true, r.claim(ctx, o)
}

func (r *Replica) proposeInit(ctx context.Context, desc *kvdpb.Descriptor) error {
	if desc == nil {
		desc = r.cfg.Descriptor
	}
	if desc == nil {
		return errors.New("the group is not initialized, and this replica does not know what with")
	}
	return r.propose(ctx, &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Init{
		Init: &kvdpb.ShardInit{Descriptor_: desc}}})
}

// claim makes this process the owner of the next epoch.
func (r *Replica) claim(ctx context.Context, o ownership.State) error {
	return r.propose(ctx, &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Claim{Claim: &kvdpb.Claim{
		PreviousEpoch: o.Epoch,
		Member:        r.cfg.Member,
		Replica:       r.cfg.Replica,
		Incarnation:   r.cfg.Incarnation,
	}}})
}

// waitOut waits until no lease of an earlier owner can hold any more, and logs
// Serving.
func (r *Replica) waitOut(ctx context.Context, t *tenure) error {
	if !r.probeOut(ctx, t, ownership.NewWaitOut(t.mustWait)) {
		return nil
	}
	return r.propose(ctx, &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Serving{
		Serving: &kvdpb.Serving{Epoch: t.epoch}}})
}

// probeOut asks the sequencer until a wait-out is over; false if the tenure or ctx is
// before.
func (r *Replica) probeOut(ctx context.Context, t *tenure, wait *ownership.WaitOut) bool {
	var began ownership.Stamp
	for !wait.Ready() && ctx.Err() == nil && !t.over() {
		attempt, cancel := context.WithTimeout(ctx, probePatience)
		stamp, err := r.cfg.Sequencer.Probe(attempt)
		cancel()
		var notServing *ownership.ErrNotServing
		delay := probeRetry
		switch {
		case errors.As(err, &notServing):
			wait.NotYetServing(notServing.SeqEpoch)
		case err != nil:
		case wait.Answer(stamp):
			continue
		default:
			if began.SeqEpoch != stamp.SeqEpoch {
				began = stamp
			}
			delay = min(probeMost, max(probeRetry, began.Reading+ownership.LeaseDuration-stamp.Reading))
		}
		pause(ctx, delay)
	}
	return wait.Ready() && !t.over()
}

// propose puts a command other than writes into the log and waits until it is
// applied here. A rejection is an error of type *RejectedError.
func (r *Replica) propose(ctx context.Context, c *kvdpb.ShardCommand) error {
	b, err := proto.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode command: %w", err)
	}
	if command.IsBatch(b) {
		return errors.New("command looks like a batch of writes")
	}
	p, err := r.cfg.Raft.Propose(b)
	if err != nil {
		return &notAppendedError{err}
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.waits.propose)
	defer cancel()
	select {
	case s := <-p.Done():
		switch o := p.Outcome(s); o.Kind {
		case multiraft.Applied:
			if rejection := Rejection(o.Result); rejection != Accepted {
				return &RejectedError{Rejection: rejection}
			}
			return nil
		case multiraft.NotAppended:
			return &notAppendedError{o.Err}
		default:
			return fmt.Errorf("proposal of unknown fate: %w", o.Err)
		}
	case <-ctx.Done():
		return fmt.Errorf("proposal of unknown fate: %w", ctx.Err())
	}
}

// RejectedError says that a command was applied and had no effect.
type RejectedError struct{ Rejection Rejection }

func (e *RejectedError) Error() string { return "command was rejected: " + e.Rejection.String() }

// notAppendedError says that a command never reached the log.
type notAppendedError struct{ err error }

func (e *notAppendedError) Error() string { return "not proposed: " + e.err.Error() }
func (e *notAppendedError) Unwrap() error { return e.err }

// holdBack keeps the driver from claiming until leadership changes, or for a
// while.
func (r *Replica) holdBack() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.held = true
	if r.mu.holdEnds != nil {
		r.mu.holdEnds.Stop()
	}
	r.mu.holdEnds = time.AfterFunc(handOverPatience, r.letGo)
}

func (r *Replica) letGo() {
	r.mu.Lock()
	held := r.mu.held && !r.mu.closed
	r.mu.held = false
	r.mu.Unlock()
	if held {
		r.notifyChange()
	}
}

func (r *Replica) heldBack() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.held
}
