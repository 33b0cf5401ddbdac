package shard

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/shard/ownership"
)

// leaseKeeper keeps a tenure's read lease (package ownership).
//
// A lease is a fact about the past that stays true: a ReadIndex that began after
// the reading Begin was seen found the epoch standing, so no successor serves
// before the sequencer's clock shows Begin + LeaseDuration. A reading that the
// lease covers proves that nobody else served when the reading was taken. It
// does not matter whether the lease began before or after that reading, nor
// what the owner's own clock did.
//
// The lease is renewed by one ReadIndex that all waiting requests share. While
// there is traffic that happens in the background, before it runs out; an idle
// owner does nothing.
type leaseKeeper struct {
	t       *tenure
	current atomic.Pointer[ownership.Lease]
	// seen is a reading that has been seen, close to the newest one.
	seen atomic.Pointer[ownership.Stamp]

	mu struct {
		sync.Mutex
		renewing bool
		waiting  []leaseWaiter
	}
}

type leaseWaiter struct {
	ctx   context.Context
	stamp ownership.Stamp
	done  func(error)
}

const (
	// seenStep is by how much a reading must be newer to be remembered. A lease
	// begins that much too early at worst.
	seenStep = time.Millisecond
	// renewPatience bounds one ReadIndex.
	renewPatience = 2 * time.Second
	renewRetry    = 5 * time.Millisecond
)

// errOldReading says that a reading came from a sequencer that has been
// replaced, so that no lease will ever cover it.
var errOldReading = errors.New("reading of a former sequencer")

// observe remembers a reading.
func (k *leaseKeeper) observe(s ownership.Stamp) {
	for {
		old := k.seen.Load()
		if old != nil && (s.SeqEpoch < old.SeqEpoch || (s.SeqEpoch == old.SeqEpoch && s.Reading < old.Reading+seenStep)) {
			return
		}
		if k.seen.CompareAndSwap(old, &s) {
			return
		}
	}
}

// covers tells whether the lease covers a reading, and sees to its renewal.
func (k *leaseKeeper) covers(s ownership.Stamp) bool {
	l := k.current.Load()
	if l == nil || !l.Covers(s, k.t.r.view.Load().ownership.Epoch) {
		return false
	}
	if l.Aged(s) {
		k.renew()
	}
	return true
}

// ensure calls done once the lease covers a reading that has been observed.
func (k *leaseKeeper) ensure(ctx context.Context, s ownership.Stamp, done func(error)) {
	if k.covers(s) {
		done(nil)
		return
	}
	k.mu.Lock()
	k.mu.waiting = append(k.mu.waiting, leaseWaiter{ctx: ctx, stamp: s, done: done})
	k.mu.Unlock()
	k.renew()
}

// renew starts a renewal unless one is under way.
func (k *leaseKeeper) renew() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.mu.renewing {
		k.mu.renewing = true
		go k.run()
	}
}

// run renews the lease until nobody waits for it.
func (k *leaseKeeper) run() {
	for {
		err := k.readIndex()
		if err != nil && !k.t.over() {
			k.t.r.log.Debug("read lease could not be renewed", zap.Uint64("epoch", k.t.epoch), zap.Error(err))
		}
		if k.release() {
			return
		}
		if err != nil {
			pause(k.t.ctx, renewRetry)
		}
	}
}

// readIndex makes one attempt.
func (k *leaseKeeper) readIndex() error {
	seen := k.seen.Load()
	if seen == nil {
		return errors.New("no reading has been seen")
	}
	ctx, cancel := context.WithTimeout(k.t.ctx, renewPatience)
	defer cancel()
	k.t.r.counters.leaseRenewals.Add(1)
	if err := k.t.r.cfg.Raft.ReadIndex(ctx); err != nil {
		return err
	}
	if epoch := k.t.r.view.Load().ownership.Epoch; epoch != k.t.epoch || k.t.over() {
		return k.t.r.notOwner()
	}
	l := ownership.Lease{Epoch: k.t.epoch, SeqEpoch: seen.SeqEpoch, Begin: seen.Reading}
	// Only one renewal runs at a time.
	if old := k.current.Load(); old == nil || l.Newer(*old) {
		k.current.Store(&l)
	}
	return nil
}

// release lets those go on who have what they wait for, or will never get it,
// and tells whether that is all of them; then the renewal has ended.
func (k *leaseKeeper) release() (all bool) {
	type verdict struct {
		done func(error)
		err  error
	}
	var verdicts []verdict
	over := k.t.over()
	l := k.current.Load()
	seen := k.seen.Load()
	k.mu.Lock()
	rest := k.mu.waiting[:0]
	for _, w := range k.mu.waiting {
		switch err := w.ctx.Err(); {
		case over:
			verdicts = append(verdicts, verdict{w.done, k.t.r.notOwner()})
		case l != nil && l.Covers(w.stamp, k.t.epoch):
			verdicts = append(verdicts, verdict{w.done, nil})
		case err != nil:
			verdicts = append(verdicts, verdict{w.done, err})
		case seen != nil && seen.SeqEpoch > w.stamp.SeqEpoch:
			verdicts = append(verdicts, verdict{w.done, errOldReading})
		default:
			rest = append(rest, w)
		}
	}
	clear(k.mu.waiting[len(rest):])
	k.mu.waiting = rest
	all = len(rest) == 0
	k.mu.renewing = !all
	k.mu.Unlock()
	for _, v := range verdicts {
		v.done(v.err)
	}
	return all
}

// confirm calls done with a current revision R, asked for after this call began,
// whose reading the lease covers: when R was given, nobody else served the shard.
// Then every revision up to R that changed the shard is this epoch's, or was
// applied before the epoch began.
func (t *tenure) confirm(ctx context.Context, done func(Grant, error)) {
	t.readings.get(ctx, func(g Grant, err error) {
		if err != nil {
			done(Grant{}, err)
			return
		}
		t.lease.ensure(ctx, g.Stamp, func(err error) {
			if errors.Is(err, errOldReading) {
				t.confirm(ctx, done)
				return
			}
			done(g, err)
		})
	})
}
