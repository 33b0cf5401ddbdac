package api

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// ask sends a request without the gateway's headers.
func (f *fixture) ask(method, path, body string) (int, string) {
	f.t.Helper()
	req, err := http.NewRequest(method, "http://"+f.addr+path, strings.NewReader(body))
	require.NoError(f.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded") // as curl does
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(f.t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(f.t, err)
	return resp.StatusCode, string(answer)
}

func TestAlarmsAreUnhealthy(t *testing.T) {
	var alarms []*pb.AlarmMember
	f := newFixture(t, func(c *Config) { c.Alarms = func() []*pb.AlarmMember { return alarms } })
	defer http.DefaultClient.CloseIdleConnections()
	for _, row := range []struct {
		alarms []pb.AlarmType
		path   string
		code   int
		body   string
	}{
		{nil, "/health", 200, `{"health":"true","reason":""}`},
		{[]pb.AlarmType{pb.AlarmType_NOSPACE}, "/health", 503, `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{[]pb.AlarmType{pb.AlarmType_NOSPACE}, "/health?serializable=true", 503, `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{[]pb.AlarmType{pb.AlarmType_NOSPACE}, "/health?exclude=NOSPACE&serializable=true", 200, `{"health":"true","reason":""}`},
		{[]pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT}, "/health?exclude=NOSPACE", 503, `{"health":"false","reason":"ALARM CORRUPT"}` + "\n"},
		{[]pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT}, "/health?exclude=NOSPACE&exclude=CORRUPT", 200, `{"health":"true","reason":""}`},
		{[]pb.AlarmType{99}, "/health", 503, `{"health":"false","reason":"ALARM UNKNOWN"}` + "\n"},
		{[]pb.AlarmType{pb.AlarmType_NOSPACE}, "/readyz", 200, "ok\n"},
		{[]pb.AlarmType{pb.AlarmType_CORRUPT}, "/livez", 200, "ok\n"},
		{[]pb.AlarmType{pb.AlarmType_CORRUPT}, "/readyz/data_corruption", 503, "[-]data_corruption failed: alarm activated: CORRUPT\n\n"},
		{[]pb.AlarmType{pb.AlarmType_CORRUPT}, "/readyz?exclude=data_corruption&exclude=nonsense", 200, "ok\n"},
	} {
		alarms = nil
		for _, a := range row.alarms {
			alarms = append(alarms, &pb.AlarmMember{MemberID: 5, Alarm: a})
		}
		code, body := f.ask(http.MethodGet, row.path, "")
		require.Equal(t, row.code, code, row)
		require.Equal(t, row.body, body, row)
	}
	code, body := f.ask(http.MethodGet, "/metrics", "")
	require.Equal(t, 200, code)
	for _, line := range []string{
		"etcd_server_health_success 3", "etcd_server_health_failures 4",
		`etcd_server_healthcheck{name="data_corruption",type="readyz"} 0`,
		`etcd_server_healthchecks_total{name="data_corruption",status="error",type="readyz"} 1`,
	} {
		require.Contains(t, body, line+"\n")
	}
}

func TestLearnersAreNotReady(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Member = 6 })
	defer http.DefaultClient.CloseIdleConnections()
	code, body := f.ask(http.MethodGet, "/readyz?verbose", "")
	require.Equal(t, 503, code)
	require.Contains(t, body, "[-]non_learner failed: not supported for learner\n[+]serializable_read ok\n")
	code, _ = f.ask(http.MethodGet, "/livez", "")
	require.Equal(t, 200, code)
}

func TestLogLevelChangesAtRunTime(t *testing.T) {
	level := zap.NewAtomicLevelAt(zap.InfoLevel)
	core, logs := observer.New(level)
	f := newFixture(t, func(c *Config) { c.Logger, c.LogLevel = zap.New(core), &level })
	defer http.DefaultClient.CloseIdleConnections()
	code, body := f.ask(http.MethodGet, "/config/local/log", "")
	require.Equal(t, 200, code)
	require.JSONEq(t, `{"level":"info"}`, body)
	code, body = f.ask(http.MethodPut, "/config/local/log", `{"Level":"DEBUG"}`)
	require.Equal(t, 200, code, body)
	require.Equal(t, zap.DebugLevel, level.Level())
	require.Equal(t, 1, logs.FilterMessage("changed the log level").Len())
	for _, bad := range []string{`{"level":"loud"}`, "", strings.Repeat("x", 2*maxLevelBytes)} {
		code, _ = f.ask(http.MethodPut, "/config/local/log", bad)
		require.Equal(t, 400, code, bad)
	}
	code, _ = f.ask(http.MethodDelete, "/config/local/log", "")
	require.Equal(t, 405, code)
	require.Equal(t, zap.DebugLevel, level.Level())
}

func TestDebugPages(t *testing.T) {
	for _, debug := range []bool{false, true} {
		f := newFixture(t, func(c *Config) { c.Debug = debug })
		want := 404
		if debug {
			want = 200
		}
		for _, path := range []string{"/debug/requests", "/debug/events"} {
			code, _ := f.ask(http.MethodGet, path, "")
			require.Equal(t, want, code, path)
		}
		code, body := f.ask(http.MethodGet, "/debug/vars", "")
		require.Equal(t, 200, code)
		require.Contains(t, body, `"memstats"`)
		code, _ = f.ask(http.MethodGet, "/debug/pprof/", "")
		require.Equal(t, 404, code)
		http.DefaultClient.CloseIdleConnections()
	}
}
