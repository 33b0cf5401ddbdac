package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/kvd-io/kvd/tests/cluster"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// post sends JSON as curl does and gives the answer as a tree.
func post(ctx context.Context, c *http.Client, url, body string) (map[string]any, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if token, ok := ctx.Value(gatewayToken{}).(string); ok {
		req.Header.Set("Authorization", token)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer := make(map[string]any)
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("%s: %w", resp.Status, err)
	}
	if resp.StatusCode != http.StatusOK {
		return answer, fmt.Errorf("%s: %v", resp.Status, answer)
	}
	return answer, nil
}

// gatewayToken is the key of the token that post sends.
type gatewayToken struct{}

// TestGateway: JSON alone is enough to put, get, watch by stream and by websocket, grant, lock and elect, with TLS and
// without, and with a token.
func TestGateway(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("secure=%v", secure), func(t *testing.T) {
			o := cluster.Options{Args: []string{"--bcrypt-cost=4"}}
			var conf *tls.Config
			if secure {
				certs, err := cluster.NewCerts(t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				// The common name of a certificate means nothing at the gateway, so a member that goes by it refuses such
				// clients once there are users: see TestAuthByCommonName.
				o.ClientTLS, o.Args = certs, append(o.Args, "--client-cert-auth=false")
				if conf, err = certs.ClientConfig(); err != nil {
					t.Fatal(err)
				}
			}
			c := startCluster(t, o)
			browser := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
			testGateway(t, c.Members[0].ClientURL, browser, conf)
			testGatewayLocks(t, within(t, patience), c.Members[0].ClientURL, browser)
			testGatewayToken(t, c.Members[0].ClientURL, browser)
		})
	}
}

