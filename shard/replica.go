package shard

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Replica is one member's copy of a shard: the state machine of its raft group
// and, while this process owns the shard, the owner's runtime (tenure). All
// methods but those of multiraft.StateMachine are safe for concurrent use.
type Replica struct {
	cfg Config
	log *zap.Logger

	// Written by the apply goroutine alone.
	fsm machine

	store   atomic.Pointer[mvcc.Store]
	view    atomic.Pointer[view]
	applied atomic.Uint64
	// tenure is the last ownership of this process, which may have ended.
	tenure atomic.Pointer[tenure]

	counters counters
	samples  samples
	// slack is what merges may let leases live longer.
	slack slackBudget

	mu struct {
		sync.Mutex
		closed bool
		// leading is true while the local replica is the raft leader; stopDriving
		// ends the driver that runs then.
		leading     bool
		stopDriving context.CancelFunc
		// changed is closed and replaced when ownership, descriptor or tenure change.
		changed chan struct{}
		// held is true while the driver must not claim, because another replica
		// is about to take over, at most until holdEnds.
		held     bool
		holdEnds *time.Timer
		// waiting lists who waits for an applied index.
		waiting []appliedWaiter
	}
	// waiters tells the apply goroutine that mu.waiting is not empty.
	waiters atomic.Int32
	drivers sync.WaitGroup
}

// counters count what should never happen and what operators like to see.
type counters struct {
	revisionAlarms atomic.Uint64
	rejected       atomic.Uint64
	resent         atomic.Uint64
	claims         atomic.Uint64
	ended          atomic.Uint64
	leaseRenewals  atomic.Uint64
	recovered      atomic.Uint64
	expired        atomic.Uint64
}

// Stats are counts since the replica was made.
type Stats struct {
	// RevisionAlarms counts writes that were rejected because their revision was
	// not above the shard's last one. Anything but zero is a defect.
	RevisionAlarms uint64
	// Rejected counts all rejected commands, Resent the batches that were
	// proposed again, Claims the ownerships of this process, Ended those of them
	// that served and do so no more, LeaseRenewals the ReadIndexes for read leases.
	Rejected, Resent, Claims, Ended, LeaseRenewals uint64
	// RecoveredTxns counts outcomes of transactions over several shards that had to
	// be asked for, ExpiredLatches the latches of coordinators that went silent.
	RecoveredTxns, ExpiredLatches uint64
}

// Stats returns the replica's counts.
func (r *Replica) Stats() Stats {
	return Stats{
		RevisionAlarms: r.counters.revisionAlarms.Load(),
		Rejected:       r.counters.rejected.Load(),
		Resent:         r.counters.resent.Load(),
		Claims:         r.counters.claims.Load(),
		Ended:          r.counters.ended.Load(),
		LeaseRenewals:  r.counters.leaseRenewals.Load(),
		RecoveredTxns:  r.counters.recovered.Load(),
		ExpiredLatches: r.counters.expired.Load(),
	}
}

type appliedWaiter struct {
	index uint64
	done  chan struct{}
}

// New returns a replica. Its store is opened by Open, which the raft group
// calls.
func New(cfg Config) (*Replica, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	r := &Replica{
		cfg: cfg,
		log: cfg.Logger.With(zap.Uint64("shard", cfg.Shard), zap.Uint64("replica", cfg.Replica)),
	}
	r.fsm.r = r
	r.view.Store(&view{})
	r.mu.changed = make(chan struct{})
	return r, nil
}

// Shard returns the shard's id.
func (r *Replica) Shard() uint64 { return r.cfg.Shard }

// ID returns the replica's id.
func (r *Replica) ID() uint64 { return r.cfg.Replica }

// Store returns the replica's store; nil before Open. After Close it answers
// mvcc.ErrClosed.
func (r *Replica) Store() *mvcc.Store { return r.store.Load() }

// Descriptor returns the shard's descriptor as far as this replica applied; nil
// before the group's Init. It must not be changed.
func (r *Replica) Descriptor() *kvdpb.Descriptor { return r.view.Load().desc }

// Pending returns the child of a split that is not done; nil if there is none.
func (r *Replica) Pending() *kvdpb.Descriptor { return r.view.Load().pending }

// Owner returns the member that owns the shard as far as this replica knows, 0
// if none, and the number of the ownership.
func (r *Replica) Owner() (member, epoch uint64) {
	o := r.view.Load().ownership
	if o.Released {
		return 0, o.Epoch
	}
	return o.Member, o.Epoch
}

// Phase names what the replica is doing about ownership, for people.
type Phase string

// Phases of a replica.
const (
	PhaseFollowing Phase = "following"
	PhaseClaiming  Phase = "claiming"
	PhaseWaiting   Phase = "waiting"
	PhaseServing   Phase = "serving"
	PhaseSplitting Phase = "splitting"
	// PhaseMerging: the shard is frozen, its keys go to its left neighbour.
	PhaseMerging Phase = "merging"
	// PhaseUnfed: the replica joined and was fed from a log that does not hold all
	// of the shard's data. It must be replaced.
	PhaseUnfed Phase = "unfed"
)

