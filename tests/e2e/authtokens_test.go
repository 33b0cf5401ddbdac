package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/tests/cluster"
)

// edKeys writes a pair of keys.
func edKeys(t *testing.T) (private, public string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	must(t, "make keys", err)
	dir := t.TempDir()
	private, public = filepath.Join(dir, "private.pem"), filepath.Join(dir, "public.pem")
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	must(t, "encode", err)
	must(t, "write", os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	der, err = x509.MarshalPKIXPublicKey(pub)
	must(t, "encode", err)
	must(t, "write", os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
	return private, public
}

// addUsers makes root, and alice who may read and write a/, and turns auth on.
func addUsers(t *testing.T, c *clientv3.Client, alice *clientv3.UserAddOptions) {
	t.Helper()
	ctx := within(t, patience)
	_, err := c.UserAdd(ctx, "root", "rootpw")
	must(t, "add root", err)
	_, err = c.UserGrantRole(ctx, "root", "root")
	must(t, "grant root", err)
	_, err = c.RoleAdd(ctx, "r")
	must(t, "add role", err)
	_, err = c.RoleGrantPermission(ctx, "r", "a/", "a0", clientv3.PermissionType(clientv3.PermReadWrite))
	must(t, "grant a/", err)
	password := "alicepw"
	if alice.NoPassword {
		password = ""
	}
	_, err = c.UserAddWithOptions(ctx, "alice", password, alice)
	must(t, "add alice", err)
	_, err = c.UserGrantRole(ctx, "alice", "r")
	must(t, "grant r", err)
	_, err = c.AuthEnable(ctx)
	must(t, "enable", err)
}

// TestJWTAmongMembers: a token that one member signed is good on all, also on one that can only verify; after a change of
// auth it is old news, and a client of etcd gets itself another.
func TestJWTAmongMembers(t *testing.T) {
	private, public := edKeys(t)
	c := newCluster(t, cluster.Options{Members: 3})
	for i, m := range c.Members {
		keys := ",priv-key=" + private
		if i == 2 {
			keys = ",pub-key=" + public
		}
		m.SetArgs("--bcrypt-cost=4", "--auth-token=jwt,sign-method=EdDSA,ttl=1m"+keys)
	}
	must(t, "start", c.StartAll(within(t, patience)))
	addUsers(t, client(t, c), &clientv3.UserAddOptions{})
	ctx := within(t, patience)
	alice := as(t, c, "alice", "alicepw", c.Members[0])
	_, err := alice.Put(ctx, "a/x", "1")
	must(t, "put", err)
	resp, err := client(t, c, c.Members[1]).Authenticate(ctx, "alice", "alicepw")
	must(t, "authenticate", err)
	for _, m := range c.Members {
		must(t, "token through "+m.Name, withToken(ctx, t, m, resp.Token))
		refused(t, "forged token", withToken(ctx, t, m, resp.Token[:len(resp.Token)-3]), rpctypes.ErrInvalidAuthToken)
	}
	_, err = client(t, c, c.Members[2]).Authenticate(ctx, "alice", "alicepw")
	if err == nil {
		t.Error("a member without private key signed a token")
	}
	_, err = as(t, c, "root", "rootpw", c.Members[1]).RoleGrantPermission(ctx, "r", "b", "", clientv3.PermissionType(clientv3.PermRead))
	must(t, "grant", err)
	for _, m := range c.Members {
		refused(t, "old token through "+m.Name, withToken(ctx, t, m, resp.Token), rpctypes.ErrAuthOldRevision)
	}
	_, err = alice.Get(ctx, "b")
	must(t, "get with a token that the client renewed", err)
}

// TestAuthByCommonName: a client's certificate names its user, for locks as well; a token goes before it, and the gateway
// does not know of it.
func TestAuthByCommonName(t *testing.T) {
	dir := t.TempDir()
	certs, err := cluster.NewCerts(dir)
	must(t, "certificates", err)
	c := startCluster(t, cluster.Options{Members: 3, ClientTLS: certs, Args: []string{"--bcrypt-cost=4"}})
	addUsers(t, client(t, c), &clientv3.UserAddOptions{NoPassword: true})
	named := func(name, user string, member int) *clientv3.Client {
		t.Helper()
		own := *certs
		var err error
		own.ClientCert, own.ClientKey, err = certs.Client(t.TempDir(), name)
		must(t, "certificate", err)
		conf, err := own.ClientConfig()
		must(t, "certificate", err)
		cfg := clientv3.Config{Endpoints: []string{c.Members[member].ClientURL}, TLS: conf, DialTimeout: patience, Logger: zap.NewNop()}
		if user != "" {
			cfg.Username, cfg.Password = user, user+"pw"
		}
		cli, err := clientv3.New(cfg)
		must(t, "connect", err)
		t.Cleanup(func() { cli.Close() })
		return cli
	}
	ctx := within(t, patience)
	for member := range c.Members {
		alice := named("alice", "", member)
		_, err = alice.Put(ctx, "a/x", "1")
		must(t, "put", err)
		_, err = alice.Put(ctx, "b", "1")
		refused(t, "put outside", err, rpctypes.ErrPermissionDenied)
		_, err = alice.UserList(ctx)
		refused(t, "user list", err, rpctypes.ErrPermissionDenied)
		locks := v3lockpb.NewLockClient(alice.ActiveConnection())
		held, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("a/lock")})
		must(t, "lock", err)
		_, err = locks.Unlock(ctx, &v3lockpb.UnlockRequest{Key: held.Key})
		must(t, "unlock", err)
		_, err = locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("b/lock")})
		refused(t, "lock outside", rpctypes.Error(err), rpctypes.ErrPermissionDenied)
		w := alice.Watch(ctx, "a/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		if r := <-w; !r.Created {
			t.Errorf("watch: %v", r)
		}
	}
	_, err = named("nobody", "", 0).Get(ctx, "a/x")
	refused(t, "get by the name of no user", err, rpctypes.ErrPermissionDenied)
	_, err = named("alice", "root", 1).Put(ctx, "b", "1")
	must(t, "put with root's token and alice's certificate", err)
	conf, err := certs.ClientConfig()
	must(t, "certificate", err)
	browser := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
	defer browser.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Members[0].ClientURL+"/v3/kv/range", strings.NewReader(`{"key":"YS94"}`))
	must(t, "request", err)
	answer, err := browser.Do(req)
	must(t, "gateway", err)
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusBadRequest {
		t.Errorf("the gateway answers %s to a certificate with a name", answer.Status)
	}
}

