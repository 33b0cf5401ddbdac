package shard

import (
	"container/heap"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// lessor runs the client leases whose records the shard holds, for one tenure.
//
// # What is where
//
// The log holds the records (kvdpb.LeaseRecord): what was granted, what was left
// at the last checkpoint, whether the lease is being revoked, and where keys may
// be attached. Memory holds when each ends, on the owner's monotonic clock. A
// tenure loads the records when it begins to serve and lets each lease live for
// what its record says is left, counted from then.
//
// # Rules
//
//  1. Records change by one command at a time (run): decided here, in sequence
//     within the epoch, so decisions need no look at what is in flight. Those of
//     a deposed owner are rejected.
//  2. A keep-alive is answered from memory. If the record, or a checkpoint on its
//     way into it, says that less than everything is left, the whole time is
//     logged first: a successor must not count from less than was promised.
//  3. Whatever is answered from memory is confirmed by a reading inside the read
//     lease that was asked for after the look. A successor begins to serve later
//     than that reading, and counts from then.
//  4. Nothing is revoked early: an owner marks a lease as ended only after such a
//     reading, and the mark is a command of its epoch. A paused clock makes the
//     end late.
//  5. From the mark on the lease never comes back, and nothing new registers.
//     Whoever owns the record sees to it that the rest happens (Leases.Revoke).
//  6. An answer about a lease outside of what the tenure serves is withheld: a
//     split may have given its record away.
type lessor struct {
	t *tenure
	// begun is closed when the tenure serves, loaded when the records are read.
	begun, loaded chan struct{}
	wake          chan struct{}

	mu struct {
		sync.Mutex
		stopped bool
		leases  map[int64]*lease
		agenda  agenda
		queue   []*leaseChange
		// marked counts leases whose end was marked and that are not gone yet.
		marked int
		// idle is not nil while somebody waits for the queue to be empty.
		idle chan struct{}
		busy bool
	}
	// seq is the place of the next command; it belongs to run.
	seq uint64
}

// lease is one lease in memory. All but gone is guarded by lessor.mu.
type lease struct {
	id int64
	// record is as it is in the log. It is never changed, only replaced.
	record *kvdpb.LeaseRecord
	end    time.Time
	// look is when there is something to do about the lease: it ends, or what
	// is left of it is to be logged.
	look  time.Time
	place int
	// checkpointing: a checkpoint is on its way into the record. ending: its end
	// was noticed, and it is not kept alive any more.
	checkpointing, ending bool
	// gone is closed when the lease is.
	gone chan struct{}
}

// leaseChange is a change of a record on its way through run.
type leaseChange struct {
	id int64
	// change makes the new record of the present one, which is nil where there
	// is none and must not be changed. The same record means no change, nil that
	// it is dropped.
	change func(*kvdpb.LeaseRecord) (*kvdpb.LeaseRecord, error)
	// applied is called under the lessor's lock once that is in force, with the
	// lease as it is in memory, nil if there is none.
	applied func(*lease)
	// done is called without locks, last.
	done func(error)
}

const (
	// maxDecisions bounds what waits, maxCommand what one command takes.
	maxDecisions   = 16384
	maxLeaseChange = 512
	// agendaPace is how often leases are looked at that have something to do.
	agendaPace = 100 * time.Millisecond
	// maxEndings bounds the leases that are marked as ended in one look, and
	// maxMarked those that are being revoked at a time. So no more than 1,500 end in
	// a second: none is late by more than a second per thousand, and other writes
	// have room beside them.
	maxEndings = 150
	maxMarked  = 1024
	// maxCheckpoints bounds what is checkpointed in one look, as in etcd 1000.
	maxCheckpoints = 1000
	// A lease that is not kept alive is checkpointed each checkpointPart of its
	// time, within these bounds; one that is, after half of it.
	checkpointPart  = 8
	checkpointLeast = 2 * time.Second
	checkpointMost  = 5 * time.Minute
	// confirmPatience bounds the wait for a reading before leases are ended.
	confirmPatience = 2 * time.Second
)

func newLessor(t *tenure) *lessor {
	s := &lessor{t: t, begun: make(chan struct{}), loaded: make(chan struct{}), wake: make(chan struct{}, 1)}
	s.mu.leases = make(map[int64]*lease)
	return s
}

func (s *lessor) now() time.Time { return s.t.r.cfg.now() }

func (s *lessor) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run is the lessor's goroutine; it ends with the tenure.
func (s *lessor) run() {
	defer s.abandon()
	select {
	case <-s.begun:
	case <-s.t.ctx.Done():
		return
	}
	if err := s.load(); err != nil {
		if !s.t.over() {
			s.t.r.log.Error("leases could not be read", zap.Error(err))
		}
		return
	}
	close(s.loaded)
	tick := time.NewTimer(agendaPace)
	defer tick.Stop()
	for {
		// Without leases nothing is ever due, and the timer of a shard that has none is not started again: most
		// shards never hold one. Only this goroutine adds leases, woken by a decision.
		due := tick.C
		if !s.holdsAny() {
			due = nil
		}
		select {
		case <-s.t.ctx.Done():
			return
		case <-s.wake:
		case <-due:
			s.consult(s.now())
			tick.Reset(agendaPace)
		}
		for s.next() {
			select {
			case <-s.t.ctx.Done():
				return
			case <-tick.C:
				s.consult(s.now())
				tick.Reset(agendaPace)
			default:
			}
		}
	}
}

// holdsAny tells whether there is a lease.
func (s *lessor) holdsAny() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.leases) > 0
}

