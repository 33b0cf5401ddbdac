package api

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
)

// post sends JSON to the gateway.
func (f *fixture) post(path, body string, headers ...string) (int, string, http.Header) {
	f.t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+f.addr+path, strings.NewReader(body))
	require.NoError(f.t, err)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(f.t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(f.t, err)
	return resp.StatusCode, string(answer), resp.Header
}

func withGateway(c *Config) { c.Gateway = true }

func TestGatewaySpeaksEtcdsJSON(t *testing.T) {
	f := newFixture(t, withGateway)
	defer http.DefaultClient.CloseIdleConnections()
	const header = `"header":{"cluster_id":"1152921504606846976", "member_id":"5", "revision":"2", "raft_term":"42"}`
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
	code, body, head := f.post("/v3/kv/put", `{"key":"Zm9v","value":"YmFy","unknown_field":1}`)
	require.Equal(t, 200, code, body)
	require.Equal(t, squeeze(`{`+header+`}`), squeeze(body))
	require.Equal(t, "application/json", head.Get("Content-Type"))
	require.Equal(t, "*", head.Get("Access-Control-Allow-Origin"))
	for _, path := range []string{"/v3/kv/range", "/v3beta/kv/range"} {
		code, body, _ = f.post(path, `{"key":"Zm9v"}`)
		require.Equal(t, 200, code, body)
		require.Equal(t, squeeze(`{`+header+`,"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}],"count":"1"}`), squeeze(body))
	}
	code, body, _ = f.post("/v3/kv/put", `{"value":"YmFy"}`)
	require.Equal(t, http.StatusBadRequest, code)
	require.JSONEq(t, `{"code":3,"message":"etcdserver: key is not provided"}`, body)
	code, _, _ = f.post("/v3/kv/put", `{"key":`)
	require.Equal(t, http.StatusBadRequest, code)
	code, _, _ = f.post("/v3/kv/nothing", `{}`)
	require.Equal(t, http.StatusNotFound, code)
	code, _, _ = f.post("/v3/kv/put", `{"key":"Zm9v"}`, "Authorization", "secret.1")
	require.Equal(t, 200, code)
	f.router.mu.Lock()
	require.Equal(t, []string{"secret.1"}, f.router.told.Get("authorization"), "a token travels as etcd's server reads it")
	f.router.mu.Unlock()
	// What the gateway does not know is a call of gRPC like any other.
	require.Equal(t, uint64(3), f.server.stats.kv[statPut].begun.Load())
}

// openWatch makes the hub's one shard.
func (f *fixture) openWatch() {
	f.hub.Opened(1, &kvdpb.Descriptor{Shard: 1, Start: keyspace.Min(), End: keyspace.Max(), Generation: 1}, 1, 1)
}

// created is the first message of a watch through the gateway.
type created struct {
	Result struct {
		Header  struct{ Revision string }
		Created bool
		WatchID string `json:"watch_id"`
	}
}

func TestGatewayStreamsOverHTTP(t *testing.T) {
	f := newFixture(t, withGateway)
	f.openWatch()
	defer http.DefaultClient.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+f.addr+"/v3/watch", strings.NewReader(`{"create_request":{"key":"Zm9v"}}`))
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadBytes('\n')
	require.NoError(t, err)
	var first created
	require.NoError(t, json.Unmarshal(line, &first), string(line))
	require.True(t, first.Result.Created)
}

func TestGatewayStreamsOverWebsocket(t *testing.T) {
	serverCert, serverPool := certificate(t, "server")
	for _, scheme := range []string{"ws", "wss"} {
		f := newFixture(t, func(c *Config) {
			c.Gateway = true
			if c.Ports[0].Secure = scheme == "wss"; c.Ports[0].Secure {
				c.TLS = &tls.Config{Certificates: []tls.Certificate{serverCert}, MinVersion: tls.VersionTLS12}
			}
		})
		f.openWatch()
		dialer := websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: serverPool}}
		conn, resp, err := dialer.Dial(scheme+"://"+f.addr+"/v3/watch", nil)
		require.NoError(t, err, scheme)
		require.NoError(t, resp.Body.Close())
		require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte(`{"create_request":{"key":"Zm9v","watch_id":"7"}}`)))
		var message created
		require.NoError(t, conn.ReadJSON(&message))
		require.True(t, message.Result.Created)
		require.Equal(t, "7", message.Result.WatchID)
		require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte(`{"progress_request":{}}`)))
		require.NoError(t, conn.ReadJSON(&message))
		require.NoError(t, conn.Close())
	}
}

func TestForeignHostsAndOrigins(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		c.Gateway, c.HostWhitelist, c.CORS = true, []string{"127.0.0.1", "good.example"}, []string{"https://good.example"}
	})
	defer http.DefaultClient.CloseIdleConnections()
	code, body, _ := f.post("/v3/kv/put", `{"key":"Zm9v"}`, "Host", "evil.example:80")
	require.Equal(t, http.StatusMisdirectedRequest, code)
	require.Contains(t, body, `--host-whitelist "evil.example"`)
	code, _, head := f.post("/v3/kv/put", `{"key":"Zm9v"}`, "Host", "good.example", "Origin", "https://good.example")
	require.Equal(t, 200, code)
	require.Equal(t, "https://good.example", head.Get("Access-Control-Allow-Origin"))
	code, _, head = f.post("/v3/kv/put", `{"key":"Zm9v"}`, "Origin", "https://evil.example")
	require.Equal(t, 200, code)
	require.Empty(t, head.Get("Access-Control-Allow-Origin"))
	req, err := http.NewRequest(http.MethodOptions, "http://"+f.addr+"/v3/kv/put", nil)
	require.NoError(t, err)
	req.Header.Set("Origin", "https://good.example")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "accept, content-type, authorization", resp.Header.Get("Access-Control-Allow-Headers"))
}

func TestCertificateNamesAreNotForTheGateway(t *testing.T) {
	serverCert, serverPool := certificate(t, "server")
	clientCert, clientPool := certificate(t, "client")
	names := false
	f := newFixture(t, func(c *Config) {
		c.Gateway, c.CertificateNames = true, func() bool { return names }
		c.Ports[0].Secure = true
		c.TLS = &tls.Config{Certificates: []tls.Certificate{serverCert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clientPool, MinVersion: tls.VersionTLS12}
	})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: serverPool, Certificates: []tls.Certificate{clientCert}}}}
	defer client.CloseIdleConnections()
	for _, names = range []bool{false, true} {
		resp, err := client.Post("https://"+f.addr+"/v3/kv/put", "application/json", strings.NewReader(`{"key":"Zm9v"}`))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		want := http.StatusOK
		if names {
			want = http.StatusBadRequest
		}
		require.Equal(t, want, resp.StatusCode)
	}
}

func TestWithoutGateway(t *testing.T) {
	f := newFixture(t, nil)
	defer http.DefaultClient.CloseIdleConnections()
	code, _, _ := f.post("/v3/kv/put", `{"key":"Zm9v"}`)
	require.Equal(t, http.StatusNotFound, code)
}
