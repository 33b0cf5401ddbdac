package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// grant makes a lease that ends with the test.
func (e *env) grant(t *testing.T, ttl int64) clientv3.LeaseID {
	t.Helper()
	r, err := e.cli.Grant(within(t, patience), ttl)
	if err != nil {
		t.Fatal(err)
	}
	return r.ID
}

// left asks every member for what is left of a lease; all must agree on whether it is there.
func (e *env) left(t *testing.T, id clientv3.LeaseID) *clientv3.LeaseTimeToLiveResponse {
	t.Helper()
	var first *clientv3.LeaseTimeToLiveResponse
	for _, cli := range e.pinned {
		r, err := cli.TimeToLive(within(t, patience), id, clientv3.WithAttachedKeys())
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = r
		}
		if (r.TTL < 0) != (first.TTL < 0) || r.GrantedTTL != first.GrantedTTL || fmt.Sprintf("%q", r.Keys) != fmt.Sprintf("%q", first.Keys) {
			t.Fatalf("members tell different things: %d of %d s with %q, and %d of %d s with %q", first.TTL, first.GrantedTTL, first.Keys, r.TTL, r.GrantedTTL, r.Keys)
		}
	}
	return first
}

func testLeaseLife(t *testing.T, e *env, p string) {
	e.split(t, p+"b")
	before, err := e.cli.Get(within(t, patience), p)
	if err != nil {
		t.Fatal(err)
	}
	g, err := e.cli.Grant(within(t, patience), 60)
	if err != nil {
		t.Fatal(err)
	}
	if g.TTL != 60 || g.ID == 0 || g.Revision != before.Header.Revision {
		t.Fatalf("granted %+v at revision %d", g, before.Header.Revision)
	}
	e.put(t, p+"b", "1", clientv3.WithLease(g.ID))
	e.put(t, p+"a", "1", clientv3.WithLease(g.ID))
	l := e.left(t, g.ID)
	if l.TTL < 50 || l.TTL > 60 || l.GrantedTTL != 60 || fmt.Sprintf("%s", l.Keys) != fmt.Sprintf("[%sa %sb]", p, p) {
		t.Fatalf("left %+v, keys %q", l, l.Keys)
	}
	listed, err := e.cli.Leases(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, s := range listed.Leases {
		if s.ID == g.ID {
			found++
		}
	}
	if found != 1 {
		t.Fatalf("lease %x is listed %d times", g.ID, found)
	}
	ka, err := e.pinned[1].KeepAliveOnce(within(t, patience), g.ID)
	if err != nil || ka.TTL != 60 {
		t.Fatalf("kept alive: %+v, %v", ka, err)
	}
	if _, err := e.pinned[2].Revoke(within(t, patience), g.ID); err != nil {
		t.Fatal(err)
	}
	if l := e.left(t, g.ID); l.TTL != -1 || len(l.Keys) != 0 {
		t.Fatalf("left of a revoked lease: %+v", l)
	}
	if r, err := e.cli.Get(within(t, patience), p, clientv3.WithPrefix()); err != nil || r.Count != 0 {
		t.Fatalf("keys of a revoked lease: %+v, %v", r, err)
	}
}

func testLeaseErrors(t *testing.T, e *env, p string) {
	ctx := within(t, patience)
	id := e.grant(t, 60)
	lease := clientv3.NewLease(e.cli)
	wants := func(what string, err, want error) {
		t.Helper()
		if err == nil || err.Error() != want.Error() {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	_, err := clientv3.RetryLeaseClient(e.cli).LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{ID: int64(id), TTL: 60})
	wants("grant of a lease that exists", err, rpctypes.ErrGRPCLeaseExist)
	_, err = lease.Grant(ctx, 9_000_000_001)
	wants("grant for too long", err, rpctypes.ErrLeaseTTLTooLarge)
	_, err = lease.Revoke(ctx, id+1)
	wants("revoke of no lease", err, rpctypes.ErrLeaseNotFound)
	_, err = lease.KeepAliveOnce(ctx, id+1)
	wants("keep-alive of no lease", err, rpctypes.ErrLeaseNotFound)
	_, err = e.cli.Put(ctx, p+"k", "v", clientv3.WithLease(id+1))
	wants("put with no lease", err, rpctypes.ErrLeaseNotFound)
	// A branch that is not taken may name anything.
	_, err = e.cli.Txn(ctx).If(clientv3.Compare(clientv3.Version(p+"k"), "=", 0)).
		Then(clientv3.OpPut(p+"k", "v", clientv3.WithLease(id))).Else(clientv3.OpPut(p+"k", "v", clientv3.WithLease(id+1))).Commit()
	if err != nil {
		t.Error(err)
	}
	r, err := lease.Grant(ctx, 1)
	if err != nil || r.TTL != 2 {
		t.Errorf("grant for a second: %+v, %v; want the least there is, 2", r, err)
	}
	r, err = lease.Grant(ctx, 9_000_000_000)
	if err != nil || r.TTL != 9_000_000_000 {
		t.Errorf("grant for the longest there is: %+v, %v", r, err)
	}
	for _, id := range []clientv3.LeaseID{id, r.ID} {
		if _, err := lease.Revoke(ctx, id); err != nil {
			t.Error(err)
		}
	}
}

func testLeaseAttachAndDetach(t *testing.T, e *env, p string) {
	e.split(t, p+"b", p+"d")
	ctx := within(t, patience)
	one, two := e.grant(t, 60), e.grant(t, 60)
	keys := func(id clientv3.LeaseID) string {
		var names []string
		for _, k := range e.left(t, id).Keys {
			names = append(names, strings.TrimPrefix(string(k), p))
		}
		return strings.Join(names, " ")
	}
	check := func(step, want1, want2 string) {
		t.Helper()
		if got1, got2 := keys(one), keys(two); got1 != want1 || got2 != want2 {
			t.Fatalf("%s: attached %q and %q, want %q and %q", step, got1, got2, want1, want2)
		}
	}
	for _, k := range []string{"a", "b", "c", "d", "e"} {
		e.put(t, p+k, "1", clientv3.WithLease(one))
	}
	check("all to one", "a b c d e", "")
	e.put(t, p+"b", "2", clientv3.WithLease(two))
	check("b to the other", "a c d e", "b")
	e.put(t, p+"c", "2")
	check("c to none", "a d e", "b")
	e.put(t, p+"d", "2", clientv3.WithIgnoreLease())
	check("d stays where it is", "a d e", "b")
	if _, err := e.cli.Delete(ctx, p+"e"); err != nil {
		t.Fatal(err)
	}
	check("e deleted", "a d", "b")
	if _, err := e.cli.Txn(ctx).Then(clientv3.OpPut(p+"a", "3", clientv3.WithLease(two)), clientv3.OpDelete(p+"b")).Commit(); err != nil {
		t.Fatal(err)
	}
	check("a to the other, b deleted", "d", "a")
	if _, err := e.cli.Revoke(ctx, one); err != nil {
		t.Fatal(err)
	}
	r, err := e.cli.Get(ctx, p, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) != 2 || string(r.Kvs[0].Key) != p+"a" || r.Kvs[0].Lease != int64(two) || string(r.Kvs[1].Key) != p+"c" || r.Kvs[1].Lease != 0 {
		t.Fatalf("after the revoke: %v", r.Kvs)
	}
	if _, err := e.cli.Revoke(ctx, two); err != nil {
		t.Fatal(err)
	}
}

// testLeaseExpiry lets leases end by themselves: not early, not much late, all keys in one revision.
func testLeaseExpiry(t *testing.T, e *env, p string) {
	e.split(t, p+"b", p+"c")
	ctx := within(t, patience)
	began := time.Now()
	id := e.grant(t, 8)
	first := e.put(t, p+"a", "1", clientv3.WithLease(id))
	e.put(t, p+"b", "1", clientv3.WithLease(id))
	e.put(t, p+"c", "1", clientv3.WithLease(id))
	r, ok := <-e.cli.Watch(ctx, p, clientv3.WithPrefix(), clientv3.WithRev(first), clientv3.WithFilterPut())
	if !ok {
		t.Fatalf("the lease did not end: %v", ctx.Err())
	}
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	took := time.Since(began)
	if len(r.Events) != 3 {
		t.Fatalf("deleted in parts: %v", r.Events)
	}
	for _, ev := range r.Events {
		if ev.Type != mvccpb.DELETE || ev.Kv.ModRevision != r.Events[0].Kv.ModRevision {
			t.Fatalf("event %v", ev)
		}
	}
	if took < 8*time.Second || took > time.Minute {
		t.Fatalf("a lease of 8 s ended after %v", took)
	}
	if l := e.left(t, id); l.TTL != -1 {
		t.Fatalf("left: %+v", l)
	}
}

// testLeaseKeepAlive keeps leases alive through all members for longer than they would live.
func testLeaseKeepAlive(t *testing.T, e *env, p string) {
	ctx := within(t, patience)
	var ids []clientv3.LeaseID
	began := time.Now()
	for i, cli := range e.pinned {
		id := e.grant(t, 8)
		ids = append(ids, id)
		e.put(t, fmt.Sprint(p, i), "1", clientv3.WithLease(id))
		answers, err := cli.KeepAlive(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for range answers {
			}
		}()
	}
	for time.Since(began) < 10*time.Second {
		for _, id := range ids {
			if l := e.left(t, id); l.TTL < 0 {
				t.Fatalf("lease %x ended after %v while it was kept alive", id, time.Since(began))
			}
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
	for _, id := range ids {
		if _, err := e.cli.Revoke(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLeaseTimeSurvives kills the owner of the leases: what is left of their time neither begins anew nor is lost, and
// a lease that ended meanwhile ends.
func TestLeaseTimeSurvives(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 3})
	cli, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	ctx := within(t, patience)
	long, err := cli.Grant(ctx, 40)
	if err != nil {
		t.Fatal(err)
	}
	short, err := cli.Grant(ctx, 6)
	if err != nil {
		t.Fatal(err)
	}
	granted := time.Now()
	for key, id := range map[string]clientv3.LeaseID{"long": long.ID, "short": short.ID} {
		if _, err := cli.Put(ctx, key, "1", clientv3.WithLease(id)); err != nil {
			t.Fatal(err)
		}
	}
	left := func() int64 {
		t.Helper()
		r, err := cli.TimeToLive(ctx, long.ID)
		if err != nil {
			t.Fatal(err)
		}
		return r.TTL
	}
	// A checkpoint is logged each eighth of the time.
	for left() > 33 {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
	for round := range 2 {
		owner := c.Members[0]
		for _, m := range c.Members {
			if st, err := cli.Status(ctx, m.ClientURL); err == nil && st.Leader == st.Header.MemberId {
				owner = m
			}
		}
		if err := owner.Kill(); err != nil {
			t.Fatal(err)
		}
		past := int64(time.Since(granted) / time.Second)
		now := left()
		answered := int64(time.Since(granted) / time.Second)
		if now < 40-answered-3 || now > 40-past+7 {
			t.Fatalf("round %d: %d s are left of 40 after %d s, answered after %d s", round, now, past, answered)
		}
		if err := owner.Start(); err != nil {
			t.Fatal(err)
		}
		if err := owner.WaitHealthy(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for {
		r, err := cli.Get(ctx, "short")
		if err != nil {
			t.Fatal(err)
		}
		if r.Count == 0 {
			break
		}
		if time.Since(granted) > time.Minute {
			t.Fatal("a lease of 6 s lives for a minute")
		}
	}
	if _, err := cli.Revoke(ctx, long.ID); err != nil {
		t.Fatal(err)
	}
	r, err := cli.Get(ctx, "long")
	if err != nil || r.Count != 0 {
		t.Fatalf("key of a revoked lease: %+v, %v", r, err)
	}
}
