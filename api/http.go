package api

import (
	"context"
	"encoding/json"
	"expvar"
	"fmt"
	"maps"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"

	"github.com/kvd-io/kvd/version"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	etcd "go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"
)

// pages are the HTTP pages of the client port; those of a metrics port are
// fewer.
func (s *Server) pages(metricsOnly bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(prometheus.Gatherers{prometheus.DefaultGatherer, s.registry}, promhttp.HandlerOpts{}))
	mux.HandleFunc("/health", getOnly(s.healthPage))
	s.checks(mux, "/livez", map[string]healthCheck{"serializable_read": s.readCheck(true)})
	s.checks(mux, "/readyz", map[string]healthCheck{
		"data_corruption":   func(context.Context) error { return nil },
		"serializable_read": s.readCheck(true),
		"linearizable_read": s.readCheck(false),
		"non_learner":       s.learnerCheck,
	})
	if metricsOnly {
		return mux
	}
	mux.HandleFunc("/version", getOnly(s.versionPage))
	mux.Handle("/debug/vars", expvar.Handler())
	if s.cfg.EnablePprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
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

// health is etcd's older health page.
func (s *Server) healthPage(w http.ResponseWriter, r *http.Request) {
	serializable := r.URL.Query().Get("serializable") == "true"
	reason := ""
	if !serializable && s.cfg.Cluster.SequencerMember() == 0 {
		reason = "RAFT NO LEADER"
	} else if err := s.readCheck(serializable)(r.Context()); err != nil {
		reason = fmt.Sprintf("RANGE ERROR:%s", err)
	}
	// Strings always marshal.
	b, _ := json.Marshal(struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{fmt.Sprint(reason == ""), reason})
	if reason != "" {
		s.cfg.Logger.Warn("/health error", zap.String("output", string(b)), zap.Int("status-code", http.StatusServiceUnavailable))
		http.Error(w, string(b), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write(b)
}

type healthCheck func(ctx context.Context) error

// readCheck reads the first key, as etcd's checks do.
func (s *Server) readCheck(serializable bool) healthCheck {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
		defer cancel()
		_, err := s.cfg.Router.Range(ctx, &pb.RangeRequest{Key: []byte{0}, KeysOnly: true, Limit: 1, Serializable: serializable})
		return err
	}
}

func (s *Server) learnerCheck(context.Context) error {
	for _, m := range s.cfg.Cluster.Members() {
		if m.Id == s.cfg.Member && m.Learner {
			return fmt.Errorf("not supported for learner")
		}
	}
	return nil
}

// checks installs a page for all checks of a kind, and one for each.
func (s *Server) checks(mux *http.ServeMux, path string, all map[string]healthCheck) {
	mux.HandleFunc(path, getOnly(func(w http.ResponseWriter, r *http.Request) {
		names := slices.Sorted(maps.Keys(all))
		for _, out := range r.URL.Query()["exclude"] {
			names = slices.DeleteFunc(names, func(n string) bool { return n == out })
		}
		s.runChecks(w, r, path, names, all)
	}))
	for name := range all {
		mux.HandleFunc(path+"/"+name, getOnly(func(w http.ResponseWriter, r *http.Request) {
			s.runChecks(w, r, path+"/"+name, []string{name}, all)
		}))
	}
}

func (s *Server) runChecks(w http.ResponseWriter, r *http.Request, path string, names []string, all map[string]healthCheck) {
	var report strings.Builder
	failed := false
	for _, name := range names {
		if err := all[name](r.Context()); err != nil {
			failed = true
			fmt.Fprintf(&report, "[-]%s failed: %v\n", name, err)
		} else {
			fmt.Fprintf(&report, "[+]%s ok\n", name)
		}
	}
	if failed {
		s.cfg.Logger.Warn("health check error", zap.String("path", path), zap.String("reason", report.String()))
		http.Error(w, report.String(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if _, verbose := r.URL.Query()["verbose"]; verbose {
		fmt.Fprint(w, report.String())
	}
	fmt.Fprint(w, "ok\n")
}
