package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	etcd "go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

func TestRequestsAndHeaders(t *testing.T) {
	f := newFixture(t, nil)
	ctx := context.Background()
	head := func(h *pb.ResponseHeader, rev int64) {
		t.Helper()
		require.Equal(t, uint64(1<<60), h.ClusterId)
		require.Equal(t, uint64(5), h.MemberId)
		require.Equal(t, uint64(42), h.RaftTerm)
		require.Equal(t, rev, h.Revision)
	}
	for i := range 4 { // both kinds of answers of the fake
		value := strings.Repeat("v", 1+i*3000)
		p, err := f.client.Put(ctx, "k", value)
		require.NoError(t, err)
		head(p.Header, int64(i+2))
		for range 2 {
			g, err := f.client.Get(ctx, "k")
			require.NoError(t, err)
			head(g.Header, int64(i+2))
			require.Equal(t, value, string(g.Kvs[0].Value))
			require.Equal(t, int64(1), g.Count)
		}
	}
	p, err := f.client.Put(ctx, "k", "w", clientv3.WithPrevKV())
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("v", 9001), string(p.PrevKv.Value))
	txn, err := f.client.Txn(ctx).If(clientv3.Compare(clientv3.Value("k"), "=", "w")).Then(clientv3.OpPut("a", "")).Commit()
	require.NoError(t, err)
	require.True(t, txn.Succeeded)
	require.Len(t, txn.Responses, 1)
	d, err := f.client.Delete(ctx, "k")
	require.NoError(t, err)
	head(d.Header, 7)
	c, err := f.client.Compact(ctx, 3)
	require.NoError(t, err)
	head(c.Header, 7)
}

func TestChecksAreEtcds(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxRequestBytes, c.MaxTxnOps = 1000, 2 })
	ctx := context.Background()
	kv := pb.NewKVClient(f.client.ActiveConnection())
	big := make([]byte, 1000)
	code := func(err error, want error) {
		t.Helper()
		require.Equal(t, status.Code(want), status.Code(err))
		require.Equal(t, rpctypes.ErrorDesc(want), rpctypes.ErrorDesc(err))
	}
	_, err := kv.Put(ctx, &pb.PutRequest{})
	code(err, rpctypes.ErrGRPCEmptyKey)
	_, err = kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), SortOrder: 7})
	code(err, rpctypes.ErrGRPCInvalidSortOption)
	_, err = kv.Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: big})
	code(err, rpctypes.ErrGRPCRequestTooLarge)
	_, err = kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: big})
	code(err, rpctypes.ErrGRPCRequestTooLarge)
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a"), Value: big}}}
	get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: big}}}
	_, err = kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{put}})
	code(err, rpctypes.ErrGRPCRequestTooLarge)
	_, err = kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{get}})
	require.NoError(t, err, "reads are not held to the size of writes")
	_, err = kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{put, put}})
	code(err, rpctypes.ErrGRPCDuplicateKey)
	_, err = kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{get, get, get}})
	code(err, rpctypes.ErrGRPCTooManyOps)
	_, err = kv.Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: make([]byte, 600<<10)})
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "gRPC refuses what exceeds the overhead too")
	f.router.err = rpctypes.ErrGRPCNoSpace
	_, err = kv.Put(ctx, &pb.PutRequest{Key: []byte("a")})
	code(err, rpctypes.ErrGRPCNoSpace)
	require.NotZero(t, f.server.stats.kv[statPut].ended[codes.ResourceExhausted].Load())
}

func TestRangeStream(t *testing.T) {
	f := newFixture(t, nil)
	ctx := context.Background()
	for i := range 5 {
		_, err := f.client.Put(ctx, fmt.Sprint("k", i), strings.Repeat("v", i*2000))
		require.NoError(t, err)
	}
	kv := pb.NewKVClient(f.client.ActiveConnection())
	stream, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	require.NoError(t, err)
	var all []*mvccpb.KeyValue
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		all = append(all, m.RangeResponse.Kvs...)
		if m.RangeResponse.Header != nil {
			require.Equal(t, uint64(5), m.RangeResponse.Header.MemberId)
			require.Equal(t, int64(5), m.RangeResponse.Count)
		}
	}
	require.Len(t, all, 5)
	require.Len(t, all[4].Value, 8000)
	stream, err = kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte("k"), SortOrder: pb.RangeRequest_DESCEND})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.Equal(t, codes.Unimplemented, status.Code(err))
}

