package api

import (
	"encoding/json"
	"expvar"
	"net/http"
	"net/http/pprof"

	"github.com/kvd-io/kvd/version"
	etcd "go.etcd.io/etcd/api/v3/version"
	"golang.org/x/net/trace"
)

// pages are the HTTP pages of the client port; those of a metrics port are
// fewer.
func (s *Server) pages(metricsOnly bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", s.metricsPage())
	s.healthPages(mux)
	if metricsOnly {
		return mux
	}
	mux.HandleFunc("/version", getOnly(s.versionPage))
	mux.Handle("/debug/vars", getOnly(expvar.Handler().ServeHTTP))
	if s.cfg.Debug {
		mux.HandleFunc("/debug/requests", trace.Traces)
		mux.HandleFunc("/debug/events", trace.Events)
	}
	if s.cfg.EnablePprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	if s.cfg.LogLevel != nil {
		mux.Handle("/config/local/log", logLevelPage(s.cfg.LogLevel, s.cfg.Logger))
	}
	if s.gateway != nil {
		mux.Handle("/v3/", s.gateway.handler(s.cfg.Logger))
	}
	return &access{
		next: mux, log: s.cfg.Logger, cors: s.cfg.CORS, hosts: s.cfg.HostWhitelist,
		nameless: func() bool { return s.gateway != nil && s.cfg.CertificateNames() },
	}
}

func getOnly(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		f(w, r)
	}
}

func (s *Server) versionPage(w http.ResponseWriter, _ *http.Request) {
	v := etcd.Versions{Server: version.Etcd(), Cluster: version.Cluster(), Storage: version.Cluster()}
	w.Header().Set("Content-Type", "application/json")
	// Strings always marshal, and a client that is gone need not be told.
	b, _ := json.Marshal(&v)
	_, _ = w.Write(b)
}
