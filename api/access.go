package api

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"go.etcd.io/etcd/pkg/v3/httputil"
	"go.uber.org/zap"
)

// access guards the HTTP pages of the client port, as etcd does: it rewrites
// paths of old clients, refuses foreign host names, and answers CORS.
type access struct {
	next  http.Handler
	log   *zap.Logger
	cors  nameSet
	hosts nameSet
	// nameless says that calls of the gateway run without the name in the client's
	// certificate, which would surprise who relies on it.
	nameless func() bool
}

// nameSet is a set of names; an empty one and one with "*" hold everything.
type nameSet []string

func (s nameSet) everything() bool { return len(s) == 0 || slices.Contains(s, "*") }

func (s nameSet) has(name string) bool { return s.everything() || slices.Contains(s, name) }

// ServeHTTP implements http.Handler.
func (a *access) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if state, ok := r.Context().Value(tlsStateKey{}).(*tls.ConnectionState); ok {
		r.TLS = state
	}
	if strings.HasPrefix(r.URL.Path, "/v3beta/") {
		r.URL.Path = strings.Replace(r.URL.Path, "/v3beta/", "/v3/", 1)
	}
	if r.TLS == nil {
		// A page in a browser can make a name of its own resolve to this member
		// (CVE-2018-5702). Over TLS it would need the member's certificate.
		if host := httputil.GetHostname(r); !a.hosts.has(host) {
			a.log.Warn("rejecting HTTP request to prevent DNS rebinding attacks", zap.String("host", host))
			http.Error(w, foreignHost(host), http.StatusMisdirectedRequest)
			return
		}
	} else if strings.HasPrefix(r.URL.Path, "/v3/") && named(r) && a.nameless() {
		http.Error(w, "CommonName of client sending a request against gateway will be ignored and not used as expected", http.StatusBadRequest)
		return
	}
	origin := "*"
	if !a.cors.everything() {
		origin = r.Header.Get("Origin")
	}
	if origin != "" && a.cors.has(origin) {
		h := w.Header()
		h.Add("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
		h.Add("Access-Control-Allow-Origin", origin)
		h.Add("Access-Control-Allow-Headers", "accept, content-type, authorization")
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusOK)
		return
	}
	a.next.ServeHTTP(w, r)
}

// tlsStateKey is the key of a connection's *tls.ConnectionState.
type tlsStateKey struct{}

// withTLSState is for connections whose first bytes were read already: net/http
// does not see that there is TLS beneath.
func withTLSState(ctx context.Context, conn net.Conn) context.Context {
	if begun, ok := conn.(*begunConn); ok {
		if secure, ok := begun.Conn.(*tls.Conn); ok {
			state := secure.ConnectionState()
			return context.WithValue(ctx, tlsStateKey{}, &state)
		}
	}
	return ctx
}

// named says whether the client showed a certificate with a common name.
func named(r *http.Request) bool {
	for _, chain := range r.TLS.VerifiedChains {
		if len(chain) > 0 && chain[0].Subject.CommonName != "" {
			return true
		}
	}
	return false
}

func foreignHost(host string) string {
	return fmt.Sprintf(`
kvd received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. kvd --host-whitelist %q

This requirement has been added to help prevent "DNS Rebinding" attacks (CVE-2018-5702).
`, host)
}
