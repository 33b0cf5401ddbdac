package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/kvd-io/kvd/auth"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
)

// The kinds of checks, and their results, as labels of metrics.
const (
	livez, readyz        = "livez", "readyz"
	checkOK, checkFailed = "success", "error"
)

type healthCheck func(ctx context.Context) error

// healthPages installs /health, /livez and /readyz.
func (s *Server) healthPages(mux *http.ServeMux) {
	mux.HandleFunc("/health", getOnly(s.healthPage))
	s.checks(mux, livez, map[string]healthCheck{"serializable_read": s.readCheck(true)})
	s.checks(mux, readyz, map[string]healthCheck{
		"data_corruption":   s.corruptionCheck,
		"serializable_read": s.readCheck(true),
		"linearizable_read": s.readCheck(false),
		"non_learner":       s.learnerCheck,
	})
}

// healthPage is etcd's older health page: alarms, then the leader, then a read.
func (s *Server) healthPage(w http.ResponseWriter, r *http.Request) {
	serializable := r.URL.Query().Get("serializable") == "true"
	reason := s.alarmReason(r.URL.Query()["exclude"])
	if reason == "" && !serializable && s.cfg.Cluster.SequencerMember() == 0 {
		reason = "RAFT NO LEADER"
	}
	if reason == "" {
		if err := s.readCheck(serializable)(r.Context()); err != nil {
			reason = fmt.Sprintf("RANGE ERROR:%s", err)
		}
	}
	// Strings always marshal.
	b, _ := json.Marshal(struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{fmt.Sprint(reason == ""), reason})
	if reason != "" {
		s.meters.unhealthy.Add(1)
		s.cfg.Logger.Warn("/health error", zap.String("output", string(b)), zap.Int("status-code", http.StatusServiceUnavailable))
		http.Error(w, string(b), http.StatusServiceUnavailable)
		return
	}
	s.meters.healthy.Add(1)
	// A client that is gone need not be told.
	_, _ = w.Write(b)
}

// alarmReason names the first alarm that is not excluded.
func (s *Server) alarmReason(excluded []string) string {
	for _, alarm := range s.cfg.Alarms() {
		name := alarm.Alarm.String()
		if slices.Contains(excluded, name) {
			continue
		}
		switch alarm.Alarm {
		case pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT:
			return "ALARM " + name
		}
		return "ALARM UNKNOWN"
	}
	return ""
}

// readCheck reads the first key, as etcd's checks do. It asks the router, behind
// whatever checks the permissions of clients.
func (s *Server) readCheck(serializable bool) healthCheck {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
		defer cancel()
		_, err := s.cfg.Router.Range(auth.Exempt(ctx), &pb.RangeRequest{Key: []byte{0}, KeysOnly: true, Limit: 1, Serializable: serializable})
		return err
	}
}

func (s *Server) corruptionCheck(context.Context) error {
	for _, alarm := range s.cfg.Alarms() {
		if alarm.Alarm == pb.AlarmType_CORRUPT {
			return fmt.Errorf("alarm activated: %s", alarm.Alarm)
		}
	}
	return nil
}

func (s *Server) learnerCheck(context.Context) error {
	if s.isLearner() {
		return fmt.Errorf("not supported for learner")
	}
	return nil
}

func (s *Server) isLearner() bool {
	for _, m := range s.cfg.Cluster.Members() {
		if m.Id == s.cfg.Member {
			return m.Learner
		}
	}
	return false
}

// checks installs a page for all checks of a kind, and one for each.
func (s *Server) checks(mux *http.ServeMux, kind string, all map[string]healthCheck) {
	path := "/" + kind
	mux.HandleFunc(path, getOnly(func(w http.ResponseWriter, r *http.Request) {
		var unknown []string
		names := slices.Sorted(maps.Keys(all))
		for _, out := range r.URL.Query()["exclude"] {
			if out != "" && all[out] == nil {
				unknown = append(unknown, out)
			}
			names = slices.DeleteFunc(names, func(n string) bool { return n == out })
		}
		if len(unknown) > 0 {
			s.cfg.Logger.Warn("some health checks cannot be excluded", zap.Strings("missing-health-checks", unknown))
		}
		s.runChecks(w, r, kind, names, all)
	}))
	for name := range all {
		mux.HandleFunc(path+"/"+name, getOnly(func(w http.ResponseWriter, r *http.Request) {
			s.runChecks(w, r, kind, []string{name}, all)
		}))
	}
}

func (s *Server) runChecks(w http.ResponseWriter, r *http.Request, kind string, names []string, all map[string]healthCheck) {
	var report strings.Builder
	failed := false
	for _, name := range names {
		err := all[name](r.Context())
		s.meters.checked(kind, name, err)
		if err != nil {
			failed = true
			fmt.Fprintf(&report, "[-]%s failed: %v\n", name, err)
		} else {
			fmt.Fprintf(&report, "[+]%s ok\n", name)
		}
	}
	if failed {
		s.cfg.Logger.Warn("health check error", zap.String("path", r.URL.Path), zap.String("reason", report.String()))
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
