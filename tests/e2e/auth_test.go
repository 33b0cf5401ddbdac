package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/tests/cluster"
)

// authEnv is a cluster with auth: root, and alice who may read and write a/, and
// read shared/.
type authEnv struct {
	*env
	root, alice *clientv3.Client
	// pinned clients of alice, through one member each
	through []*clientv3.Client
}

// as connects as a user.
func as(t *testing.T, c *cluster.Cluster, user, password string, members ...*cluster.Member) *clientv3.Client {
	t.Helper()
	if len(members) == 0 {
		members = c.Members
	}
	var endpoints []string
	for _, m := range members {
		endpoints = append(endpoints, m.ClientURL)
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, DialTimeout: patience, Username: user, Password: password, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatalf("connect as %s: %v", user, err)
	}
	t.Cleanup(func() { cli.Close() })
	return cli
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// refused wants one of etcd's errors.
func refused(t *testing.T, what string, err, want error) {
	t.Helper()
	if err == nil || (!errors.Is(err, want) && status.Convert(err).Message() != want.Error() && !strings.Contains(err.Error(), want.Error())) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func startAuth(t *testing.T, many bool, args ...string) *authEnv {
	c := startCluster(t, cluster.Options{Members: 3, Args: append([]string{"--bcrypt-cost=4"}, args...)})
	e := &authEnv{env: &env{cluster: c, cli: client(t, c)}}
	if many {
		e.sharded = true
		e.split(t, "a/m", "b/", "shared/")
	}
	ctx := within(t, patience)
	_, err := e.cli.UserAdd(ctx, "root", "rootpw")
	must(t, "add root", err)
	_, err = e.cli.UserGrantRole(ctx, "root", "root")
	must(t, "grant root", err)
	_, err = e.cli.RoleAdd(ctx, "r")
	must(t, "add role", err)
	_, err = e.cli.RoleGrantPermission(ctx, "r", "a/", "a0", clientv3.PermissionType(clientv3.PermReadWrite))
	must(t, "grant a/", err)
	_, err = e.cli.RoleGrantPermission(ctx, "r", "shared/", "shared0", clientv3.PermissionType(clientv3.PermRead))
	must(t, "grant shared/", err)
	_, err = e.cli.UserAdd(ctx, "alice", "alicepw")
	must(t, "add alice", err)
	_, err = e.cli.UserGrantRole(ctx, "alice", "r")
	must(t, "grant r", err)
	_, err = e.cli.AuthEnable(ctx)
	must(t, "enable", err)
	e.root, e.alice = as(t, c, "root", "rootpw"), as(t, c, "alice", "alicepw")
	for _, m := range c.Members {
		e.through = append(e.through, as(t, c, "alice", "alicepw", m))
	}
	return e
}

// TestAuth holds what kvd shares with etcd.
func TestAuth(t *testing.T) {
	t.Run("OneShard", func(t *testing.T) { testAuth(t, false) })
	t.Run("ManyShards", func(t *testing.T) {
		onlyKvd(t)
		testAuth(t, true)
	})
}

func testAuth(t *testing.T, many bool) {
	e := startAuth(t, many)
	ctx := within(t, patience)
	for _, step := range []struct {
		name string
		run  func(t *testing.T, ctx context.Context, e *authEnv)
	}{
		{"Anonymous", authAnonymous}, {"Permissions", authPermissions}, {"Txn", authTxn}, {"Lease", authLease}, {"Watch", authWatch},
		{"Administration", authAdministration}, {"Changes", authChanges}, {"Passwords", authPasswords},
		{"Disable", authDisable},
	} {
		t.Run(step.name, func(t *testing.T) { step.run(t, ctx, e) })
	}
}

func authAnonymous(t *testing.T, ctx context.Context, e *authEnv) {
	_, err := e.cli.Put(ctx, "a/x", "1")
	refused(t, "put without user", err, rpctypes.ErrUserEmpty)
	_, err = e.cli.Get(ctx, "a/x", clientv3.WithSerializable())
	refused(t, "serializable get without user", err, rpctypes.ErrUserEmpty)
	_, err = e.cli.Status(ctx, e.cluster.Members[0].ClientURL)
	refused(t, "status without user", err, rpctypes.ErrUserEmpty)
	_, err = e.cli.MemberList(ctx)
	refused(t, "member list without user", err, rpctypes.ErrUserEmpty)
	_, err = e.cli.UserAdd(ctx, "eve", "x")
	refused(t, "add a user without user", err, rpctypes.ErrUserEmpty)
	_, err = e.cli.Grant(ctx, 60)
	refused(t, "grant without user", err, rpctypes.ErrUserEmpty)
	_, err = e.cli.Authenticate(ctx, "alice", "wrong")
	refused(t, "wrong password", err, rpctypes.ErrAuthFailed)
	_, err = e.cli.Authenticate(ctx, "nobody", "wrong")
	refused(t, "unknown user", err, rpctypes.ErrAuthFailed)
	for r := range e.cli.Watch(ctx, "a/x") {
		refused(t, "watch without user", r.Err(), rpctypes.ErrUserEmpty)
	}
	resp, err := e.cli.Authenticate(ctx, "alice", "alicepw")
	must(t, "authenticate", err)
	if prefix, number, ok := strings.Cut(resp.Token, "."); !ok || prefix == "" || strings.Trim(number, "0123456789") != "" {
		t.Errorf("token %q is not like etcd's", resp.Token)
	}
}

func authPermissions(t *testing.T, ctx context.Context, e *authEnv) {
	_, err := e.root.Put(ctx, "shared/x", "1")
	must(t, "put as root", err)
	_, err = e.root.Put(ctx, "b/x", "1")
	must(t, "put as root", err)
	for _, cli := range e.through {
		for _, key := range []string{"a/1", "a/z"} {
			_, err := cli.Put(ctx, key, "1")
			must(t, "put", err)
			_, err = cli.Put(ctx, key, "1", clientv3.WithPrevKV())
			must(t, "put with prev_kv", err)
			_, err = cli.Get(ctx, key)
			must(t, "get", err)
		}
		resp, err := cli.Get(ctx, "a/", clientv3.WithPrefix())
		if err != nil || len(resp.Kvs) != 2 {
			t.Errorf("get of a/: %v, %v", resp, err)
		}
		_, err = cli.Get(ctx, "shared/", clientv3.WithPrefix(), clientv3.WithSerializable())
		must(t, "serializable get of shared/", err)
		_, err = cli.Put(ctx, "shared/x", "2")
		refused(t, "put to shared/", err, rpctypes.ErrPermissionDenied)
		_, err = cli.Delete(ctx, "shared/", clientv3.WithPrefix())
		refused(t, "delete of shared/", err, rpctypes.ErrPermissionDenied)
		_, err = cli.Get(ctx, "b/x")
		refused(t, "get of b/x", err, rpctypes.ErrPermissionDenied)
		_, err = cli.Get(ctx, "b/x", clientv3.WithSerializable())
		refused(t, "serializable get of b/x", err, rpctypes.ErrPermissionDenied)
		_, err = cli.Get(ctx, "a/", clientv3.WithRange("a1"))
		refused(t, "get of more than a/", err, rpctypes.ErrPermissionDenied)
		_, err = cli.Get(ctx, "a/", clientv3.WithFromKey())
		refused(t, "get from a/ on", err, rpctypes.ErrPermissionDenied)
	}
	resp, err := e.root.Get(ctx, "", clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) != 4 {
		t.Errorf("get of all as root: %v, %v", resp, err)
	}
	dresp, err := e.alice.Delete(ctx, "a/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil || dresp.Deleted != 2 {
		t.Errorf("delete of a/: %v, %v", dresp, err)
	}
}

func authTxn(t *testing.T, ctx context.Context, e *authEnv) {
	own, foreign := clientv3.OpPut("a/t", "1"), clientv3.OpPut("b/t", "1")
	for name, txn := range map[string]clientv3.Txn{
		"compare":           e.alice.Txn(ctx).If(clientv3.Compare(clientv3.Version("b/t"), "=", 0)).Then(own),
		"then":              e.alice.Txn(ctx).If(clientv3.Compare(clientv3.Version("a/t"), ">", 1000)).Then(foreign),
		"else":              e.alice.Txn(ctx).If(clientv3.Compare(clientv3.Version("a/t"), "<", 1000)).Else(clientv3.OpGet("b/t")),
		"nested":            e.alice.Txn(ctx).Then(clientv3.OpTxn(nil, []clientv3.Op{own}, []clientv3.Op{clientv3.OpTxn(nil, nil, []clientv3.Op{foreign})})),
		"nested compare":    e.alice.Txn(ctx).Then(clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Version("b/t"), "=", 0)}, []clientv3.Op{own}, nil)),
		"compare of ranges": e.alice.Txn(ctx).If(clientv3.Compare(clientv3.Version("a/").WithRange("b1"), "=", 0)).Then(own),
		"delete":            e.alice.Txn(ctx).Then(clientv3.OpDelete("a/", clientv3.WithRange("b1"))),
		"delete read-only":  e.alice.Txn(ctx).Then(clientv3.OpDelete("shared/x")),
	} {
		_, err := txn.Commit()
		refused(t, name, err, rpctypes.ErrPermissionDenied)
	}
	resp, err := e.alice.Txn(ctx).If(clientv3.Compare(clientv3.Version("shared/x"), ">", 0)).Then(own, clientv3.OpPut("a/u", "1"), clientv3.OpGet("shared/", clientv3.WithPrefix())).Commit()
	if err != nil || !resp.Succeeded {
		t.Errorf("permitted transaction: %v, %v", resp, err)
	}
	got, err := e.root.Get(ctx, "b/t")
	if err != nil || len(got.Kvs) != 0 {
		t.Errorf("b/t: %v, %v", got, err)
	}
}

