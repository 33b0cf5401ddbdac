package history

import (
	"context"
	"fmt"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// LeaseKind is what a client asked of a lease.
type LeaseKind string

const (
	Grant     LeaseKind = "grant"
	KeepAlive LeaseKind = "keep-alive"
	Revoke    LeaseKind = "revoke"
)

// LeaseCall is one request about a lease, with what became of it. A lease is granted once, under a number that no other has.
type LeaseCall struct {
	Client int
	Member string
	Kind   LeaseKind
	ID     int64
	// Call and Return are as in Operation.
	Call, Return int64
	Outcome      Outcome
	// TTL is what a grant or a keep-alive was answered, in seconds; Revision is of the answer's header.
	TTL, Revision int64
	Error         string `json:",omitempty"`
}

func (l *LeaseCall) String() string {
	where := fmt.Sprintf("client %d on %s, %.3f ms", l.Client, l.Member, float64(l.Call)/1e6)
	if l.Outcome == Answered {
		return fmt.Sprintf("[%s to %.3f ms] %s of lease %d -> %d s, revision %d", where, float64(l.Return)/1e6, l.Kind, l.ID, l.TTL, l.Revision)
	}
	return fmt.Sprintf("[%s] %s of lease %d -> %s", where, l.Kind, l.ID, l.Error)
}

// Leases is what was recorded of leases so far.
func (r *Recorder) Leases() []*LeaseCall {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*LeaseCall(nil), r.mu.leases...)
}

// Grant asks for a lease.
func (r *Recorder) Grant(ctx context.Context, cli pb.LeaseClient, client int, member string, id, ttl int64) error {
	return r.lease(&LeaseCall{Client: client, Member: member, Kind: Grant, ID: id}, func(l *LeaseCall) error {
		resp, err := cli.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: ttl})
		l.TTL, l.Revision = resp.GetTTL(), resp.GetHeader().GetRevision()
		return err
	})
}

// KeepAlive renews a lease once.
func (r *Recorder) KeepAlive(ctx context.Context, cli clientv3.Lease, client int, member string, id int64) error {
	return r.lease(&LeaseCall{Client: client, Member: member, Kind: KeepAlive, ID: id}, func(l *LeaseCall) error {
		resp, err := cli.KeepAliveOnce(ctx, clientv3.LeaseID(id))
		if err == nil {
			l.TTL, l.Revision = resp.TTL, resp.Revision
		}
		return err
	})
}

// Revoke ends a lease and deletes its keys.
func (r *Recorder) Revoke(ctx context.Context, cli pb.LeaseClient, client int, member string, id int64) error {
	return r.lease(&LeaseCall{Client: client, Member: member, Kind: Revoke, ID: id}, func(l *LeaseCall) error {
		resp, err := cli.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id})
		l.Revision = resp.GetHeader().GetRevision()
		return err
	})
}

func (r *Recorder) lease(l *LeaseCall, do func(*LeaseCall) error) error {
	l.Call = r.Now()
	err := do(l)
	l.Return = r.Now()
	if err != nil {
		l.Outcome, l.Error = Unknown, err.Error()
		if refused(err) {
			l.Outcome = Refused
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.leases = append(r.mu.leases, l)
	return err
}

// life is what the calls say of one lease.
type life struct {
	// lives is the last time at which it lived for certain: a time to live after a grant or a keep-alive was asked for, and answered.
	lives int64
	by    *LeaseCall
	// revoked is when the first revocation was asked for that may have had an effect; ended the first one that was answered.
	revoked int64
	ended   *LeaseCall
	calls   []*LeaseCall
}

// ends are the operations that end the leases: each deletes the keys of one, at some time after it may have expired or was revoked.
func (c *checker) ends() (ends []*Operation) {
	c.lives = map[int64]*life{}
	for _, l := range c.leases {
		of := c.lives[l.ID]
		if of == nil {
			of = &life{revoked: math.MaxInt64}
			c.lives[l.ID] = of
		}
		of.calls = append(of.calls, l)
		until := l.Call + l.TTL*int64(time.Second)
		switch {
		case l.Kind != Revoke && l.Outcome == Answered && l.TTL > 0 && until > of.lives:
			of.lives, of.by = until, l
		case l.Kind == Revoke && l.Outcome != Refused:
			of.revoked = min(of.revoked, l.Call)
			if l.Outcome == Answered && (of.ended == nil || l.Return < of.ended.Return) {
				of.ended = l
			}
		}
	}
	for id, of := range c.lives {
		ends = append(ends, &Operation{Client: -1, Member: "any", Request: Request{Revoke: &pb.LeaseRevokeRequest{ID: id}},
			Call: min(of.lives, of.revoked), Outcome: Unknown, Error: "the end of the lease"})
	}
	return ends
}

// judgeLeases demands that what has ended stays so: no key is attached to the lease any more, and no keep-alive is answered. That no lease ends
// early is part of the order in real time; see ends.
func (c *checker) judgeLeases() {
	dead := map[int64]int64{} // by lease, the revision from which on it was dead
	for rev, op := range c.owner {
		if r := op.Request.Revoke; r != nil {
			dead[r.ID] = rev
		}
	}
	for id, of := range c.lives {
		if of.ended == nil {
			continue
		}
		if left := c.log.At(of.ended.Revision).attached(id); len(left) > 0 {
			c.violate("a lease was revoked, and %q is attached to it: %s", left[0].Key, of.ended)
		}
		if at, ok := dead[id]; !ok || of.ended.Revision < at {
			dead[id] = of.ended.Revision
		}
		for _, l := range of.calls {
			if l.Kind == KeepAlive && l.Outcome == Answered && l.TTL > 0 && l.Call > of.ended.Return {
				c.violate("a revoked lease was kept alive:\n  %s\n  %s", of.ended, l)
			}
		}
	}
	for _, rev := range c.log.Revisions {
		for _, e := range c.log.Events(rev) {
			if at, ok := dead[e.Kv.Lease]; ok && e.Type == mvccpb.Event_PUT && rev > at {
				c.violate("revision %d attaches %q to lease %d, which was dead at revision %d", rev, e.Kv.Key, e.Kv.Lease, at)
			}
		}
	}
}