// load reads the records that the log left.
func (s *lessor) load() error {
	now := s.now()
	var marked []int64
	s.mu.Lock()
	err := scanLeases(s.t.r.store.Load(), *s.t.served.Load(), func(_, b []byte) error {
		record := &kvdpb.LeaseRecord{}
		if err := proto.Unmarshal(b, record); err != nil {
			return fmt.Errorf("decode lease: %w", err)
		}
		l := s.addLocked(record, now.Add(remaining(record)))
		if record.Revoking {
			l.ending = true
			s.mu.marked++
			marked = append(marked, record.Id)
		}
		return nil
	})
	s.mu.Unlock()
	for _, id := range marked {
		s.t.r.cfg.Leases.Revoke(id)
	}
	return err
}

// remaining is what a record leaves to a lease.
func remaining(l *kvdpb.LeaseRecord) time.Duration {
	if l.RemainingMs > 0 {
		return time.Duration(l.RemainingMs) * time.Millisecond
	}
	return ttlOf(l)
}

// ttlOf is what was granted, at most etcd's largest TTL, which a Duration just
// holds.
func ttlOf(l *kvdpb.LeaseRecord) time.Duration {
	const most = 9_000_000_000
	return time.Duration(min(l.Ttl, most)) * time.Second
}

// checkpointAfter is how long after the last one a lease is checkpointed.
func checkpointAfter(ttl time.Duration) time.Duration {
	return min(max(ttl/checkpointPart, checkpointLeast), checkpointMost)
}

func (s *lessor) addLocked(record *kvdpb.LeaseRecord, end time.Time) *lease {
	l := &lease{id: record.Id, record: record, end: end, place: -1, gone: make(chan struct{})}
	s.mu.leases[l.id] = l
	s.planLocked(l, checkpointAfter(ttlOf(record)))
	return l
}

// planLocked puts a lease on the agenda, for its end or for a checkpoint.
func (s *lessor) planLocked(l *lease, checkpoint time.Duration) {
	l.look = l.end
	if at := s.now().Add(checkpoint); at.Before(l.end) {
		l.look = at
	}
	if l.place < 0 {
		heap.Push(&s.mu.agenda, l)
	} else {
		heap.Fix(&s.mu.agenda, l.place)
	}
}

