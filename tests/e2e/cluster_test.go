package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// testMemberListAndStatus: all members tell the same story about the cluster.
func testMemberListAndStatus(t *testing.T, e *env, p string) {
	e.put(t, p+"a", "1")
	ids := map[uint64]string{}
	var first string
	for m, cli := range e.pinned {
		list, err := cli.MemberList(within(t, patience))
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(list.Members, func(a, b *etcdserverpb.Member) int { return strings.Compare(a.Name, b.Name) })
		var lines []string
		for i, lm := range list.Members {
			if i >= len(e.cluster.Members) {
				t.Fatalf("%d members", len(list.Members))
			}
			cm := e.cluster.Members[i]
			if lm.Name != cm.Name || fmt.Sprint(lm.ClientURLs) != fmt.Sprint([]string{cm.ClientURL}) || fmt.Sprint(lm.PeerURLs) != fmt.Sprint([]string{cm.PeerURL}) || lm.IsLearner || lm.ID == 0 {
				t.Errorf("member %v, want %s with %s and %s", lm, cm.Name, cm.ClientURL, cm.PeerURL)
			}
			ids[lm.ID] = lm.Name
			lines = append(lines, lm.String())
		}
		all := fmt.Sprint(list.Header.ClusterId, lines)
		if m == 0 {
			first = all
		} else if all != first {
			t.Errorf("member %d says\n%s\nmember 1 says\n%s", m+1, all, first)
		}
		if ids[list.Header.MemberId] != e.cluster.Members[m].Name {
			t.Errorf("header of member %d has member id %x", m+1, list.Header.MemberId)
		}
	}
	if len(ids) != 3 {
		t.Errorf("%d member ids", len(ids))
	}
	lastIndex := make([]uint64, len(e.pinned))
	for range 3 {
		var leader uint64
		for m, cli := range e.pinned {
			st, err := cli.Status(within(t, patience), e.cluster.Members[m].ClientURL)
			if err != nil {
				t.Fatal(err)
			}
			if ids[st.Leader] == "" || leader != 0 && st.Leader != leader {
				t.Errorf("member %d names leader %x, another %x", m+1, st.Leader, leader)
			}
			leader = st.Leader
			if !strings.HasPrefix(st.Version, "3.7.") || st.DbSize <= 0 || st.DbSizeInUse <= 0 || st.DbSizeInUse > st.DbSize || st.RaftTerm == 0 || st.IsLearner || len(st.Errors) > 0 {
				t.Errorf("status of member %d: %v", m+1, st)
			}
			if st.RaftAppliedIndex > st.RaftIndex || st.RaftAppliedIndex < lastIndex[m] || st.RaftAppliedIndex == 0 {
				t.Errorf("member %d: raft index %d, applied %d after %d", m+1, st.RaftIndex, st.RaftAppliedIndex, lastIndex[m])
			}
			lastIndex[m] = st.RaftAppliedIndex
			if st.Header.MemberId == 0 || ids[st.Header.MemberId] != e.cluster.Members[m].Name {
				t.Errorf("status of member %d comes from %x", m+1, st.Header.MemberId)
			}
		}
		e.put(t, p+"a", "again")
	}
	// Every answer names the cluster, the member and the term.
	h := e.get(t, p+"a").Header
	if h.ClusterId == 0 || ids[h.MemberId] == "" || h.RaftTerm == 0 {
		t.Errorf("header %v", h)
	}
}

// testHealth: over gRPC and over HTTP.
func testHealth(t *testing.T, e *env, _ string) {
	for m, cli := range e.pinned {
		resp, err := grpc_health_v1.NewHealthClient(cli.ActiveConnection()).Check(within(t, patience), &grpc_health_v1.HealthCheckRequest{})
		if err != nil || resp.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("member %d: %v, %v", m+1, resp, err)
		}
	}
	for _, m := range e.cluster.Members {
		req, err := http.NewRequestWithContext(within(t, patience), http.MethodGet, m.ClientURL+"/health", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || strings.TrimSpace(string(body)) != `{"health":"true","reason":""}` {
			t.Errorf("health of %s: %s %s %v", m.Name, resp.Status, body, err)
		}
	}
}

