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

// TestGateway: JSON alone is enough to put, get and watch, by stream and by websocket, with TLS and without.
func TestGateway(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("secure=%v", secure), func(t *testing.T) {
			o := cluster.Options{}
			var conf *tls.Config
			if secure {
				certs, err := cluster.NewCerts(t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				o.ClientTLS = certs
				if conf, err = certs.ClientConfig(); err != nil {
					t.Fatal(err)
				}
			}
			c := startCluster(t, o)
			testGateway(t, c.Members[0].ClientURL, &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}, conf)
		})
	}
}

func testGateway(t *testing.T, url string, c *http.Client, conf *tls.Config) {
	defer c.CloseIdleConnections()
	ctx := within(t, 30*time.Second)
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
	ctx := within(t, 30*time.Second)
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
