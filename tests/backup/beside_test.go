package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Leases of the round trip. The short one lives for as long as somebody keeps it alive.
const (
	longLease clientv3.LeaseID = 0x1001 + iota
	otherLease
	emptyLease
	shortLease
	revokedLease
)

// Users of the round trip and their passwords.
const (
	root, rootPassword   = "root", "geheim"
	alice, alicePassword = "alice", "pass:word"
)

// as connects a stock client as a user.
func as(t *testing.T, c *cluster.Cluster, user, password string, members ...*cluster.Member) *clientv3.Client {
	t.Helper()
	cl, err := dial(c, user, password, members...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cl.Close() })
	return cl
}

func dial(c *cluster.Cluster, user, password string, members ...*cluster.Member) (*clientv3.Client, error) {
	if len(members) == 0 {
		members = c.Members
	}
	conf := clientv3.Config{Username: user, Password: password, DialTimeout: time.Minute, Logger: zap.NewNop()}
	for _, m := range members {
		conf.Endpoints = append(conf.Endpoints, m.ClientURL)
	}
	var err error
	if conf.TLS, err = c.TLSConfig(); err != nil {
		return nil, err
	}
	return clientv3.New(conf)
}

func leasedKey(i, n int) string { return fmt.Sprintf("key/%06d/leased", i*n/60) }

// makeLeases grants leases, attaches keys of all shards to them, takes some away again, and revokes one.
func makeLeases(ctx context.Context, t *testing.T, c *clientv3.Client, n int) {
	t.Helper()
	for id, ttl := range map[clientv3.LeaseID]int64{longLease: 3600, otherLease: 7200, emptyLease: 600, shortLease: 20, revokedLease: 600} {
		_, err := etcdserverpb.NewLeaseClient(c.ActiveConnection()).LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{ID: int64(id), TTL: ttl})
		require.NoError(t, err)
	}
	keepAlive(ctx, t, c)
	put := func(i int, opts ...clientv3.OpOption) {
		_, err := c.Put(ctx, leasedKey(i, n), "leased", opts...)
		require.NoError(t, err)
	}
	for i := range 60 {
		put(i, clientv3.WithLease([]clientv3.LeaseID{longLease, otherLease, shortLease, revokedLease}[i%4]))
	}
	put(0)                                 // detached
	put(4, clientv3.WithLease(otherLease)) // attached to another one
	_, err := c.Delete(ctx, leasedKey(8, n))
	require.NoError(t, err)
	_, err = c.Revoke(ctx, revokedLease)
	require.NoError(t, err)
}

// keepAlive keeps the short lease alive until the returned function is called.
func keepAlive(ctx context.Context, t *testing.T, c *clientv3.Client) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	t.Cleanup(cancel)
	alive, err := c.KeepAlive(ctx, shortLease)
	require.NoError(t, err)
	go func() {
		for range alive {
		}
	}()
	return cancel
}

// makeUsers makes users and roles, and turns auth on.
func makeUsers(ctx context.Context, t *testing.T, c *clientv3.Client) {
	t.Helper()
	must := func(_ any, err error) {
		t.Helper()
		require.NoError(t, err)
	}
	must(c.RoleAdd(ctx, "reader"))
	must(c.RoleGrantPermission(ctx, "reader", "key/", clientv3.GetPrefixRangeEnd("key/"), clientv3.PermissionType(clientv3.PermRead)))
	must(c.RoleAdd(ctx, "writer"))
	must(c.RoleGrantPermission(ctx, "writer", "alice/", "\x00", clientv3.PermissionType(clientv3.PermReadWrite)))
	must(c.RoleGrantPermission(ctx, "writer", "one", "", clientv3.PermissionType(clientv3.PermWrite)))
	must(c.RoleAdd(ctx, "empty"))
	must(c.UserAdd(ctx, root, rootPassword))
	must(c.UserAdd(ctx, alice, alicePassword))
	must(c.UserAddWithOptions(ctx, "certificate", "", &clientv3.UserAddOptions{NoPassword: true}))
	must(c.UserAdd(ctx, "gone", "x"))
	must(c.UserDelete(ctx, "gone"))
	must(c.UserGrantRole(ctx, root, "root"))
	must(c.UserGrantRole(ctx, alice, "reader"))
	must(c.UserGrantRole(ctx, "certificate", "reader"))
	must(c.UserGrantRole(ctx, "certificate", "empty"))
	must(c.AuthEnable(ctx))
}