func testGateway(t *testing.T, url string, c *http.Client, conf *tls.Config) {
	defer c.CloseIdleConnections()
	ctx := within(t, patience)
	put, err := post(ctx, c, url+"/v3/kv/put", fmt.Sprintf(`{"key":%q,"value":%q}`, b64("k"), b64("v")))
	if err != nil {
		t.Fatal(err)
	}
	rev := put["header"].(map[string]any)["revision"].(string)
	got, err := post(ctx, c, url+"/v3/kv/range", fmt.Sprintf(`{"key":%q}`, b64("k")))
	if err != nil {
		t.Fatal(err)
	}
	if kv := got["kvs"].([]any)[0].(map[string]any); kv["value"] != b64("v") || kv["mod_revision"] != rev || got["count"] != "1" {
		t.Errorf("got %v", got)
	}
	txn := fmt.Sprintf(`{"compare":[{"key":%[1]q,"target":"VALUE","value":%[2]q}],"success":[{"request_put":{"key":%[1]q,"value":%[3]q}}]}`, b64("k"), b64("v"), b64("w"))
	if got, err = post(ctx, c, url+"/v3/kv/txn", txn); err != nil || got["succeeded"] != true {
		t.Errorf("txn: %v, %v", got, err)
	}
	if got, err = post(ctx, c, url+"/v3/kv/put", `{}`); err == nil || got["code"] != float64(3) {
		t.Errorf("an empty key: %v, %v", got, err)
	}

	// Both watches begin in the past and see both writes.
	create := fmt.Sprintf(`{"create_request":{"key":%q,"start_revision":%q}}`, b64("k"), rev)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v3/watch", strings.NewReader(create))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	wantEvents(t, "stream", func() ([]byte, error) { return lines.ReadBytes('\n') })

	conn, answer, err := (&websocket.Dialer{TLSClientConfig: conf}).DialContext(ctx, strings.Replace(url, "http", "ws", 1)+"/v3/watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	defer conn.Close()
	if err := conn.WriteMessage(websocket.TextMessage, []byte(create)); err != nil {
		t.Fatal(err)
	}
	wantEvents(t, "websocket", func() ([]byte, error) { _, m, err := conn.ReadMessage(); return m, err })
}

// testGatewayLocks: leases, locks and elections.
func testGatewayLocks(t *testing.T, ctx context.Context, url string, c *http.Client) {
	defer c.CloseIdleConnections()
	call := func(path, format string, args ...any) map[string]any {
		t.Helper()
		got, err := post(ctx, c, url+path, fmt.Sprintf(format, args...))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return got
	}
	lease := call("/v3/lease/grant", `{"TTL":60}`)["ID"].(string)
	call("/v3/kv/put", `{"key":%q,"lease":%q}`, b64("leased"), lease)
	if got := call("/v3/lease/timetolive", `{"ID":%q,"keys":true}`, lease); fmt.Sprint(got["keys"]) != "["+b64("leased")+"]" || got["grantedTTL"] != "60" {
		t.Errorf("time to live: %v", got)
	}
	if got := call("/v3/lease/keepalive", `{"ID":%q}`, lease); got["result"].(map[string]any)["TTL"] != "60" {
		t.Errorf("keep-alive: %v", got)
	}

	held := call("/v3/lock/lock", `{"name":%q,"lease":%q}`, b64("lock"), lease)
	if binaries.kvd {
		// On etcd one that went away goes on waiting, and has the lock in the end, until its lease is over.
		impatient, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		if got, err := post(impatient, c, url+"/v3/lock/lock", fmt.Sprintf(`{"name":%q}`, b64("lock"))); err == nil {
			t.Errorf("two hold one lock: %v, %v", held, got)
		}
	}
	call("/v3/lock/unlock", `{"key":%q}`, held["key"])
	held = call("/v3/lock/lock", `{"name":%q}`, b64("lock"))
	call("/v3/lock/unlock", `{"key":%q}`, held["key"])

	leader := call("/v3/election/campaign", `{"name":%q,"value":%q,"lease":%q}`, b64("el"), b64("v"), lease)["leader"]
	told, err := json.Marshal(leader)
	if err != nil {
		t.Fatal(err)
	}
	if got := call("/v3/election/leader", `{"name":%q}`, b64("el")); got["kv"].(map[string]any)["value"] != b64("v") {
		t.Errorf("leader: %v", got)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v3/election/observe", strings.NewReader(fmt.Sprintf(`{"name":%q}`, b64("el"))))
	if err != nil {
		t.Fatal(err)
	}
	if token, ok := ctx.Value(gatewayToken{}).(string); ok {
		req.Header.Set("Authorization", token)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for _, value := range []string{"v", "w"} {
		if value != "v" {
			call("/v3/election/proclaim", `{"leader":%s,"value":%q}`, told, b64(value))
		}
		line, err := lines.ReadString('\n')
		if err != nil || !strings.Contains(line, b64(value)) {
			t.Errorf("observed %s, %v; want %s", line, err, value)
		}
	}
	call("/v3/election/resign", `{"leader":%s}`, told)
	call("/v3/lease/revoke", `{"ID":%q}`, lease)
	if got := call("/v3/kv/range", `{"key":%q}`, b64("leased")); got["count"] != nil {
		t.Errorf("after the lease: %v", got)
	}
}

// testGatewayToken: users are made, and used, with JSON alone.
func testGatewayToken(t *testing.T, url string, c *http.Client) {
	defer c.CloseIdleConnections()
	ctx := within(t, patience)
	for _, call := range [][2]string{
		{"user/add", `{"name":"root","password":"rootpw"}`}, {"user/grant", `{"user":"root","role":"root"}`},
		{"user/add", `{"name":"alice","password":"alicepw"}`}, {"role/add", `{"name":"r"}`},
		{"role/grant", fmt.Sprintf(`{"name":"r","perm":{"permType":"READWRITE","key":%q,"range_end":%q}}`, b64("a/"), b64("a0"))},
		{"user/grant", `{"user":"alice","role":"r"}`}, {"enable", `{}`},
	} {
		if _, err := post(ctx, c, url+"/v3/auth/"+call[0], call[1]); err != nil {
			t.Fatalf("%s: %v", call[0], err)
		}
	}
	as := func(user string) context.Context {
		got, err := post(ctx, c, url+"/v3/auth/authenticate", fmt.Sprintf(`{"name":%q,"password":"%spw"}`, user, user))
		if err != nil {
			t.Fatalf("authenticate: %v", err)
		}
		return context.WithValue(ctx, gatewayToken{}, got["token"])
	}
	testGatewayLocks(t, as("root"), url, c)
	alice := as("alice")
	if binaries.kvd { // etcd ends the stream without a word
		got, err := post(ctx, c, url+"/v3/election/observe", fmt.Sprintf(`{"name":%q}`, b64("a/k")))
		if err == nil || errorCode(got) != 3 {
			t.Errorf("anonymous observe: %v, %v", got, err)
		}
	}
	for what, want := range map[string]struct {
		ctx        context.Context
		path, body string
		code       float64
	}{
		"put":            {alice, "kv/put", `{"key":%q}`, 0},
		"lock":           {alice, "lock/lock", `{"name":%q}`, 0},
		"campaign":       {alice, "election/campaign", `{"name":%q}`, 0},
		"leader":         {alice, "election/leader", `{"name":%q}`, 0},
		"anonymous lock": {ctx, "lock/lock", `{"name":%q}`, 3},
		"anonymous put":  {ctx, "kv/put", `{"key":%q}`, 3},
		"forged token":   {context.WithValue(ctx, gatewayToken{}, "x.1"), "kv/put", `{"key":%q}`, 16},
	} {
		t.Run(what, func(t *testing.T) {
			if what == "leader" {
				// Somebody must campaign first.
				if _, err := post(alice, c, url+"/v3/election/campaign", fmt.Sprintf(`{"name":%q}`, b64("a/leader"))); err != nil {
					t.Fatal(err)
				}
			}
			got, err := post(want.ctx, c, url+"/v3/"+want.path, fmt.Sprintf(want.body, b64("a/"+what)))
			if want.code == 0 && err != nil || want.code != 0 && !refusedBy(got, want.code) {
				t.Errorf("answered %v, %v", got, err)
			}
			if want.code != 0 {
				return
			}
			foreign := fmt.Sprintf(want.body, b64("b/k"))
			if got, err := post(want.ctx, c, url+"/v3/"+want.path, foreign); err == nil || !refusedBy(got, 7) {
				t.Errorf("outside of what alice may: %v, %v", got, err)
			}
		})
	}
}

// refusedBy tells whether an answer is a refusal with a gRPC code. What is behind etcd's locks loses its own code.
func refusedBy(answer map[string]any, code float64) bool {
	got := errorCode(answer)
	return got == code || !binaries.kvd && got == 2
}

// errorCode is the gRPC code of a refusal, of a call or of a stream.
func errorCode(answer map[string]any) float64 {
	if e, ok := answer["error"].(map[string]any); ok {
		answer = e
	}
	code, _ := answer["code"].(float64)
	return code
}

// wantEvents reads a watch until it told of v and then w.
func wantEvents(t *testing.T, what string, next func() ([]byte, error)) {
	t.Helper()
	var values []string
	for len(values) < 2 {
		line, err := next()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		var message struct {
			Result struct {
				Events []struct{ KV struct{ Value []byte } }
			}
		}
		if err := json.Unmarshal(line, &message); err != nil {
			t.Fatalf("%s: %v in %s", what, err, line)
		}
		for _, e := range message.Result.Events {
			values = append(values, string(e.KV.Value))
		}
	}
	if fmt.Sprint(values) != "[v w]" {
		t.Errorf("%s saw %v", what, values)
	}
}

// TestPortsOfHTTP: HTTP and metrics on ports of their own, several client URLs, one of them a unix socket.
func TestPortsOfHTTP(t *testing.T) {
	onlyKvd(t)
	c := newCluster(t, cluster.Options{})
	m := c.Members[0]
	var urls []string
	for range 2 {
		port, release, err := cluster.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		release()
		urls = append(urls, fmt.Sprintf("http://127.0.0.1:%d", port))
	}
	socket := filepath.Join(t.TempDir(), "client.sock")
	m.SetArgs("--listen-client-http-urls="+urls[0], "--listen-metrics-urls="+urls[1], "--listen-client-urls="+m.ClientURL+",unix://"+socket, "--log-level=debug")
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, patience)
	if err := m.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	get := func(c *http.Client, url string) int {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	defer http.DefaultClient.CloseIdleConnections()
	for url, want := range map[string]int{
		urls[0] + "/version": 200, urls[0] + "/health": 200, urls[0] + "/debug/requests": 200, urls[1] + "/version": 404, urls[1] + "/readyz": 200, urls[1] + "/metrics": 200,
		m.ClientURL + "/health": 0,
	} {
		if code := get(http.DefaultClient, url); code != want {
			t.Errorf("%s answers %d, not %d", url, code, want)
		}
	}
	if _, err := post(ctx, http.DefaultClient, urls[0]+"/v3/kv/put", fmt.Sprintf(`{"key":%q}`, b64("k"))); err != nil {
		t.Error(err)
	}
	out, err := run(t, binaries.etcdctl, "--endpoints=unix://"+socket, "get", "k", "--print-value-only")
	if err != nil {
		t.Errorf("etcdctl over a unix socket: %v\n%s", err, out)
	}
	if conn, err := net.Dial("unix", socket); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
}
