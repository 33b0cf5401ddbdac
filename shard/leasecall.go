package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/latch"
)

const (
	// maxLeasePage bounds the leases of one page, maxKeyPage and maxKeyPageBytes
	// the keys.
	maxLeasePage    = 4096
	maxKeyPage      = 8192
	maxKeyPageBytes = 1 << 20
	// maxLeaseSpans bounds the registrations of one lease.
	maxLeaseSpans = 1 << 14
)

// Lease carries out one step about a client lease, on the owner. The errors are
// those of a Request; every step may be repeated, whatever it ended in.
func (r *Replica) Lease(ctx context.Context, call *kvdpb.LeaseCall) (*kvdpb.LeaseAnswer, error) {
	t := r.tenure.Load()
	if t == nil || !t.serves() {
		return nil, r.notOwner()
	}
	switch step := call.GetStep().(type) {
	case *kvdpb.LeaseCall_Attached:
		return t.attached(ctx, step.Attached)
	case *kvdpb.LeaseCall_List:
		return t.lessor.list(ctx, step.List.GetAfter())
	case *kvdpb.LeaseCall_Grant:
		return t.lessor.changing(ctx, step.Grant.GetId(), func() (*kvdpb.LeaseAnswer, error) { return t.lessor.grant(ctx, step.Grant) })
	case *kvdpb.LeaseCall_KeepAlive:
		answer, err := t.lessor.at(ctx, step.KeepAlive, func() (*kvdpb.LeaseAnswer, error) { return t.lessor.keepAlive(ctx, step.KeepAlive) })
		if err == nil {
			err = t.lessor.alive(ctx, step.KeepAlive)
		}
		return answer, err
	case *kvdpb.LeaseCall_Describe:
		return t.lessor.at(ctx, step.Describe, func() (*kvdpb.LeaseAnswer, error) { return t.lessor.describe(ctx, step.Describe) })
	case *kvdpb.LeaseCall_Inspect:
		return t.lessor.at(ctx, step.Inspect, func() (*kvdpb.LeaseAnswer, error) { return t.lessor.inspect(step.Inspect) })
	case *kvdpb.LeaseCall_Register:
		return t.lessor.at(ctx, step.Register.GetId(), func() (*kvdpb.LeaseAnswer, error) { return t.lessor.register(ctx, step.Register) })
	case *kvdpb.LeaseCall_Revoke:
		return t.lessor.changing(ctx, step.Revoke, func() (*kvdpb.LeaseAnswer, error) { return t.lessor.revoke(ctx, step.Revoke) })
	case *kvdpb.LeaseCall_Drop:
		return t.lessor.at(ctx, step.Drop, func() (*kvdpb.LeaseAnswer, error) { return t.lessor.drop(ctx, step.Drop) })
	}
	return nil, status.Error(codes.InvalidArgument, "kvd: step about leases that this version does not know")
}

