package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/lease"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/router"
	"github.com/kvd-io/kvd/router/wire"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/watch"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeRouter keeps values in a map. Every other answer is bytes, as if another
// member had given it.
type fakeRouter struct {
	mu    sync.Mutex
	rev   int64
	kvs   map[string]*mvccpb.KeyValue
	calls int
	err   error
	block chan struct{}
	split []byte
	// told is the metadata of the last call of Do.
	told metadata.MD
}

func newFakeRouter() *fakeRouter {
	return &fakeRouter{rev: 1, kvs: make(map[string]*mvccpb.KeyValue)}
}

func (r *fakeRouter) Do(ctx context.Context, req proto.Message, raw []byte) (router.Response, error) {
	r.mu.Lock()
	block := r.block
	r.told, _ = metadata.FromIncomingContext(ctx)
	r.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return router.Response{}, ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return router.Response{}, r.err
	}
	// The bytes must be the request's.
	again := req.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(raw, again); err != nil || !proto.Equal(req, again) {
		return router.Response{}, fmt.Errorf("%v is not %v", again, req)
	}
	m := r.carryOut(req)
	r.calls++
	res := router.Response{Message: m, Revision: r.rev}
	if r.calls%2 == 0 {
		b, _ := wire.AppendBody(nil, m)
		res.Message, res.Body = nil, mem.Copy(b, mem.DefaultBufferPool())
	}
	return res, nil
}

func (r *fakeRouter) carryOut(req proto.Message) proto.Message {
	switch q := req.(type) {
	case *pb.PutRequest:
		r.rev++
		m := &pb.PutResponse{}
		if q.PrevKv {
			m.PrevKv = r.kvs[string(q.Key)]
		}
		r.kvs[string(q.Key)] = &mvccpb.KeyValue{Key: q.Key, Value: q.Value, ModRevision: r.rev, CreateRevision: r.rev, Version: 1}
		return m
	case *pb.RangeRequest:
		m := &pb.RangeResponse{}
		span := keyspace.UserSpan(q.Key, q.RangeEnd)
		for k, kv := range r.kvs {
			if span.Contains(keyspace.User([]byte(k))) {
				m.Kvs = append(m.Kvs, kv)
			}
		}
		slices.SortFunc(m.Kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
		m.Count = int64(len(m.Kvs))
		return m
	case *pb.DeleteRangeRequest:
		r.rev++
		delete(r.kvs, string(q.Key))
		return &pb.DeleteRangeResponse{Deleted: 1}
	}
	return &pb.TxnResponse{Succeeded: true, Responses: []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponsePut{
		ResponsePut: &pb.PutResponse{Header: &pb.ResponseHeader{Revision: r.rev}}}}}}
}

func (r *fakeRouter) Range(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	m := r.carryOut(req).(*pb.RangeResponse)
	m.Header = &pb.ResponseHeader{Revision: r.rev}
	return m, nil
}

func (r *fakeRouter) RangeStream(ctx context.Context, req *pb.RangeRequest, send func(*pb.RangeResponse) error) error {
	m, err := r.Range(ctx, req)
	if err != nil {
		return err
	}
	for _, kv := range m.Kvs[:len(m.Kvs)-1] {
		if err := send(&pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kv}}); err != nil {
			return err
		}
	}
	m.Kvs = m.Kvs[len(m.Kvs)-1:]
	return send(m)
}

func (r *fakeRouter) Compact(context.Context, *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	return &pb.CompactionResponse{Header: &pb.ResponseHeader{Revision: r.rev}}, r.err
}

func (r *fakeRouter) HashKV(_ context.Context, rev int64) (router.Hash, error) {
	return router.Hash{Sum: 99, Revision: max(rev, 1), CompactRevision: 3, Current: 7}, nil
}

func fakeInfo() router.ShardInfo {
	return router.ShardInfo{
		Descriptor: &kvdpb.Descriptor{Shard: 4, Start: keyspace.Min(), End: keyspace.UserEnd(), Generation: 2,
			Replicas: []*kvdpb.Replica{{Member: 5, Replica: 1}, {Member: 6, Replica: 2, NonVoting: true}}},
		Status: &kvdpb.ReplicaStatus{Shard: 4, OwnerMember: 5, Epoch: 3, SizeBytes: 10, Keys: 2, Phase: "serving", AppliedIndex: 8, Revision: 9},
	}
}