func TestWatch(t *testing.T) {
	f := newFixture(t, nil)
	d := &kvdpb.Descriptor{Shard: 1, Start: keyspace.Min(), End: keyspace.Max(), Generation: 1}
	f.hub.Opened(1, d, 1, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// A watch is in memory's reach a moment after the client hears that it is created.
	// What is applied before is read from disk, which the fixture has not, unless
	// another watch made memory keep it: one that was created before on this stream.
	require.True(t, (<-f.client.Watch(ctx, "other", clientv3.WithCreatedNotify())).Created)
	events := f.client.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	created := <-events
	require.True(t, created.Created)
	require.Equal(t, uint64(5), created.Header.MemberId)
	large := strings.Repeat("v", 10000)
	for rev, value := range []string{"small", large} {
		key := keyspace.User([]byte("k"))
		f.hub.Applied(1, uint64(rev+2), []shard.Event{{Revision: int64(rev + 2), KV: &mvccpb.KeyValue{Key: key, Value: []byte(value), ModRevision: int64(rev + 2), CreateRevision: 2, Version: 1}}})
		got := <-events
		require.Len(t, got.Events, 1)
		require.Equal(t, value, string(got.Events[0].Kv.Value))
		require.Equal(t, "k", string(got.Events[0].Kv.Key))
		require.Equal(t, int64(rev+2), got.Header.Revision)
	}
	cancel()
	for range events {
	}
}

func TestRequireLeader(t *testing.T) {
	f := newFixture(t, nil)
	f.hub.Opened(1, &kvdpb.Descriptor{Shard: 1, Start: keyspace.Min(), End: keyspace.Max(), Generation: 1}, 1, 1)
	ctx := clientv3.WithRequireLeader(context.Background())
	stream, err := pb.NewWatchClient(f.client.ActiveConnection()).Watch(ctx)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}}))
	_, err = stream.Recv()
	require.NoError(t, err)
	f.cluster.setLeader(0)
	_, err = stream.Recv()
	require.Equal(t, rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader), rpctypes.ErrorDesc(err))

	_, err = pb.NewKVClient(f.client.ActiveConnection()).Put(ctx, &pb.PutRequest{Key: []byte("a")})
	require.Equal(t, rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader), rpctypes.ErrorDesc(err))
	_, err = pb.NewKVClient(f.client.ActiveConnection()).Put(context.Background(), &pb.PutRequest{Key: []byte("a")})
	require.NoError(t, err)
}

func TestClusterAndMaintenance(t *testing.T) {
	f := newFixture(t, nil)
	ctx := context.Background()
	list, err := f.client.MemberList(ctx)
	require.NoError(t, err)
	require.Len(t, list.Members, 2)
	require.Equal(t, "five", list.Members[0].Name)
	require.True(t, list.Members[1].IsLearner)
	f.cluster.barrier = errors.New("no quorum")
	_, err = pb.NewClusterClient(f.client.ActiveConnection()).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	require.Equal(t, rpctypes.ErrorDesc(rpctypes.ErrGRPCTimeout), rpctypes.ErrorDesc(err))
	_, err = pb.NewClusterClient(f.client.ActiveConnection()).MemberList(ctx, &pb.MemberListRequest{})
	require.NoError(t, err)

	st, err := f.client.Status(ctx, f.addr)
	require.NoError(t, err)
	require.Equal(t, etcd.Version, st.Version)
	require.Equal(t, []any{int64(100), int64(50), uint64(5), uint64(30), uint64(42), int64(20)},
		[]any{st.DbSize, st.DbSizeInUse, st.Leader, st.RaftIndex, st.RaftTerm, st.Header.Revision})
	require.Empty(t, st.Errors)
	f.cluster.setLeader(0)
	st, err = f.client.Status(ctx, f.addr)
	require.NoError(t, err)
	require.Equal(t, []string{"etcdserver: no leader"}, st.Errors)
	f.cluster.setLeader(6)

	h, err := f.client.HashKV(ctx, f.addr, 4)
	require.NoError(t, err)
	require.Equal(t, []int64{99, 4, 3, 7}, []int64{int64(h.Hash), h.HashRevision, h.CompactRevision, h.Header.Revision})
	_, err = f.client.Defragment(ctx, f.addr)
	require.NoError(t, err)
	_, err = f.client.AlarmList(ctx)
	require.Equal(t, codes.Unknown, status.Code(err), "the list is a linearizable read: %v", err)
	f.cluster.barrier = nil
	alarms, err := f.client.AlarmList(ctx)
	require.NoError(t, err)
	require.Empty(t, alarms.Alarms)

	_, err = f.client.AuthEnable(ctx)
	require.Equal(t, codes.Unimplemented, status.Code(err))
	check, err := healthpb.NewHealthClient(f.client.ActiveConnection()).Check(ctx, &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, check.Status)
}