// ready waits until the records are loaded.
func (s *lessor) ready(ctx context.Context) error {
	select {
	case <-s.loaded:
		return nil
	case <-s.t.ctx.Done():
		return s.t.r.notOwner()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// at carries out a step about one lease and confirms it.
func (s *lessor) at(ctx context.Context, id int64, step func() (*kvdpb.LeaseAnswer, error)) (*kvdpb.LeaseAnswer, error) {
	if id == 0 {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	spans := []keyspace.Span{keyspace.Key(keyspace.Lease(id))}
	if err := s.t.serveable(spans); err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	answer, failure := step()
	if failure != nil && status.Code(failure) == codes.Unknown {
		return nil, failure
	}
	// That there is no such lease has to be confirmed like anything else.
	if answer == nil {
		answer = &kvdpb.LeaseAnswer{}
	}
	if err := s.confirm(ctx, spans, answer); err != nil {
		return nil, err
	}
	return answer, failure
}

// changing is at for a step whose effect shows when it is taken again: if it was taken and cannot be confirmed, the caller is told that it may
// have been.
func (s *lessor) changing(ctx context.Context, id int64, step func() (*kvdpb.LeaseAnswer, error)) (*kvdpb.LeaseAnswer, error) {
	done := false
	answer, err := s.at(ctx, id, func() (*kvdpb.LeaseAnswer, error) {
		answer, failure := step()
		done = failure == nil
		return answer, failure
	})
	var ambiguous *AmbiguousError
	if err != nil && done && !errors.As(err, &ambiguous) {
		err = s.t.r.ambiguous(err)
	}
	return answer, err
}

// confirm makes sure that nobody else served the shard when the answer was made.
func (s *lessor) confirm(ctx context.Context, spans []keyspace.Span, answer *kvdpb.LeaseAnswer) error {
	type confirmation struct {
		grant Grant
		err   error
	}
	got := make(chan confirmation, 1)
	s.t.confirm(ctx, func(g Grant, err error) { got <- confirmation{g, err} })
	c := <-got
	if c.err != nil {
		return c.err
	}
	answer.Revision = c.grant.First
	return s.t.serveable(spans)
}

// decideNow submits a decision and waits for it.
func (s *lessor) decideNow(ctx context.Context, d *leaseChange) error {
	done := make(chan error, 1)
	d.done = func(err error) { done <- err }
	s.submit(d)
	return s.await(ctx, done)
}

// await waits for the end of a decision, which the tenure's end brings at the
// latest.
func (s *lessor) await(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return s.t.r.ambiguous(ctx.Err())
	}
}

func (s *lessor) grant(ctx context.Context, g *kvdpb.LeaseGrant) (*kvdpb.LeaseAnswer, error) {
	err := s.decideNow(ctx, &leaseChange{
		id: g.Id,
		change: func(record *kvdpb.LeaseRecord) (*kvdpb.LeaseRecord, error) {
			switch {
			case record == nil:
				return &kvdpb.LeaseRecord{Id: g.Id, Ttl: g.Ttl, Nonce: g.Nonce}, nil
			case record.Nonce == g.Nonce && record.Ttl == g.Ttl && !record.Revoking:
				return record, nil
			}
			return nil, rpctypes.ErrGRPCLeaseExist
		},
	})
	return nil, err
}

func (s *lessor) keepAlive(ctx context.Context, id int64) (*kvdpb.LeaseAnswer, error) {
	s.mu.Lock()
	l := s.mu.leases[id]
	var answer *kvdpb.LeaseAnswer
	over := false
	if l != nil {
		over = l.ending || l.record.Revoking || !s.now().Before(l.end)
		if !over && !l.checkpointing && l.record.RemainingMs == 0 {
			s.extendLocked(l)
			answer = s.infoLocked(l)
		}
	}
	s.mu.Unlock()
	switch {
	case l == nil:
		return nil, rpctypes.ErrGRPCLeaseNotFound
	case over:
		// As in etcd, what has ended is not kept alive, and that is told once its
		// keys are gone.
		return nil, s.awaitGone(ctx, l)
	case answer != nil:
		return answer, nil
	}
	err := s.decideNow(ctx, &leaseChange{
		id: id,
		change: func(record *kvdpb.LeaseRecord) (*kvdpb.LeaseRecord, error) {
			switch {
			case record == nil || record.Revoking:
				return nil, rpctypes.ErrGRPCLeaseNotFound
			case record.RemainingMs == 0:
				return record, nil
			}
			next := cloneRecord(record)
			next.RemainingMs = 0
			return next, nil
		},
		applied: func(l *lease) {
			if l != nil && !l.ending {
				s.extendLocked(l)
				answer = s.infoLocked(l)
			}
		},
	})
	if err == nil && answer == nil {
		// Its end came first.
		return nil, s.awaitGone(ctx, l)
	}
	return answer, err
}

// alive makes sure that a lease which was kept alive was not marked before the
// revision that its owner is told: that would come after the keys' deletion.
func (s *lessor) alive(ctx context.Context, id int64) error {
	s.mu.Lock()
	l := s.mu.leases[id]
	marked := l == nil || l.record.Revoking
	s.mu.Unlock()
	switch {
	case l == nil:
		return rpctypes.ErrGRPCLeaseNotFound
	case marked:
		return s.awaitGone(ctx, l)
	}
	return nil
}

// awaitGone waits until a lease is gone.
func (s *lessor) awaitGone(ctx context.Context, l *lease) error {
	select {
	case <-l.gone:
		return rpctypes.ErrGRPCLeaseNotFound
	case <-s.t.ctx.Done():
		return s.t.r.ambiguous(s.t.r.notOwner())
	case <-ctx.Done():
		return s.t.r.ambiguous(ctx.Err())
	}
}

func (s *lessor) infoLocked(l *lease) *kvdpb.LeaseAnswer {
	return &kvdpb.LeaseAnswer{Leases: []*kvdpb.LeaseInfo{{Record: l.record, RemainingMs: l.end.Sub(s.now()).Milliseconds()}}}
}

func (s *lessor) describe(ctx context.Context, id int64) (*kvdpb.LeaseAnswer, error) {
	s.mu.Lock()
	l := s.mu.leases[id]
	var answer *kvdpb.LeaseAnswer
	if l != nil && !l.record.Revoking {
		answer = s.infoLocked(l)
	}
	s.mu.Unlock()
	switch {
	case l == nil:
		return nil, rpctypes.ErrGRPCLeaseNotFound
	case answer == nil:
		return nil, s.awaitGone(ctx, l)
	}
	return answer, nil
}

func (s *lessor) inspect(id int64) (*kvdpb.LeaseAnswer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.mu.leases[id]
	if l == nil {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	return s.infoLocked(l), nil
}

// register looks at the mark and waits for nothing but the log.
func (s *lessor) register(ctx context.Context, c *kvdpb.LeaseRegister) (*kvdpb.LeaseAnswer, error) {
	span := keyspace.Span{Start: c.GetSpan().GetStart(), End: c.GetSpan().GetEnd()}
	if span.Empty() || !keyspace.Users().ContainsSpan(span) {
		return nil, status.Error(codes.InvalidArgument, "kvd: registration of no span of user keys")
	}
	l := s.find(c.Id)
	switch {
	case l == nil:
		return nil, rpctypes.ErrGRPCLeaseNotFound
	case s.registered(l, span):
		return nil, nil
	}
	return nil, s.decideNow(ctx, &leaseChange{
		id: c.Id,
		change: func(record *kvdpb.LeaseRecord) (*kvdpb.LeaseRecord, error) {
			switch {
			case record == nil || record.Revoking:
				return nil, rpctypes.ErrGRPCLeaseNotFound
			case covered(record.Spans, span):
				return record, nil
			case len(record.Spans) >= maxLeaseSpans:
				return nil, rpctypes.ErrGRPCRequestTooManyRequests
			}
			next := cloneRecord(record)
			next.Spans = slices.DeleteFunc(next.Spans, func(o *kvdpb.LeaseSpan) bool {
				return span.ContainsSpan(keyspace.Span{Start: o.Start, End: o.End})
			})
			next.Spans = append(next.Spans, &kvdpb.LeaseSpan{Start: span.Start, End: span.End})
			return next, nil
		},
	})
}

// registered tells whether a span is registered already and the lease is not
// being revoked.
func (s *lessor) registered(l *lease, span keyspace.Span) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !l.record.Revoking && covered(l.record.Spans, span)
}

// covered tells whether one of spans contains span.
func covered(spans []*kvdpb.LeaseSpan, span keyspace.Span) bool {
	return slices.ContainsFunc(spans, func(o *kvdpb.LeaseSpan) bool {
		return keyspace.Span{Start: o.Start, End: o.End}.ContainsSpan(span)
	})
}

func (s *lessor) revoke(ctx context.Context, id int64) (*kvdpb.LeaseAnswer, error) {
	l := s.find(id)
	if l == nil {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	done := make(chan error, 1)
	s.submit(s.marking(id, func(err error) { done <- err }))
	if err := s.await(ctx, done); err != nil {
		return nil, err
	}
	select {
	case <-l.gone:
		return nil, nil
	default:
	}
	if err := s.awaitGone(ctx, l); status.Code(err) == codes.Unknown {
		return nil, err
	}
	return nil, nil
}

func (s *lessor) drop(ctx context.Context, id int64) (*kvdpb.LeaseAnswer, error) {
	return nil, s.decideNow(ctx, &leaseChange{
		id: id,
		change: func(record *kvdpb.LeaseRecord) (*kvdpb.LeaseRecord, error) {
			if record != nil && !record.Revoking {
				return nil, status.Error(codes.FailedPrecondition, "kvd: the lease is not being revoked")
			}
			return nil, nil
		},
	})
}

// list answers a page of the leases whose records the shard holds.
func (s *lessor) list(ctx context.Context, after []byte) (*kvdpb.LeaseAnswer, error) {
	span := s.t.served.Load().Intersect(keyspace.Leases())
	if span.Empty() {
		return nil, s.t.r.spanError([]keyspace.Span{keyspace.Leases()})
	}
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	answer := &kvdpb.LeaseAnswer{End: span.End}
	type found struct {
		key []byte
		l   *lease
	}
	var all []found
	s.mu.Lock()
	for id, l := range s.mu.leases {
		if key := keyspace.Lease(id); !l.record.Revoking && span.Contains(key) && bytes.Compare(key, after) > 0 {
			all = append(all, found{key, l})
		}
	}
	slices.SortFunc(all, func(a, b found) int { return bytes.Compare(a.key, b.key) })
	answer.More = len(all) > maxLeasePage
	for _, f := range all[:min(len(all), maxLeasePage)] {
		answer.Leases = append(answer.Leases, &kvdpb.LeaseInfo{
			Record: &kvdpb.LeaseRecord{Id: f.l.id, Ttl: f.l.record.Ttl}, RemainingMs: f.l.end.Sub(s.now()).Milliseconds(),
		})
	}
	s.mu.Unlock()
	return answer, s.confirm(ctx, []keyspace.Span{span}, answer)
}

// attached lists keys that are attached to a lease, after the fence if that was
// asked for; see attachments.
func (t *tenure) attached(ctx context.Context, c *kvdpb.LeaseAttached) (*kvdpb.LeaseAnswer, error) {
	span := keyspace.Span{Start: c.GetSpan().GetStart(), End: c.GetSpan().GetEnd()}
	if span.Empty() || !keyspace.Users().ContainsSpan(span) {
		return nil, status.Error(codes.InvalidArgument, "kvd: question about no span of user keys")
	}
	// What lies in other shards they are asked for.
	if served := *t.served.Load(); served.Contains(span.Start) {
		span = span.Intersect(served)
	}
	spans := []keyspace.Span{span}
	if err := t.serveable(spans); err != nil {
		return nil, err
	}
	answer := &kvdpb.LeaseAnswer{End: span.End}
	wait := func() error { return t.settled(ctx, spans, answer) }
	if c.Fence {
		wait = func() error { return t.fence(ctx, c.Id) }
	}
	if err := wait(); err != nil {
		return nil, err
	}
	sn := t.r.store.Load().NewSnapshot()
	size := 0
	err := sn.Leased(c.Id, span, func(key []byte) bool {
		if len(answer.Keys) >= maxKeyPage || size >= maxKeyPageBytes {
			answer.More = true
			return false
		}
		answer.Keys = append(answer.Keys, bytes.Clone(key))
		size += len(key)
		return true
	})
	sn.Close()
	if err != nil {
		return nil, fmt.Errorf("keys of lease %x: %w", c.Id, t.r.readError(err))
	}
	return answer, t.lessor.confirm(ctx, spans, answer)
}

// settled waits, as a linearizable read does (see read), until all writes up to the
// present revision have applied: a transaction over several shards is answered
// before that.
func (t *tenure) settled(ctx context.Context, spans []keyspace.Span, answer *kvdpb.LeaseAnswer) error {
	if err := t.lessor.confirm(ctx, spans, answer); err != nil {
		return err
	}
	guard, granted := &latch.Guard{}, make(waitChan, 1)
	switch t.latches.WaitWriters(guard, spans, granted) {
	case latch.Closed:
		return t.r.notOwner()
	case latch.Granted:
		return nil
	}
	select {
	case ok := <-granted:
		if !ok {
			return t.r.notOwner()
		}
		return nil
	case <-ctx.Done():
		t.latches.Cancel(guard)
		return ctx.Err()
	}
}

// fence waits until no put that may attach a key to the lease is under way, and
// forgets that the lease was registered.
func (t *tenure) fence(ctx context.Context, id int64) error {
	guard, err := t.latchSpan(ctx, keyspace.LeaseLatch(id))
	if err != nil {
		return err
	}
	t.attachments.forget(id)
	t.latches.Release(guard)
	return nil
}

var _ latch.Waiter = waitChan(nil)