func (r *fakeRouter) Shards(context.Context) ([]router.ShardInfo, uint64, error) {
	last := router.ShardInfo{Descriptor: &kvdpb.Descriptor{Shard: 5, Start: keyspace.UserEnd(), End: keyspace.Max()}}
	return []router.ShardInfo{fakeInfo(), last}, 12, nil
}

func (r *fakeRouter) Shard(_ context.Context, id uint64) (router.ShardInfo, error) {
	if id != 4 {
		return router.ShardInfo{}, status.Errorf(codes.NotFound, "kvd: no shard %d", id)
	}
	return fakeInfo(), nil
}

func (r *fakeRouter) Split(_ context.Context, key []byte) (left, right *kvdpb.Descriptor, err error) {
	r.split = key
	return fakeInfo().Descriptor, &kvdpb.Descriptor{Shard: 77, Start: keyspace.User(key), End: keyspace.Max()}, nil
}

type fakeCluster struct {
	mu      sync.Mutex
	leader  uint64
	barrier error
	learner atomic.Bool
	// moved, alarms and downgrade are what was asked for.
	moved     uint64
	alarms    []*kvdpb.Alarm
	downgrade string
}

func (c *fakeCluster) MoveSequencer(_ context.Context, to uint64) error {
	if to != 6 {
		return rpctypes.ErrGRPCBadLeaderTransferee
	}
	c.moved = to
	return nil
}

func (c *fakeCluster) StandingAlarms() []*kvdpb.Alarm {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alarms
}

func (c *fakeCluster) RaiseAlarm(_ context.Context, a *kvdpb.Alarm) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarms = append(c.alarms, a)
	return nil
}

func (c *fakeCluster) ClearAlarm(context.Context, *kvdpb.Alarm, bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarms = nil
	return nil
}

func (c *fakeCluster) Downgrade() string { return c.downgrade }

func (c *fakeCluster) SetDowngrade(_ context.Context, target string) error {
	c.downgrade = target
	return nil
}

func (c *fakeCluster) ClusterID() uint64 { return 1 << 60 }
func (c *fakeCluster) Term() uint64      { return 42 }

func (c *fakeCluster) Members() []*kvdpb.Member {
	return []*kvdpb.Member{{Id: 5, Name: "five", PeerUrls: []string{"http://p"}, ClientUrls: []string{"http://c"}}, {Id: 6, Name: "six", Learner: true}}
}

func (c *fakeCluster) SequencerMember() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader
}

func (c *fakeCluster) setLeader(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = id
}

func (c *fakeCluster) Barrier(context.Context) error { return c.barrier }

func (c *fakeCluster) Learner() bool { return c.learner.Load() }

// fakeMembership adds and refuses what it is told.
type fakeMembership struct{ err error }

func (m *fakeMembership) AddMember(_ context.Context, urls []string, learner bool) (*kvdpb.Member, []*kvdpb.Member, error) {
	added := &kvdpb.Member{Id: 7, PeerUrls: urls, Learner: learner}
	return added, []*kvdpb.Member{{Id: 5, Name: "five"}, added}, m.err
}

func (m *fakeMembership) RemoveMember(context.Context, uint64) ([]*kvdpb.Member, error) {
	return []*kvdpb.Member{{Id: 5, Name: "five"}}, m.err
}

func (m *fakeMembership) UpdateMember(_ context.Context, id uint64, urls []string) ([]*kvdpb.Member, error) {
	return []*kvdpb.Member{{Id: id, PeerUrls: urls}}, m.err
}

func (m *fakeMembership) PromoteMember(_ context.Context, id uint64) ([]*kvdpb.Member, error) {
	return []*kvdpb.Member{{Id: id}}, m.err
}

// fakeOperations remembers what was asked for, and refuses it with err.
type fakeOperations struct {
	asked string
	err   error
}

func (o *fakeOperations) Transfer(_ context.Context, shard, member uint64) error {
	o.asked = fmt.Sprint("transfer ", shard, " to ", member)
	return o.err
}

func (o *fakeOperations) Move(_ context.Context, shard, from, to uint64, wait bool) (uint64, error) {
	o.asked = fmt.Sprint("move ", shard, " from ", from, " to ", to, " ", wait)
	return 9, o.err
}

func (o *fakeOperations) Merge(_ context.Context, shard, right uint64, wait bool) (uint64, error) {
	o.asked = fmt.Sprint("merge ", shard, " with ", right, " ", wait)
	return 5, o.err
}