// beside is what a store holds beside its keys.
type beside struct {
	Auth    bool
	AuthRev uint64
	Users   map[string][]string
	Roles   map[string][]string
	// Granted is the time of each lease, Keys what is attached to it.
	Granted map[clientv3.LeaseID]int64
	Keys    map[clientv3.LeaseID][]string
}

func besideOf(ctx context.Context, t *testing.T, c *clientv3.Client) beside {
	t.Helper()
	b := beside{
		Users: map[string][]string{}, Roles: map[string][]string{},
		Granted: map[clientv3.LeaseID]int64{}, Keys: map[clientv3.LeaseID][]string{},
	}
	st, err := c.AuthStatus(ctx)
	require.NoError(t, err)
	b.Auth, b.AuthRev = st.Enabled, st.AuthRevision
	users, err := c.UserList(ctx)
	require.NoError(t, err)
	for _, name := range users.Users {
		u, err := c.UserGet(ctx, name)
		require.NoError(t, err)
		b.Users[name] = u.Roles
	}
	roles, err := c.RoleList(ctx)
	require.NoError(t, err)
	for _, name := range roles.Roles {
		r, err := c.RoleGet(ctx, name)
		require.NoError(t, err)
		b.Roles[name] = nil
		for _, p := range r.Perm {
			b.Roles[name] = append(b.Roles[name], fmt.Sprintf("%s %q %q", p.PermType, p.Key, p.RangeEnd))
		}
	}
	leases, err := c.Leases(ctx)
	require.NoError(t, err)
	for _, l := range leases.Leases {
		ttl, err := c.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
		require.NoError(t, err)
		require.Positive(t, ttl.TTL, "lease %x", l.ID)
		require.LessOrEqual(t, ttl.TTL, ttl.GrantedTTL)
		b.Granted[l.ID] = ttl.GrantedTTL
		for _, k := range ttl.Keys {
			b.Keys[l.ID] = append(b.Keys[l.ID], string(k))
		}
		// etcd has no order of them.
		slices.Sort(b.Keys[l.ID])
	}
	return b
}

// requireLogins logs in, and looks whether permissions are in force.
func requireLogins(ctx context.Context, t *testing.T, c *cluster.Cluster, n int) {
	t.Helper()
	a := as(t, c, alice, alicePassword)
	_, err := a.Get(ctx, leasedKey(0, n))
	require.NoError(t, err)
	_, err = a.Put(ctx, leasedKey(0, n), "x")
	require.ErrorIs(t, err, rpctypes.ErrPermissionDenied)
	_, err = a.Get(ctx, "zzz")
	require.ErrorIs(t, err, rpctypes.ErrPermissionDenied)
	for user, password := range map[string]string{alice: "wrong", "certificate": "", "gone": "x"} {
		_, err = as(t, c, root, rootPassword).Authenticate(ctx, user, password)
		require.Error(t, err, user)
	}
}

// requireExpiry waits until the short lease, which nobody keeps alive any more, is gone with its keys, and revokes another one.
func requireExpiry(ctx context.Context, t *testing.T, c *clientv3.Client, n int, before beside) {
	t.Helper()
	for {
		ttl, err := c.TimeToLive(ctx, shortLease)
		if err == nil && ttl.TTL == -1 || errors.Is(err, rpctypes.ErrLeaseNotFound) {
			break
		}
		require.NoError(t, err)
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("the lease does not expire")
		}
	}
	at, err := c.Get(ctx, "key/")
	require.NoError(t, err)
	_, err = c.Revoke(ctx, otherLease)
	require.NoError(t, err)
	for _, k := range append(before.Keys[shortLease], before.Keys[otherLease]...) {
		got, err := c.Get(ctx, k)
		require.NoError(t, err)
		require.Empty(t, got.Kvs, k)
		require.Equal(t, at.Header.Revision+1, got.Header.Revision, "all keys of a lease go at one revision")
	}
	for _, k := range append(before.Keys[longLease], leasedKey(0, n)) {
		got, err := c.Get(ctx, k)
		require.NoError(t, err)
		require.Len(t, got.Kvs, 1, k)
	}
}