// Phase returns what the replica is doing about ownership.
func (r *Replica) Phase() Phase {
	t := r.tenure.Load()
	switch {
	case t != nil && t.serves() && t.frozen.Load():
		return PhaseMerging
	case t != nil && t.serves():
		if r.view.Load().pending != nil || t.moving.Load() {
			return PhaseSplitting
		}
		return PhaseServing
	case t != nil && !t.over():
		return PhaseWaiting
	case r.leading():
		return PhaseClaiming
	case r.cfg.Joined && !r.view.Load().initialized && r.applied.Load() > 0:
		return PhaseUnfed
	}
	return PhaseFollowing
}

// Status returns what the replica reports of itself.
func (r *Replica) Status() *kvdpb.ReplicaStatus {
	owner, epoch := r.Owner()
	index, revision := r.Applied()
	s := &kvdpb.ReplicaStatus{
		Shard:        r.cfg.Shard,
		Replica:      r.cfg.Replica,
		OwnerMember:  owner,
		Epoch:        epoch,
		AppliedIndex: index,
		Revision:     revision,
		Phase:        string(r.Phase()),
	}
	if store := r.store.Load(); store != nil {
		sizes := store.Sizes()
		s.SizeBytes, s.Keys = sizes.DiskBytes, sizes.Keys
	}
	return s
}

// Serving tells whether this replica owns the shard and serves it.
func (r *Replica) Serving() bool {
	t := r.tenure.Load()
	return t != nil && t.serves()
}

// Applied returns the raft index and the largest revision that are applied and
// can be read from the store.
func (r *Replica) Applied() (index uint64, revision int64) {
	return r.applied.Load(), r.fsm.published.Load()
}

// Do serves a request. It does not block for long: what may take long runs on
// the workers. Done is called exactly once, possibly before Do returns.
func (r *Replica) Do(req *Request) {
	t := r.tenure.Load()
	if t == nil || !t.serves() {
		req.Done(nil, r.notOwner())
		return
	}
	t.do(req)
}

func (r *Replica) notOwner() error {
	member, epoch := r.Owner()
	return &NotOwnerError{Shard: r.cfg.Shard, Owner: member, Epoch: epoch}
}

func (r *Replica) ambiguous(cause error) error {
	return &AmbiguousError{Shard: r.cfg.Shard, Cause: cause}
}

func (r *Replica) leading() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.leading
}

// changes returns a channel that is closed at the next change of ownership,
// descriptor or tenure.
func (r *Replica) changes() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.changed
}

func (r *Replica) notifyChange() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.mu.changed)
	r.mu.changed = make(chan struct{})
}

// waitApplied waits until the replica has applied a raft index.
func (r *Replica) waitApplied(ctx context.Context, index uint64) error {
	if r.applied.Load() >= index {
		return nil
	}
	done := make(chan struct{})
	r.mu.Lock()
	if r.mu.closed {
		r.mu.Unlock()
		return ErrClosed
	}
	r.mu.waiting = append(r.mu.waiting, appliedWaiter{index: index, done: done})
	r.waiters.Store(int32(len(r.mu.waiting)))
	r.mu.Unlock()
	// It may have been applied before the apply goroutine could see the waiter.
	if r.applied.Load() >= index {
		r.wakeApplied()
	}
	select {
	case <-done:
	case <-ctx.Done():
		r.forgetWaiter(done)
		return ctx.Err()
	}
	if r.applied.Load() < index {
		return ErrClosed
	}
	return nil
}

// wakeApplied wakes those whose index has been applied.
func (r *Replica) wakeApplied() {
	r.mu.Lock()
	defer r.mu.Unlock()
	applied := r.applied.Load()
	rest := r.mu.waiting[:0]
	for _, w := range r.mu.waiting {
		if w.index <= applied || r.mu.closed {
			close(w.done)
		} else {
			rest = append(rest, w)
		}
	}
	clear(r.mu.waiting[len(rest):])
	r.mu.waiting = rest
	r.waiters.Store(int32(len(rest)))
}

func (r *Replica) forgetWaiter(done chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, w := range r.mu.waiting {
		if w.done == done {
			r.mu.waiting = append(r.mu.waiting[:i], r.mu.waiting[i+1:]...)
			r.waiters.Store(int32(len(r.mu.waiting)))
			return
		}
	}
}

// spanError tells why a request's keys cannot be served here.
func (r *Replica) spanError(spans []keyspace.Span) error {
	v := r.view.Load()
	all := true
	for _, s := range spans {
		all = all && (v.span.ContainsSpan(s) || v.moving(s))
	}
	if all {
		return ErrSpanMoving
	}
	return &WrongRangeError{Shard: r.cfg.Shard, Descriptors: []*kvdpb.Descriptor{v.desc}}
}