func TestShardAdmin(t *testing.T) {
	f := newFixture(t, nil)
	ctx := context.Background()
	admin := kvdpb.NewShardAdminClient(f.client.ActiveConnection())
	list, err := admin.List(ctx, &kvdpb.ShardListRequest{})
	require.NoError(t, err)
	require.Equal(t, uint64(12), list.MapVersion)
	first, last := list.Shards[0], list.Shards[1]
	require.Empty(t, first.Start)
	require.False(t, first.StartInternal)
	require.Empty(t, first.End)
	require.True(t, first.EndInternal)
	require.Equal(t, "five", first.OwnerMemberName)
	require.Equal(t, "six", first.Replicas[1].MemberName)
	require.True(t, first.Replicas[1].NonVoting)
	require.Equal(t, "serving", first.Phase)
	require.True(t, last.StartInternal)
	require.False(t, last.EndInternal)
	require.Equal(t, []int64{-1, -1}, []int64{last.SizeBytes, last.Keys})
	_, err = admin.Show(ctx, &kvdpb.ShardShowRequest{Id: 9})
	require.Equal(t, codes.NotFound, status.Code(err))
	_, err = admin.Split(ctx, &kvdpb.ShardSplitRequest{})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	halves, err := admin.Split(ctx, &kvdpb.ShardSplitRequest{Key: []byte("m")})
	require.NoError(t, err)
	require.Equal(t, "m", string(f.router.split))
	require.Equal(t, uint64(4), halves.Left.Id)
	require.Equal(t, "m", string(halves.Right.Start))
}

func TestPages(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.EnablePprof = true })
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + f.addr + path)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	defer http.DefaultClient.CloseIdleConnections()
	for path, want := range map[string]string{
		"/health":                   `{"health":"true","reason":""}`,
		"/livez":                    "ok\n",
		"/readyz":                   "ok\n",
		"/livez?verbose":            "[+]serializable_read ok\nok\n",
		"/readyz/linearizable_read": "ok\n",
		"/version":                  `{"etcdserver":"` + etcd.Version + `","etcdcluster":"3.7.0","storage":"3.7.0"}`,
	} {
		code, body := get(path)
		require.Equal(t, 200, code, path)
		require.Equal(t, want, body, path)
	}
	code, body := get("/metrics")
	require.Equal(t, 200, code)
	for _, name := range []string{"etcd_server_has_leader 1", "etcd_mvcc_db_total_size_in_bytes 100", `grpc_server_started_total{grpc_method="Put"`, "go_goroutines"} {
		require.Contains(t, body, name)
	}
	code, _ = get("/debug/pprof/goroutine?debug=1")
	require.Equal(t, 200, code)
	resp, err := http.Post("http://"+f.addr+"/health", "text/plain", nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
	require.Equal(t, http.MethodGet, resp.Header.Get("Allow"))

	f.cluster.setLeader(0)
	code, body = get("/health")
	require.Equal(t, 503, code)
	require.Equal(t, `{"health":"false","reason":"RAFT NO LEADER"}`+"\n", body)
	code, _ = get("/health?serializable=true")
	require.Equal(t, 200, code)
	f.router.err = rpctypes.ErrGRPCCorrupt
	code, body = get("/readyz?exclude=linearizable_read")
	require.Equal(t, 503, code)
	require.Contains(t, body, "[-]serializable_read failed: ")
	require.NotContains(t, body, "linearizable_read failed")
}

func TestStopWaitsForRequests(t *testing.T) {
	f := newFixture(t, nil)
	f.router.block = make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := f.client.Put(context.Background(), "k", "v")
		done <- err
	}()
	require.Eventually(t, func() bool { return f.server.stats.kv[statPut].begun.Load() == 1 }, time.Minute, time.Millisecond)
	stopped := make(chan struct{})
	go func() { f.server.Stop(time.Minute); close(stopped) }()
	select {
	case <-stopped:
		t.Fatal("stopped before the request ended")
	case <-time.After(20 * time.Millisecond):
	}
	close(f.router.block)
	require.NoError(t, <-done)
	<-stopped
}

func TestSlowRequestsAreLogged(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	f := newFixture(t, func(c *Config) { c.Logger, c.SlowRequest = zap.New(core), time.Nanosecond })
	for range 20 * slowPerSecond {
		_, err := f.client.Put(context.Background(), "k", "v")
		require.NoError(t, err)
	}
	n := logs.FilterMessage("request stats").Len()
	require.NotZero(t, n)
	require.Less(t, n, 20*slowPerSecond)
	l := &slowLog{log: zap.NewNop(), after: 0}
	l.done(context.Background(), slowCall{method: &methodStats{}, took: time.Hour})
	require.Zero(t, l.count.Load())
}

func TestConfigIsChecked(t *testing.T) {
	_, err := New(Config{Ports: []Port{{Secure: true, Listener: closedListener(t)}}})
	require.ErrorContains(t, err, "member id is zero")
	require.ErrorContains(t, err, "Router, Watcher, Leases, Cluster, Membership, Operations and Storage")
	require.ErrorContains(t, err, "secure port without TLS")
}