func authWatch(t *testing.T, ctx context.Context, e *authEnv) {
	for i, cli := range e.through {
		for r := range cli.Watch(ctx, "b/x") {
			refused(t, "watch of b/x", r.Err(), rpctypes.ErrPermissionDenied)
		}
		wctx, cancel := context.WithCancel(ctx)
		w := cli.Watch(wctx, "a/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		if r := <-w; !r.Created {
			t.Errorf("watch of a/: %v", r)
		}
		_, err := e.alice.Put(ctx, "a/w", fmt.Sprint(i))
		must(t, "put", err)
		if r := <-w; len(r.Events) != 1 || string(r.Events[0].Kv.Value) != fmt.Sprint(i) {
			t.Errorf("event of a/w: %v", r)
		}
		cancel()
	}
}

func authAdministration(t *testing.T, ctx context.Context, e *authEnv) {
	_, err := e.alice.UserList(ctx)
	refused(t, "user list", err, rpctypes.ErrPermissionDenied)
	_, err = e.alice.UserGet(ctx, "root")
	refused(t, "user get of root", err, rpctypes.ErrPermissionDenied)
	_, err = e.alice.RoleGet(ctx, "root")
	refused(t, "role get of root", err, rpctypes.ErrPermissionDenied)
	u, err := e.alice.UserGet(ctx, "alice")
	if err != nil || len(u.Roles) != 1 || u.Roles[0] != "r" {
		t.Errorf("user get of oneself: %v, %v", u, err)
	}
	r, err := e.alice.RoleGet(ctx, "r")
	if err != nil || len(r.Perm) != 2 || r.Perm[0].PermType != authpb.Permission_READWRITE || string(r.Perm[0].Key) != "a/" || string(r.Perm[0].RangeEnd) != "a0" {
		t.Errorf("role get of one's own: %v, %v", r, err)
	}
	_, err = e.alice.Compact(ctx, 1)
	refused(t, "compact", err, rpctypes.ErrPermissionDenied)
	_, err = e.alice.AuthDisable(ctx)
	refused(t, "auth disable", err, rpctypes.ErrPermissionDenied)
	_, err = e.alice.HashKV(ctx, e.cluster.Members[0].ClientURL, 0)
	refused(t, "hash", err, rpctypes.ErrPermissionDenied)
	_, err = e.alice.Defragment(ctx, e.cluster.Members[0].ClientURL)
	refused(t, "defragment", err, rpctypes.ErrPermissionDenied)
	_, err = e.alice.MemberRemove(ctx, 1)
	refused(t, "member remove", err, rpctypes.ErrPermissionDenied)
	_, err = e.alice.MemberList(ctx)
	must(t, "member list", err)
	users, err := e.root.UserList(ctx)
	if err != nil || fmt.Sprint(users.Users) != "[alice root]" {
		t.Errorf("users: %v, %v", users, err)
	}
	roles, err := e.root.RoleList(ctx)
	if err != nil || fmt.Sprint(roles.Roles) != "[r]" {
		t.Errorf("roles: %v, %v", roles, err)
	}
	_, err = e.root.UserDelete(ctx, "root")
	refused(t, "delete root", err, rpctypes.ErrInvalidAuthMgmt)
	_, err = e.root.UserAdd(ctx, "alice", "x")
	refused(t, "add alice again", err, rpctypes.ErrUserAlreadyExist)
	st, err := e.root.AuthStatus(ctx)
	if err != nil || !st.Enabled || st.AuthRevision == 0 {
		t.Errorf("status: %v, %v", st, err)
	}
	_, err = e.root.HashKV(ctx, e.cluster.Members[0].ClientURL, 0)
	must(t, "hash as root", err)
	_, err = e.root.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithLimit(1))
	must(t, "get as root", err)
}