// extendLocked lets a lease live for its whole time from now on. Whoever keeps
// it alive does so about three times within it, so it is not checkpointed soon.
func (s *lessor) extendLocked(l *lease) {
	ttl := ttlOf(l.record)
	l.end = s.now().Add(ttl)
	s.planLocked(l, ttl/2)
}

// consult does what the agenda says.
func (s *lessor) consult(now time.Time) {
	var ended, checkpoints []*lease
	s.mu.Lock()
	for len(s.mu.agenda) > 0 && len(ended) < maxEndings && len(checkpoints) < maxCheckpoints {
		l := s.mu.agenda[0]
		if l.look.After(now) {
			break
		}
		heap.Pop(&s.mu.agenda)
		switch {
		case l.ending || !s.t.served.Load().Contains(keyspace.Lease(l.id)):
			// It is on its way out, or another shard's by now.
		case l.end.After(now):
			l.checkpointing = true
			checkpoints = append(checkpoints, l)
		case s.mu.marked+len(ended) >= maxMarked:
			heap.Push(&s.mu.agenda, l)
			s.mu.Unlock()
			s.checkpoint(checkpoints)
			s.finish(ended)
			return
		default:
			l.ending = true
			ended = append(ended, l)
		}
	}
	s.mu.Unlock()
	s.checkpoint(checkpoints)
	s.finish(ended)
}

// checkpoint logs what is left of leases.
func (s *lessor) checkpoint(leases []*lease) {
	for _, l := range leases {
		s.submit(&leaseChange{
			id: l.id,
			change: func(record *kvdpb.LeaseRecord) (*kvdpb.LeaseRecord, error) {
				if record == nil || record.Revoking {
					return record, nil
				}
				s.mu.Lock()
				left := l.end.Sub(s.now())
				s.mu.Unlock()
				next := cloneRecord(record)
				next.RemainingMs = max(left.Milliseconds(), 1)
				return next, nil
			},
			applied: func(l *lease) {
				if l != nil {
					l.checkpointing = false
					s.planLocked(l, checkpointAfter(ttlOf(l.record)))
				}
			},
			done: func(err error) {
				if err != nil {
					s.mu.Lock()
					// The record may have it or not.
					s.planLocked(l, checkpointAfter(ttlOf(l.record)))
					s.mu.Unlock()
				}
			},
		})
	}
}

// finish marks leases as ended, after a look at the read lease.
func (s *lessor) finish(leases []*lease) {
	if len(leases) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(s.t.ctx, confirmPatience)
	s.t.confirm(ctx, func(_ Grant, err error) {
		cancel()
		for _, l := range leases {
			if err != nil {
				s.resume(l)
				continue
			}
			s.submit(s.marking(l.id, func(err error) {
				if err != nil {
					s.resume(l)
					return
				}
				s.t.r.cfg.Leases.Expired()
			}))
		}
	})
}

// resume looks at an ended lease again later.
func (s *lessor) resume(l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.leases[l.id] == l && !l.record.Revoking {
		l.ending = false
		s.planLocked(l, checkpointMost)
	}
}

// marking is the decision to revoke a lease. Where no key was ever attached
// there is nothing more to do about it.
func (s *lessor) marking(id int64, done func(error)) *leaseChange {
	return &leaseChange{
		id: id,
		change: func(record *kvdpb.LeaseRecord) (*kvdpb.LeaseRecord, error) {
			switch {
			case record == nil || len(record.Spans) == 0:
				return nil, nil
			case record.Revoking:
				return record, nil
			}
			next := cloneRecord(record)
			next.Revoking = true
			return next, nil
		},
		done: func(err error) {
			if err == nil && s.find(id) != nil {
				s.t.r.cfg.Leases.Revoke(id)
			}
			done(err)
		},
	}
}

// find returns a lease, nil if there is none.
func (s *lessor) find(id int64) *lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.leases[id]
}