func (o *fakeOperations) Rebuild(_ context.Context, shard, member uint64, wait bool) (uint64, uint64, error) {
	o.asked = fmt.Sprint("rebuild ", shard, " on ", member, " ", wait)
	return 6, 10, o.err
}

func (o *fakeOperations) Cancel(_ context.Context, shard uint64) (string, error) {
	o.asked = fmt.Sprint("cancel ", shard)
	return "a move", o.err
}

func (o *fakeOperations) Rebalance(context.Context) ([]string, error) {
	return []string{"split shard 4"}, o.err
}

func (o *fakeOperations) Settings(context.Context) ([]placement.Setting, error) {
	return placement.Settings(&kvdpb.ClusterSettings{}), o.err
}

func (o *fakeOperations) ChangeSetting(_ context.Context, name, value string, reset bool) (placement.Setting, error) {
	_, s, err := placement.ChangeSetting(&kvdpb.ClusterSettings{}, name, value, reset)
	return s, errors.Join(err, o.err)
}

// noStores and noResolver are a hub's surroundings where everything is live.
type noStores struct{}

func (noStores) Snapshot(uint64) (watch.Snapshot, error) { return nil, watch.ErrNoReplica }

type noResolver struct{}

func (noResolver) Resolve(context.Context, int64, []uint64, func(shard.Resolved)) {}

type fakeRevisions struct{ r *fakeRouter }

func (f fakeRevisions) Current(context.Context) (shard.Grant, error) {
	g, _ := f.TryCurrent()
	return g, nil
}

func (f fakeRevisions) TryCurrent() (shard.Grant, bool) {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	return shard.Grant{First: f.r.rev}, true
}

// fixture is a server with fakes behind it and a client before it.
type fixture struct {
	t          testing.TB
	router     *fakeRouter
	cluster    *fakeCluster
	operations *fakeOperations
	hub        *watch.Hub
	server     *Server
	addr       string
	client     *clientv3.Client
}

func newFixture(t testing.TB, edit func(*Config)) *fixture {
	f := &fixture{t: t, router: newFakeRouter(), cluster: &fakeCluster{leader: 5}, operations: &fakeOperations{}}
	f.hub = watch.NewHub(watch.Config{MemberID: 5, Stores: noStores{}, Resolver: noResolver{}, Revisions: fakeRevisions{f.router}})
	t.Cleanup(f.hub.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f.addr = l.Addr().String()
	cfg := Config{
		Member: 5, Router: f.router, Watcher: f.hub, Leases: noLeases{}, Cluster: f.cluster, Membership: &fakeMembership{}, Operations: f.operations,
		Storage:         func() Storage { return Storage{DiskBytes: 100, LiveBytes: 50, Applied: 30, Revision: 20} },
		Ports:           []Port{{Listener: l, GRPC: true, HTTP: true}},
		ElectionTimeout: 20 * time.Millisecond, RequestTimeout: time.Minute,
	}
	if edit != nil {
		edit(&cfg)
	}
	f.server, err = New(cfg)
	require.NoError(t, err)
	require.NoError(t, f.server.StartMetrics())
	require.NoError(t, f.server.Start())
	t.Cleanup(func() { f.server.Stop(0) })
	if !cfg.Ports[0].Secure {
		f.client, err = clientv3.New(clientv3.Config{Endpoints: []string{f.addr}, Logger: zap.NewNop(), DialTimeout: time.Minute})
		require.NoError(t, err)
		t.Cleanup(func() { _ = f.client.Close() })
	}
	return f
}

// noLeases is a cluster without leases.
type noLeases struct{}

func (noLeases) Grant(context.Context, int64, int64) (lease.Info, error) {
	return lease.Info{}, rpctypes.ErrGRPCLeaseExist
}

func (noLeases) KeepAlive(context.Context, int64) (lease.Info, error) {
	return lease.Info{}, rpctypes.ErrGRPCLeaseNotFound
}

func (noLeases) Describe(context.Context, int64) (lease.Info, error) {
	return lease.Info{}, rpctypes.ErrGRPCLeaseNotFound
}

func (noLeases) Keys(context.Context, int64) ([][]byte, error) {
	return nil, rpctypes.ErrGRPCLeaseNotFound
}

func (noLeases) List(context.Context) ([]lease.Info, int64, error) { return nil, 20, nil }

func (noLeases) Revoke(context.Context, int64) (int64, error) {
	return 0, rpctypes.ErrGRPCLeaseNotFound
}