// authChanges: what an administrator changed through one member is in force on any
// other one for the very next request.
func authChanges(t *testing.T, ctx context.Context, e *authEnv) {
	if !binaries.kvd {
		t.Skip("etcd's members learn of changes a little later")
	}
	for round := range 20 {
		admin := as(t, e.cluster, "root", "rootpw", e.cluster.Members[round%3])
		_, err := admin.RoleGrantPermission(ctx, "r", "c", "", clientv3.PermissionType(clientv3.PermReadWrite))
		must(t, "grant", err)
		for _, cli := range e.through {
			_, err := cli.Put(ctx, "c", "1")
			must(t, "put just after the grant", err)
		}
		w := e.through[(round+1)%3].Watch(ctx, "c", clientv3.WithCreatedNotify())
		if r := <-w; !r.Created {
			t.Fatalf("watch just after the grant: %v", r)
		}
		_, err = admin.RoleRevokePermission(ctx, "r", "c", "")
		must(t, "revoke", err)
		for i, cli := range e.through {
			switch (i + round) % 4 {
			case 0:
				_, err = cli.Put(ctx, "c", "2")
			case 1:
				_, err = cli.Get(ctx, "c")
			case 2:
				_, err = cli.Txn(ctx).If(clientv3.Compare(clientv3.Version("c"), ">", 0)).Then(clientv3.OpPut("a/x", "1")).Commit()
			case 3:
				r := <-cli.Watch(ctx, "c")
				err = r.Err()
			}
			refused(t, fmt.Sprintf("round %d, request %d just after the revoke", round, (i+round)%4), err, rpctypes.ErrPermissionDenied)
		}
		// The watch of before ends.
		for range w {
		}
		if ctx.Err() != nil {
			t.Fatal("a watch outlived its permission")
		}
	}
}