// submit puts a decision in line. Its done is called in any case.
func (s *lessor) submit(d *leaseChange) {
	s.mu.Lock()
	var err error
	switch {
	case s.mu.stopped:
		err = s.t.r.notOwner()
	case len(s.mu.queue) >= maxDecisions:
		err = rpctypes.ErrGRPCRequestTooManyRequests
	default:
		s.mu.queue = append(s.mu.queue, d)
	}
	s.mu.Unlock()
	if err != nil {
		d.end(err)
		return
	}
	s.kick()
}

func (d *leaseChange) end(err error) {
	if d.done != nil {
		d.done(err)
	}
}

// next takes what is in line through the log and tells whether there was any.
func (s *lessor) next() bool {
	s.mu.Lock()
	n := min(len(s.mu.queue), maxLeaseChange)
	batch := slices.Clone(s.mu.queue[:n])
	clear(s.mu.queue[:n])
	s.mu.queue = s.mu.queue[n:]
	s.mu.busy = n > 0
	if n == 0 && s.mu.idle != nil {
		close(s.mu.idle)
		s.mu.idle = nil
	}
	s.mu.Unlock()
	if n == 0 {
		return false
	}
	changed, errs := s.decide(batch)
	err := s.log(changed)
	s.mu.Lock()
	s.mu.busy = false
	if err == nil {
		for id, record := range changed {
			s.installLocked(id, record)
		}
		for i, d := range batch {
			if errs[i] == nil && d.applied != nil {
				d.applied(s.mu.leases[d.id])
			}
		}
	}
	s.mu.Unlock()
	for i, d := range batch {
		if err != nil {
			errs[i] = err
		}
		d.end(errs[i])
	}
	return true
}

// decide lets each decision see what those before it in the batch made of its
// record. Nobody else changes records.
func (s *lessor) decide(batch []*leaseChange) (changed map[int64]*kvdpb.LeaseRecord, errs []error) {
	changed = make(map[int64]*kvdpb.LeaseRecord)
	errs = make([]error, len(batch))
	for i, d := range batch {
		record, ok := changed[d.id]
		if !ok {
			s.mu.Lock()
			if l := s.mu.leases[d.id]; l != nil {
				record = l.record
			}
			s.mu.Unlock()
		}
		next, err := d.change(record)
		switch {
		case err != nil:
			errs[i] = err
		case next != record:
			changed[d.id] = next
		}
	}
	return changed, errs
}

// installLocked shows a record that is in the log.
func (s *lessor) installLocked(id int64, record *kvdpb.LeaseRecord) {
	l := s.mu.leases[id]
	switch {
	case record == nil && l == nil:
	case record == nil:
		if l.record.Revoking {
			s.mu.marked--
		}
		delete(s.mu.leases, id)
		if l.place >= 0 {
			heap.Remove(&s.mu.agenda, l.place)
		}
		close(l.gone)
	case l == nil:
		s.addLocked(record, s.now().Add(ttlOf(record)))
	default:
		if record.Revoking && !l.record.Revoking {
			l.ending = true
			s.mu.marked++
		}
		l.record = record
	}
}

// abandon ends what is in line with the tenure.
func (s *lessor) abandon() {
	s.mu.Lock()
	s.mu.stopped = true
	queue := s.mu.queue
	s.mu.queue = nil
	if s.mu.idle != nil {
		close(s.mu.idle)
		s.mu.idle = nil
	}
	s.mu.Unlock()
	for _, d := range queue {
		d.end(s.t.r.notOwner())
	}
}

// agenda is a heap of leases by when to look at them.
type agenda []*lease

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].look.Before(a[j].look) }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].place, a[j].place = i, j
}

// Push implements heap.Interface.
func (a *agenda) Push(x any) {
	l := x.(*lease)
	l.place = len(*a)
	*a = append(*a, l)
}

// Pop implements heap.Interface.
func (a *agenda) Pop() any {
	old := *a
	n := len(old) - 1
	l := old[n]
	l.place = -1
	old[n] = nil
	*a = old[:n]
	return l
}