// TestSecretsStaySecret: passwords and tokens are in no log, metric or debug page, however much is logged, whichever tool
// they come from.
func TestSecretsStaySecret(t *testing.T) {
	onlyKvd(t) // etcd logs its simple tokens
	c := startCluster(t, cluster.Options{Args: []string{"--bcrypt-cost=4", "--log-level=debug", "--enable-pprof"}})
	m := c.Members[0]
	tools := []string{binaries.etcdctl, binaries.kvctl}
	secrets := []string{"root-s3cret", "mistyped-s3cret"}
	ctl := func(tool, input string, args ...string) string {
		t.Helper()
		out, err := runInput(t, input, tool, append([]string{"--endpoints=" + m.ClientURL}, args...)...)
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", filepath.Base(tool), strings.Join(args, " "), err, out)
		}
		return out
	}
	ctl(tools[0], "", "user", "add", "root:root-s3cret")
	ctl(tools[0], "", "user", "grant-role", "root", "root")
	ctl(tools[0], "", "auth", "enable")
	root := "--user=root:root-s3cret"
	ctx := within(t, patience)
	for i, tool := range tools {
		user, role, password, next := fmt.Sprint("u", i), fmt.Sprint("r", i), fmt.Sprintf("first%d-s3cret", i), fmt.Sprintf("next%d-s3cret", i)
		secrets = append(secrets, password, next)
		ctl(tool, password+"\n", root, "user", "add", user, "--interactive=false")
		ctl(tool, next+"\n", root, "user", "passwd", user, "--interactive=false")
		ctl(tool, "", root, "role", "add", role)
		ctl(tool, "", root, "role", "grant-permission", role, "readwrite", "a/", "a0")
		ctl(tool, "", root, "user", "grant-role", user, role)
		if out := ctl(tool, "", root, "role", "get", role); !strings.Contains(out, "[a/, a0)") {
			t.Errorf("role get printed\n%s", out)
		}
		ctl(tool, "", "--user="+user+":"+next, "put", "a/x", "1")
		if out, err := run(t, tool, "--endpoints="+m.ClientURL, "--user="+user+":mistyped-s3cret", "get", "a/x"); err == nil {
			t.Errorf("a wrong password was let in:\n%s", out)
		}
		resp, err := client(t, c).Authenticate(ctx, user, next)
		must(t, "authenticate", err)
		must(t, "token", withToken(ctx, t, m, resp.Token))
		if err := withToken(ctx, t, m, resp.Token+"0"); !errors.Is(rpctypes.Error(err), rpctypes.ErrInvalidAuthToken) {
			t.Errorf("forged token: %v", err)
		}
		secrets = append(secrets, resp.Token)
	}
	defer http.DefaultClient.CloseIdleConnections()
	places := map[string]string{"the log": m.Log()}
	for _, path := range []string{"/metrics", "/debug/vars", "/debug/requests?fam=grpc.Recv.Auth&b=0&exp=1", "/debug/requests", "/debug/events", "/debug/pprof/goroutine?debug=2"} {
		places[path] = page(ctx, t, m.ClientURL+path)
	}
	for place, text := range places {
		if text == "" {
			t.Errorf("%s is empty", place)
		}
		for _, secret := range secrets {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s tells %q: …%.200s…", place, secret, text[max(0, i-100):])
			}
		}
	}
	if !strings.Contains(places["the log"], "invalid auth") {
		t.Error("the log does not speak of wrong passwords: is it the debug level?")
	}
}

func page(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	must(t, "request", err)
	resp, err := http.DefaultClient.Do(req)
	must(t, url, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, url, err)
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", url, resp.Status)
	}
	return string(body)
}
