package multiraft

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lni/dragonboat/v4"
)

// proposeTimeout ends proposals that were lost in a change of leader. Nobody should wait for it: the leader event comes much earlier.
const proposeTimeout = 30 * time.Second

// OutcomeKind says what became of a proposal.
type OutcomeKind uint8

const (
	// Applied: the command was applied by the local state machine.
	Applied OutcomeKind = iota + 1
	// NotAppended: the command is in no log and never will be.
	NotAppended
	// Unknown: the command may or may not be applied, now or later.
	Unknown
)

func (k OutcomeKind) String() string {
	switch k {
	case Applied:
		return "applied"
	case NotAppended:
		return "not appended"
	case Unknown:
		return "unknown"
	}
	return fmt.Sprintf("outcome-%d", uint8(k))
}

// Outcome is what became of a proposal. Result and Data are what Apply set; Err is nil when it was applied.
type Outcome struct {
	Kind   OutcomeKind
	Result uint64
	Data   []byte
	Err    error
}

// Signal is what a Proposal's channel delivers, to be turned into an Outcome. It is opaque so that no goroutine must translate it.
type Signal = dragonboat.RequestResult

// Proposal is a proposal under way.
type Proposal struct {
	rs       *dragonboat.RequestState
	counters *counters
}

// Done returns the channel on which exactly one Signal arrives, unless Outcome or Wait already took it.
func (p Proposal) Done() <-chan Signal { return p.rs.AppliedC() }

// Outcome translates the Signal that was received from Done, and ends the use of the Proposal.
func (p Proposal) Outcome(s Signal) Outcome {
	o := outcome(&s)
	p.rs.Release()
	p.counters.settle(o.Kind)
	return o
}

// Wait waits for the outcome. When ctx ends first the outcome is Unknown.
func (p Proposal) Wait(ctx context.Context) Outcome {
	select {
	case s := <-p.Done():
		return p.Outcome(s)
	case <-ctx.Done():
		p.counters.settle(Unknown)
		return Outcome{Kind: Unknown, Err: ctx.Err()}
	}
}

func outcome(s *Signal) Outcome {
	switch {
	case s.Completed():
		r := s.GetResult()
		return Outcome{Kind: Applied, Result: r.Value, Data: r.Data}
	case s.Dropped():
		// The local raft had no leader to give it to, or was handing leadership over.
		return Outcome{Kind: NotAppended, Err: ErrNotReady}
	case s.Terminated():
		return Outcome{Kind: Unknown, Err: ErrStopped}
	case s.Aborted():
		return Outcome{Kind: Unknown, Err: ErrAborted}
	case s.Rejected():
		return Outcome{Kind: Unknown, Err: ErrRejected}
	}
	return Outcome{Kind: Unknown, Err: ErrTimeout}
}

// Propose appends a command to the shard's log if the local replica is its raft leader, and returns at once. The command may be reused. Every
// error, ErrNotLeader above all, means that it was not appended. A replica that loses leadership in that very moment forwards the command to its
// successor, and then its fate may stay unknown for long: commands carry what makes a late one harmless. One goroutine's proposals keep their order.
func (h *Host) Propose(shard uint64, cmd []byte) (Proposal, error) {
	r := h.replica(shard)
	if r == nil {
		return Proposal{}, ErrNotFound
	}
	if !r.leading.Load() {
		return Proposal{}, ErrNotLeader
	}
	if len(cmd) == 0 || len(cmd) > MaxCommand {
		return Proposal{}, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(cmd))
	}
	if err := h.enter(); err != nil {
		return Proposal{}, err
	}
	rs, err := h.nh.Propose(r.session, cmd, proposeTimeout)
	h.leave()
	if err != nil {
		h.counters.failed.Add(1)
		return Proposal{}, translate(err)
	}
	h.counters.proposed.Add(1)
	return Proposal{rs: rs, counters: &h.counters}, nil
}

// defaultTimeout applies to calls whose context has no deadline.
const defaultTimeout = 10 * time.Second

func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, defaultTimeout)
}

// timeout is what Dragonboat gets for a context: it counts whole ticks, refuses none, and may be later than the context, not earlier.
func (h *Host) timeout(ctx context.Context) time.Duration {
	deadline, _ := ctx.Deadline()
	return max(time.Until(deadline), 0) + 3*h.cfg.tick()
}

func ctxError(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrTimeout, ctx.Err())
	}
	return ctx.Err()
}
