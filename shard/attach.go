package shard

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/latch"
)

// Leases is what a shard needs of the rest of the cluster for client leases.
type Leases interface {
	// Register notes at a lease's record, wherever that is, that keys of span may
	// be attached to it from now on. rpctypes.ErrGRPCLeaseNotFound: there is no
	// such lease, or it is being revoked.
	Register(ctx context.Context, lease int64, span keyspace.Span) error
	// Revoke is told of a lease that this member's owner of its record has
	// marked: its keys are to be deleted, then its record (LeaseCall, drop). It
	// must not block, and may be told twice.
	Revoke(lease int64)
	// Expired is told of each lease that this member's owner of its record ended
	// because its time was over.
	Expired()
}

// attachments knows the leases that a tenure may attach keys to.
//
// # The protocol
//
//  1. Before the first put that attaches a key to lease L, the span is registered
//     at L's record. That fails once L is marked as being revoked.
//  2. The put takes a shared latch on (shard, L) at once with those of its keys,
//     and holds it until it applied. Evaluated under it, it attaches only if the
//     registration is still here.
//  3. Revoking marks the record first. Then, in every registered span, the fence
//     takes (shard, L) exclusively, so that puts under way end, and forgets the
//     registration. From there on no put of this shard attaches to L: it would
//     have to register again. So what the fence finds attached, and nothing
//     else, is left to be deleted.
//
// All latches of a put are taken at once and the fence takes no other one, so
// neither ever waits for the other in a circle. The fence's answer is confirmed by
// the read lease: nobody else served the shard then, and a later owner begins
// with no registrations.
//
// A registration that was under way when the fence passed is void, because its
// entry is gone. One is good for the span that it was made for, however far the
// shard reaches later.
type attachments struct {
	t  *tenure
	mu struct {
		sync.Mutex
		known map[int64]*attachment
	}
}

// attachment is a registration of a lease.
type attachment struct {
	span  keyspace.Span
	ready bool
	// waiting are called once it is ready, or has failed.
	waiting []func(error)
}

const (
	// maxAttachments bounds the registrations that a tenure remembers.
	maxAttachments = 1 << 16
	// maxAttaching is how often a put begins again because what it had registered
	// was forgotten before it held its latches.
	maxAttaching = 3
	// registerPatience bounds a registration.
	registerPatience = 5 * time.Second
)

// leasesOf lists the leases that a transaction may attach keys to.
func leasesOf(ids []int64, txn *pb.TxnRequest) []int64 {
	for _, ops := range [][]*pb.RequestOp{txn.GetSuccess(), txn.GetFailure()} {
		for _, op := range ops {
			if id := op.GetRequestPut().GetLease(); id != 0 && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
			if nested := op.GetRequestTxn(); nested != nil {
				ids = leasesOf(ids, nested)
			}
		}
	}
	return ids
}

// leaseLatches adds the shared latches of leases.
func leaseLatches(latches []latch.Latch, leases []int64) []latch.Latch {
	for _, id := range leases {
		latches = append(latches, latch.Latch{Span: keyspace.LeaseLatch(id)})
	}
	return latches
}

// attachable tells whether key may be attached to a lease: it is asked under the
// lease's latch.
func (a *attachments) attachable(lease int64, key []byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.mu.known[lease]
	return e != nil && e.ready && e.span.Contains(key)
}

// ensure registers leases for spans of the shard and calls done. refused: some
// lease does not exist, which may not matter. It does not block.
func (a *attachments) ensure(leases []int64, spans []keyspace.Span, done func(refused bool, err error)) {
	a.step(leases, spans, false, done)
}

func (a *attachments) step(leases []int64, spans []keyspace.Span, refused bool, done func(bool, error)) {
	for i, id := range leases {
		rest := leases[i+1:]
		if a.ready(id, spans, func(err error) {
			switch {
			case errors.Is(err, rpctypes.ErrGRPCLeaseNotFound):
				a.step(rest, spans, true, done)
			case err != nil:
				done(refused, err)
			default:
				a.step(rest, spans, refused, done)
			}
		}) {
			continue
		}
		return
	}
	done(refused, nil)
}

// ready tells whether a lease is registered for spans; if not, it sees to it and
// then calls later.
func (a *attachments) ready(id int64, spans []keyspace.Span, later func(error)) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.mu.known[id]
	if e != nil && e.ready {
		if !slices.ContainsFunc(spans, func(s keyspace.Span) bool { return !e.span.ContainsSpan(s) }) {
			return true
		}
		e = nil
	}
	if e == nil {
		e = &attachment{span: a.t.served.Load().Intersect(keyspace.Users()).Clone()}
		a.addLocked(id, e)
		go a.register(id, e)
	}
	e.waiting = append(e.waiting, later)
	return false
}

func (a *attachments) addLocked(id int64, e *attachment) {
	if a.mu.known == nil {
		a.mu.known = make(map[int64]*attachment)
	}
	if len(a.mu.known) >= maxAttachments {
		for other, o := range a.mu.known {
			if o.ready {
				delete(a.mu.known, other)
				break
			}
		}
	}
	a.mu.known[id] = e
}

func (a *attachments) register(id int64, e *attachment) {
	ctx, cancel := context.WithTimeout(a.t.ctx, registerPatience)
	defer cancel()
	err := a.t.r.cfg.Leases.Register(ctx, id, e.span)
	if err != nil && a.t.over() {
		err = a.t.r.notOwner()
	}
	a.mu.Lock()
	waiting := e.waiting
	e.waiting = nil
	switch {
	case a.mu.known[id] != e:
		// The fence passed. Evaluation finds that out.
	case err != nil:
		delete(a.mu.known, id)
	default:
		e.ready = true
	}
	a.mu.Unlock()
	for _, later := range waiting {
		later(err)
	}
}

// forget drops the registration of a lease. The caller holds the lease's
// exclusive latch.
func (a *attachments) forget(id int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.mu.known, id)
}

// attach registers the leases of a write, then has it acquire its latches.
func (w *write) attach(heavy bool) {
	w.t.attachments.ensure(w.leases, w.spans, func(refused bool, err error) {
		if err != nil {
			w.end(w.r.readError(err))
			return
		}
		w.refused = refused
		w.acquire(heavy)
	})
}

// reattach begins a write again that found no registration under its latches, and
// tells whether it did.
func (w *write) reattach(err error) bool {
	if len(w.leases) == 0 || w.refused || w.attached >= maxAttaching || !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		return false
	}
	w.attached++
	w.t.latches.Release(&w.guard)
	w.guard = latch.Guard{}
	w.unwatchClient()
	w.attach(true)
	return true
}

// attachable adds to the reply to a latch request the leases that keys of the part
// can be attached to. Where a registration was forgotten meanwhile the
// coordinator has to begin anew.
func (p *part) attachable(reply *kvdpb.PartReply) error {
	for _, id := range p.w.leases {
		if p.w.t.attachments.covers(id, p.w.spans) {
			reply.Leases = append(reply.Leases, id)
		} else if !p.w.refused {
			return ErrLatchLost
		}
	}
	return nil
}

// covers tells whether keys of all the spans may be attached to a lease.
func (a *attachments) covers(lease int64, spans []keyspace.Span) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.mu.known[lease]
	return e != nil && e.ready && !slices.ContainsFunc(spans, func(s keyspace.Span) bool { return !e.span.ContainsSpan(s) })
}

// Attachable implements eval.Attacher.
func (r *latchedReader) Attachable(lease int64, key []byte) bool {
	return r.t.attachments.attachable(lease, key)
}
