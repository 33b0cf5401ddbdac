package history

import (
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// leased is a put that attaches its key.
func leased(key, value string, lease int64) Request {
	return Request{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease}}
}

// end ends a lease as the server does.
func end(lease int64) Request { return Request{Revoke: &pb.LeaseRevokeRequest{ID: lease}} }

// about is a call about a lease that was answered at once.
func (d *double) about(kind LeaseKind, id, ttl int64) *LeaseCall {
	l := &LeaseCall{Kind: kind, ID: id, Call: d.now, Return: d.now + 10, TTL: ttl, Revision: d.state.Revision}
	d.now += 20
	return l
}

// pass lets time pass.
func (d *double) pass(t time.Duration) { d.now += int64(t) }

// TestLeases: good histories of leases pass, and each kind of broken promise, planted in one, is found, and named.
func TestLeases(t *testing.T) {
	for _, c := range []struct {
		name, want string
		act        func(d *double) []*LeaseCall
	}{
		{"expired", "", func(d *double) []*LeaseCall {
			calls := []*LeaseCall{d.about(Grant, 7, 2)}
			d.do(leased("a", "1", 7))
			d.do(leased("b", "2", 7))
			d.do(leased("c", "3", 7))
			d.do(put("c", "4")) // detaches
			d.pass(2 * time.Second)
			d.do(end(7))
			d.do(get("a", "z", 0))
			return calls
		}},
		{"revoked", "", func(d *double) []*LeaseCall {
			calls := []*LeaseCall{d.about(Grant, 7, 2)}
			d.do(leased("a", "1", 7))
			d.do(end(7))
			return append(calls, d.about(Revoke, 7, 0))
		}},
		{"revoked, and the answer was lost", "belongs to no request", func(d *double) []*LeaseCall {
			calls := []*LeaseCall{d.about(Grant, 7, 2)}
			d.do(leased("a", "1", 7))
			d.do(end(7))
			d.do(get("a", "", 0))
			revoke := d.about(Revoke, 7, 0)
			revoke.Outcome = Unknown // asked for only after somebody saw the end
			return append(calls, revoke)
		}},
		{"expired early", "belongs to no request", func(d *double) []*LeaseCall {
			calls := []*LeaseCall{d.about(Grant, 7, 2)}
			d.do(leased("a", "1", 7))
			d.pass(time.Second)
			calls = append(calls, d.about(KeepAlive, 7, 2))
			d.pass(1900 * time.Millisecond)
			d.do(end(7))
			d.do(get("a", "", 0))
			return calls
		}},
		{"a key is left", "belongs to no request", func(d *double) []*LeaseCall {
			calls := []*LeaseCall{d.about(Grant, 7, 2)}
			d.do(leased("a", "1", 7))
			d.do(leased("b", "2", 7))
			d.pass(3 * time.Second)
			lost(d.do(del("a", "")))
			d.operations = d.operations[:2]
			return calls
		}},
		{"in two revisions", "belongs to no request", func(d *double) []*LeaseCall {
			calls := []*LeaseCall{d.about(Grant, 7, 2)}
			d.do(leased("a", "1", 7))
			d.do(leased("b", "2", 7))
			d.pass(3 * time.Second)
			d.do(del("a", ""))
			d.do(end(7))
			d.operations = d.operations[:2]
			return calls
		}},
		{"revoked, and a key is left", "is attached to it", func(d *double) []*LeaseCall {
			calls := []*LeaseCall{d.about(Grant, 7, 2)}
			d.do(leased("a", "1", 7))
			return append(calls, d.about(Revoke, 7, 0))
		}},
		{"attached to a dead lease", "which was dead at", func(d *double) []*LeaseCall {
			calls := []*LeaseCall{d.about(Grant, 7, 2)}
			d.do(leased("a", "1", 7))
			d.pass(3 * time.Second)
			d.do(end(7))
			d.do(leased("b", "2", 7))
			return calls
		}},
		{"kept alive although revoked", "was kept alive", func(d *double) []*LeaseCall {
			calls := []*LeaseCall{d.about(Grant, 7, 2), d.about(Revoke, 7, 0)}
			return append(calls, d.about(KeepAlive, 7, 2))
		}},
	} {
		d := newDouble(t)
		calls := c.act(d)
		report, err := Check(d.operations, calls, d.log())
		switch {
		case c.want == "" && (err != nil || report.Ended != 1):
			t.Errorf("%s: %d leases ended, %v", c.name, report.Ended, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}