// testEtcdctl runs the stock etcdctl and compares what it prints.
func testEtcdctl(t *testing.T, e *env, p string) {
	e.split(t, p+"b")
	ctl := func(input string, args ...string) string {
		t.Helper()
		out, err := runInput(t, input, binaries.etcdctl, append([]string{"--endpoints=" + strings.Join(e.cluster.Endpoints(), ",")}, args...)...)
		if err != nil {
			t.Fatalf("etcdctl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s printed\n%q, want\n%q", what, got, want)
		}
	}
	expect("put", ctl("", "put", p+"a", "1"), "OK\n")
	expect("put from stdin", ctl("line\n", "put", p+"b"), "OK\n")
	expect("put --prev-kv", ctl("", "put", p+"a", "2", "--prev-kv"), "OK\n"+p+"a\n1\n")
	expect("get", ctl("", "get", p+"a"), p+"a\n2\n")
	expect("get --print-value-only", ctl("", "get", p+"a", "--print-value-only"), "2\n")
	expect("get --prefix --keys-only", ctl("", "get", p, "--prefix", "--keys-only"), p+"a\n\n"+p+"b\n\n")
	expect("get range --order", ctl("", "get", p+"a", p+"z", "--order=DESCEND", "--sort-by=KEY", "--limit=1", "--keys-only"), p+"b\n\n")
	if out := ctl("", "get", p, "--prefix", "--count-only", "--write-out=fields"); !strings.Contains(out, "\"Count\" : 2\n") {
		t.Errorf("get --count-only printed\n%s", out)
	}
	rev := e.revision(t)
	expect("get --rev", ctl("", "get", p+"a", "--rev", fmt.Sprint(rev-1), "--print-value-only"), "1\n")
	expect("txn", ctl("value(\""+p+"a\") = \"2\"\n\nput "+p+"a 3\nget "+p+"a\n\nget "+p+"a\n\n", "txn"), "SUCCESS\n\nOK\n\n"+p+"a\n3\n")
	expect("txn, other branch", ctl("value(\""+p+"a\") = \"2\"\n\nput "+p+"a 3\n\nget "+p+"a\n\n", "txn"), "FAILURE\n\n"+p+"a\n3\n")
	expect("del", ctl("", "del", p+"b"), "1\n")
	expect("del of nothing", ctl("", "del", p+"b"), "0\n")
	expect("del --prev-kv", ctl("", "del", p+"a", "--prev-kv"), "1\n"+p+"a\n3\n")

	var js struct {
		Kvs   []struct{ Key, Value []byte }
		Count int64
	}
	e.put(t, p+"c", "c")
	if err := json.Unmarshal([]byte(ctl("", "get", p, "--prefix", "-w", "json")), &js); err != nil || js.Count != 1 || len(js.Kvs) != 1 || string(js.Kvs[0].Value) != "c" {
		t.Errorf("get -w json: %+v, %v", js, err)
	}
	member := regexp.MustCompile(`(?m)^[0-9a-f]{1,16}, started, m[123], http://127\.0\.0\.1:\d+, http://127\.0\.0\.1:\d+, false$`)
	if out := ctl("", "member", "list"); len(member.FindAllString(out, -1)) != 3 {
		t.Errorf("member list printed\n%s", out)
	}
	if out := ctl("", "endpoint", "health"); strings.Count(out, "is healthy: successfully committed proposal: took = ") != 3 {
		t.Errorf("endpoint health printed\n%s", out)
	}
	status := ctl("", "endpoint", "status", "-w", "json")
	var sts []struct {
		Endpoint string
		Status   struct {
			Version string
			Leader  uint64
		}
	}
	if err := json.Unmarshal([]byte(status), &sts); err != nil || len(sts) != 3 || !strings.HasPrefix(sts[0].Status.Version, "3.7.") || sts[0].Status.Leader == 0 {
		t.Errorf("endpoint status: %v\n%s", err, status)
	}
	out, err := run(t, binaries.etcdctl, "--endpoints="+e.cluster.Members[0].ClientURL, "get", "")
	if err == nil {
		t.Errorf("get of an empty key printed\n%s", out)
	}
	// A watch, from an old revision until it has seen what there is.
	start := e.put(t, p+"w", "1")
	e.put(t, p+"w", "2")
	e.del(t, p+"w")
	expect("watch", watchUntil(t, e, p+"w", start, 9), "PUT\n"+p+"w\n1\nPUT\n"+p+"w\n2\nDELETE\n"+p+"w\n\n")
	rev = e.revision(t)
	expect("compaction", ctl("", "compaction", fmt.Sprint(rev)), fmt.Sprintf("compacted revision %d\n", rev))
	if out, err := run(t, binaries.etcdctl, "--endpoints="+e.cluster.Members[0].ClientURL, "get", p, "--rev", fmt.Sprint(rev-1)); err == nil || !strings.Contains(out, "required revision has been compacted") {
		t.Errorf("get of a compacted revision: %v\n%s", err, out)
	}
}

// watchUntil runs etcdctl watch and gives what it printed when that is so many lines.
func watchUntil(t *testing.T, e *env, key string, rev int64, lines int) string {
	t.Helper()
	cmd := exec.CommandContext(within(t, patience), binaries.etcdctl, "--endpoints="+strings.Join(e.cluster.Endpoints(), ","), "watch", key, "--rev", fmt.Sprint(rev))
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	var out strings.Builder
	for r := bufio.NewReader(pipe); lines > 0; lines-- {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("etcdctl watch ended after\n%s", out.String())
		}
		out.WriteString(line)
	}
	return out.String()
}

// waitFor repeats a linearizable read through a client until it is answered.
func waitFor(t *testing.T, cli *clientv3.Client) {
	t.Helper()
	eventually(t, patience, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		_, err := cli.Get(ctx, "no such key")
		return err
	})
}