// withToken reads a key with a token, through one member, without the client's own
// handling of tokens.
func withToken(ctx context.Context, t *testing.T, m *cluster.Member, token string) error {
	t.Helper()
	conn, err := grpc.NewClient(m.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, "connect", err)
	defer conn.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
	_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("a/x")})
	return err
}

func authPasswords(t *testing.T, ctx context.Context, e *authEnv) {
	resp, err := e.cli.Authenticate(ctx, "alice", "alicepw")
	must(t, "authenticate", err)
	for _, m := range e.cluster.Members {
		if err := withToken(ctx, t, m, resp.Token); err != nil {
			t.Errorf("token through %s: %v", m.Name, err)
		}
		if err := withToken(ctx, t, m, resp.Token+"0"); !errors.Is(rpctypes.Error(err), rpctypes.ErrInvalidAuthToken) {
			t.Errorf("forged token through %s: %v", m.Name, err)
		}
	}
	_, err = e.root.UserChangePassword(ctx, "alice", "new")
	must(t, "change password", err)
	for _, m := range e.cluster.Members {
		if err := withToken(ctx, t, m, resp.Token); !errors.Is(rpctypes.Error(err), rpctypes.ErrInvalidAuthToken) {
			t.Errorf("token of the old password through %s: %v", m.Name, err)
		}
	}
	_, err = e.cli.Authenticate(ctx, "alice", "alicepw")
	refused(t, "old password", err, rpctypes.ErrAuthFailed)
	_, err = e.cli.Authenticate(ctx, "alice", "new")
	must(t, "new password", err)

	_, err = e.root.UserAddWithOptions(ctx, "nopw", "", &clientv3.UserAddOptions{NoPassword: true})
	must(t, "add a user without password", err)
	_, err = e.cli.Authenticate(ctx, "nopw", "")
	if err == nil {
		t.Error("a user without password was given a token")
	}
	_, err = e.root.UserDelete(ctx, "nopw")
	must(t, "delete", err)
}

func authDisable(t *testing.T, ctx context.Context, e *authEnv) {
	resp, err := e.cli.Authenticate(ctx, "root", "rootpw")
	must(t, "authenticate", err)
	_, err = e.root.AuthDisable(ctx)
	must(t, "disable", err)
	for _, m := range e.cluster.Members {
		cli := client(t, e.cluster, m)
		_, err := cli.Put(ctx, "b/y", "1")
		must(t, "put after disable", err)
	}
	_, err = e.cli.Authenticate(ctx, "root", "rootpw")
	refused(t, "authenticate while auth is off", err, rpctypes.ErrAuthNotEnabled)
	_, err = e.cli.AuthEnable(ctx)
	must(t, "enable again", err)
	for _, m := range e.cluster.Members {
		_, err := client(t, e.cluster, m).Put(ctx, "b/y", "2")
		refused(t, "put after enable", err, rpctypes.ErrUserEmpty)
		if err := withToken(ctx, t, m, resp.Token); !errors.Is(rpctypes.Error(err), rpctypes.ErrInvalidAuthToken) {
			t.Errorf("token of before through %s: %v", m.Name, err)
		}
	}
	_, err = as(t, e.cluster, "root", "rootpw").AuthDisable(ctx)
	must(t, "disable", err)
}
