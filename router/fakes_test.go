package router

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/eval"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// requireStatus compares what a client sees of two errors. (The values differ in
// caches of google's library.)
func requireStatus(t testing.TB, want, got error) {
	t.Helper()
	require.Error(t, got)
	require.Equal(t, status.Code(want), status.Code(got), "%v", got)
	require.Equal(t, status.Convert(want).Message(), status.Convert(got).Message())
}

// world is a cluster without raft: one store that all replicas share, shards
// with owners, and members with a router each, joined by a mesh of memory.
type world struct {
	t       testing.TB
	log     *zap.Logger
	members []*fakeMember

	mu      sync.Mutex
	rev     int64
	compact int64
	index   uint64
	epoch   uint64
	writes  int
	// resolves counts the questions for resolved revisions.
	resolves atomic.Int64
	reads    map[string]int
	keys     map[string][]version
	shards   map[uint64]*fakeShard
	version  uint64
	current  *placement.Map
}

type version struct {
	kv   *mvccpb.KeyValue
	tomb bool
}

type fakeShard struct {
	desc  *kvdpb.Descriptor
	owner uint64
	epoch uint64
	// fail, if set, is asked before a request is carried out.
	fail func(member uint64, req *shard.Request) error
	// hold, if set, keeps requests until it is closed.
	hold chan struct{}
	// instant, if set, answers everything.
	instant *shard.Reply
}

type fakeMember struct {
	w      *world
	id     uint64
	router *Router
	// lagging: this member's map, if it is not the world's.
	lagging *placement.Map
	// without: shards that have no replica here.
	without map[uint64]bool
	// staleCopies makes every View fail.
	staleCopies bool
	views       int
	server      *grpc.Server
	listener    *bufconn.Listener
	conns       map[uint64]*grpc.ClientConn

	link struct {
		sync.Mutex
		// down: frames to these members are refused.
		down map[uint64]bool
		// lose, if set, swallows frames; the connection then breaks.
		lose  func(to uint64, frame []byte) bool
		queue chan func()
	}
	done chan struct{}
	wg   sync.WaitGroup
}

// newWorld makes n members whose first cuts-1 boundaries cut the user keys.
func newWorld(t testing.TB, n int, cuts ...string) *world {
	w := &world{t: t, log: zap.NewNop(), rev: 1, index: 10, epoch: 1, keys: make(map[string][]version), shards: make(map[uint64]*fakeShard), reads: make(map[string]int)}
	if testing.Verbose() {
		w.log = zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
	}
	start := keyspace.Min()
	for i := 0; i <= len(cuts); i++ {
		end := keyspace.Max()
		if i < len(cuts) {
			end = keyspace.User([]byte(cuts[i]))
		}
		w.addShard(uint64(100+i), start, end, 1, uint64(i%n)+1, n)
		start = end
	}
	w.publish()
	for i := range n {
		w.members = append(w.members, w.newMember(uint64(i+1)))
	}
	t.Cleanup(w.close)
	return w
}

func (w *world) addShard(id uint64, start, end []byte, generation, owner uint64, n int) *fakeShard {
	d := &kvdpb.Descriptor{Shard: id, Start: start, End: end, Generation: generation}
	for m := range n {
		d.Replicas = append(d.Replicas, &kvdpb.Replica{Member: uint64(m + 1), Replica: uint64(m + 1)})
	}
	s := &fakeShard{desc: d, owner: owner, epoch: w.epoch}
	w.shards[id] = s
	return s
}

// publish makes the range map of what the shards are now.
func (w *world) publish() {
	w.mu.Lock()
	w.version++
	live := make(map[uint64]*kvdpb.Descriptor)
	for id, s := range w.shards {
		live[id] = s.desc
	}
	w.current = placement.NewMap(w.version, live)
	w.mu.Unlock()
	for _, m := range w.members {
		m.router.MapChanged()
	}
}

func (w *world) newMember(id uint64) *fakeMember {
	m := &fakeMember{w: w, id: id, without: make(map[uint64]bool), done: make(chan struct{}), conns: make(map[uint64]*grpc.ClientConn)}
	m.link.down = make(map[uint64]bool)
	m.link.queue = make(chan func(), 1<<12)
	r, err := New(Config{Member: id, Replicas: m, Placement: m, Mesh: m, Logger: w.log, RequestTimeout: time.Minute, ResolveInterval: -1})
	require.NoError(w.t, err)
	m.router = r
	m.listener = bufconn.Listen(1 << 20)
	m.server = grpc.NewServer()
	r.Register(m.server)
	m.wg.Add(2)
	go func() {
		defer m.wg.Done()
		_ = m.server.Serve(m.listener)
	}()
	go func() {
		defer m.wg.Done()
		for {
			select {
			case f := <-m.link.queue:
				f()
			case <-m.done:
				return
			}
		}
	}()
	return m
}

func (w *world) close() {
	for _, m := range w.members {
		m.router.Close()
		for _, c := range m.conns {
			_ = c.Close()
		}
	}
	for _, m := range w.members {
		m.server.Stop()
		close(m.done)
		m.wg.Wait()
	}
}

func (w *world) member(id uint64) *fakeMember { return w.members[id-1] }

// deliver runs f on the reader goroutine of a member.
func (m *fakeMember) deliver(f func()) {
	select {
	case m.link.queue <- f:
	case <-m.done:
	}
}

// Send implements Mesh.
func (m *fakeMember) Send(to uint64, _ peer.Channel, frame []byte) error {
	m.link.Lock()
	down, lose := m.link.down[to], m.link.lose
	m.link.Unlock()
	if down {
		return peer.ErrNotConnected
	}
	frame = bytes.Clone(frame)
	other := m.w.member(to)
	if lose != nil && lose(to, frame) {
		m.deliver(func() { m.router.PeerDown(to, peer.ChannelRequest) })
		return nil
	}
	other.deliver(func() { other.router.HandleFrame(m.id, frame) })
	return nil
}

// WaitConnected implements Mesh.
func (m *fakeMember) WaitConnected(ctx context.Context, to uint64, _ peer.Channel) error {
	for {
		m.link.Lock()
		down := m.link.down[to]
		m.link.Unlock()
		if !down {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// Conn implements Mesh.
func (m *fakeMember) Conn(to uint64) (*grpc.ClientConn, error) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	if c := m.conns[to]; c != nil {
		return c, nil
	}
	l := m.w.members[to-1].listener
	c, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err == nil {
		m.conns[to] = c
	}
	return c, err
}

func (m *fakeMember) setDown(to uint64, down bool) {
	m.link.Lock()
	m.link.down[to] = down
	m.link.Unlock()
}

func (m *fakeMember) loseFrames(lose func(to uint64, frame []byte) bool) {
	m.link.Lock()
	m.link.lose = lose
	m.link.Unlock()
}

// Current implements Placement.
func (m *fakeMember) Current(context.Context) (shard.Grant, error) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	g := shard.Grant{First: m.w.rev}
	g.Stamp.CompactRevision = m.w.compact
	return g, nil
}

// TryCurrent implements Placement.
func (m *fakeMember) TryCurrent() (shard.Grant, bool) {
	if m.id != 1 {
		return shard.Grant{}, false
	}
	g, err := m.Current(context.Background())
	return g, err == nil
}

// Map implements Placement.
func (m *fakeMember) Map() *placement.Map {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	if m.lagging != nil {
		return m.lagging
	}
	return m.w.current
}

// Compact implements Placement.
func (m *fakeMember) Compact(_ context.Context, rev int64) (int64, error) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	switch {
	case rev > m.w.rev:
		return 0, rpctypes.ErrGRPCFutureRev
	case rev <= m.w.compact:
		return 0, rpctypes.ErrGRPCCompacted
	}
	m.w.compact = rev
	return m.w.rev, nil
}

// CollectedRevision implements Replicas.
func (m *fakeMember) CollectedRevision() int64 {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	return m.w.compact
}

// Replica implements Replicas.
func (m *fakeMember) Replica(id uint64) (Replica, bool) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	if s := m.w.shards[id]; s != nil && !m.without[id] {
		return &fakeReplica{m: m, s: s}, true
	}
	return nil, false
}

// CancelSplits implements Replicas.
func (m *fakeMember) CancelSplits(uint64) [][]byte { return nil }

// Split implements Replicas.
func (m *fakeMember) Split(_ context.Context, key []byte) (left, right *kvdpb.Descriptor, err error) {
	m.w.mu.Lock()
	var s *fakeShard
	for _, c := range m.w.shards {
		if bytes.Compare(c.desc.Start, key) < 0 && bytes.Compare(key, c.desc.End) < 0 {
			s = c
		}
	}
	if s == nil || s.owner != m.id {
		m.w.mu.Unlock()
		return nil, nil, &shard.NotOwnerError{Shard: 1, Owner: 0}
	}
	left, right = m.w.splitLocked(s, key)
	m.w.mu.Unlock()
	m.w.publish()
	return left, right, nil
}

// splitLocked cuts a shard; maps are not published.
func (w *world) splitLocked(s *fakeShard, key []byte) (left, right *kvdpb.Descriptor) {
	old := s.desc
	left = &kvdpb.Descriptor{Shard: old.Shard, Start: old.Start, End: key, Generation: old.Generation + 1, Replicas: old.Replicas}
	s.desc = left
	child := w.addShard(uint64(1000+len(w.shards)), key, old.End, old.Generation+1, s.owner, len(old.Replicas))
	return left, child.desc
}

func (w *world) split(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := keyspace.User([]byte(key))
	for _, s := range w.shards {
		if bytes.Compare(s.desc.Start, k) < 0 && bytes.Compare(k, s.desc.End) < 0 {
			w.splitLocked(s, k)
			return
		}
	}
}

func (w *world) setOwner(id, owner uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.epoch++
	w.shards[id].owner, w.shards[id].epoch = owner, w.epoch
}

func (w *world) edit(id uint64, f func(*fakeShard)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w.shards[id])
}

type fakeReplica struct {
	m *fakeMember
	s *fakeShard
}

func (r *fakeReplica) Descriptor() *kvdpb.Descriptor {
	r.m.w.mu.Lock()
	defer r.m.w.mu.Unlock()
	return r.s.desc
}

func (r *fakeReplica) Owner() (member, epoch uint64) {
	r.m.w.mu.Lock()
	defer r.m.w.mu.Unlock()
	return r.s.owner, r.s.epoch
}

func (r *fakeReplica) Lease(context.Context, *kvdpb.LeaseCall) (*kvdpb.LeaseAnswer, error) {
	return nil, errNoReplica
}

func (r *fakeReplica) Status() *kvdpb.ReplicaStatus {
	r.m.w.mu.Lock()
	defer r.m.w.mu.Unlock()
	return &kvdpb.ReplicaStatus{Shard: r.s.desc.Shard, OwnerMember: r.s.owner, Epoch: r.s.epoch, Phase: fmt.Sprintf("of member %d", r.m.id)}
}

func (r *fakeReplica) Resolve(ctx context.Context, rev int64) (shard.Resolved, error) {
	w := r.m.w
	w.resolves.Add(1)
	w.mu.Lock()
	if hold := r.s.hold; hold != nil {
		w.mu.Unlock()
		select {
		case <-hold:
		case <-ctx.Done():
			return shard.Resolved{}, ctx.Err()
		}
		w.mu.Lock()
	}
	defer w.mu.Unlock()
	if r.s.owner != r.m.id {
		return shard.Resolved{}, &shard.NotOwnerError{Shard: r.s.desc.Shard, Owner: r.s.owner, Epoch: r.s.epoch}
	}
	return shard.Resolved{Shard: r.s.desc.Shard, Generation: r.s.desc.Generation, Span: spanOf(r.s.desc), Applied: w.index, Revision: rev}, nil
}

func spanOf(d *kvdpb.Descriptor) keyspace.Span { return keyspace.Span{Start: d.Start, End: d.End} }

func (r *fakeReplica) View(_ context.Context, generation, applied uint64, rev int64) (View, error) {
	w := r.m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	r.m.views++
	if r.m.staleCopies || (generation != 0 && generation != r.s.desc.Generation) || applied > w.index || (rev > 0 && rev < w.compact) {
		return nil, ErrStaleView
	}
	return &fakeView{fakeReader: fakeReader{w: w, at: w.rev}, desc: r.s.desc, compact: w.compact, applied: w.index}, nil
}

// Do implements Replica: like a shard, on a goroutine of its own.
func (r *fakeReplica) Do(req *shard.Request) {
	r.m.w.mu.Lock()
	hold, fail, instant := r.s.hold, r.s.fail, r.s.instant
	r.m.w.mu.Unlock()
	if instant != nil {
		req.Done(instant, nil)
		return
	}
	if fail != nil {
		if err := fail(r.m.id, req); err != nil {
			req.Done(nil, err)
			return
		}
	}
	if hold == nil {
		req.Done(r.carryOut(req))
		return
	}
	r.m.wg.Add(1)
	go func() {
		defer r.m.wg.Done()
		select {
		case <-hold:
			req.Done(r.carryOut(req))
		case <-req.Ctx.Done():
			req.Done(nil, req.Ctx.Err())
		}
	}()
}

func (r *fakeReplica) carryOut(req *shard.Request) (*shard.Reply, error) {
	w := r.m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	d := r.s.desc
	if r.s.owner != r.m.id {
		return nil, &shard.NotOwnerError{Shard: d.Shard, Owner: r.s.owner, Epoch: r.s.epoch}
	}
	var any any
	switch {
	case req.Range != nil:
		any = req.Range
	case req.Put != nil:
		any = req.Put
	case req.Delete != nil:
		any = req.Delete
	default:
		any = req.Txn
	}
	for _, t := range eval.Spans(any) {
		if !t.Span.Empty() && !spanOf(d).ContainsSpan(t.Span) {
			e := &shard.WrongRangeError{Shard: d.Shard}
			for _, s := range w.shards {
				e.Descriptors = append(e.Descriptors, s.desc)
			}
			return nil, e
		}
	}
	reader := &fakeReader{w: w, at: w.rev, locked: true}
	rep := &shard.Reply{Revision: w.rev, Applied: w.index, Generation: d.Generation}
	ctx := context.Background()
	if req.Range != nil {
		w.reads[string(req.Range.Key)]++
		at := req.ReadRev
		if at == 0 {
			if at = max(req.Range.Revision, 0); at > w.rev {
				return nil, rpctypes.ErrGRPCFutureRev
			}
		}
		if at > 0 && at < w.compact {
			return nil, rpctypes.ErrGRPCCompacted
		}
		if req.Confirm {
			return rep, nil
		}
		m, err := eval.Range(ctx, reader, req.Range, at)
		if err != nil {
			return nil, err
		}
		m.Header.Revision = w.rev
		rep.Range = m
		return rep, nil
	}
	var res *eval.Result
	var err error
	switch {
	case req.Put != nil:
		res, err = eval.Put(reader, req.Put)
	case req.Delete != nil:
		res, err = eval.DeleteRange(ctx, reader, req.Delete)
	default:
		res, err = eval.Txn(ctx, reader, req.Txn, eval.Bounds{Current: w.rev, Compact: w.compact})
	}
	if err != nil {
		return nil, err
	}
	rev := w.rev
	if len(res.Effects) > 0 {
		w.writes++
		w.index++
		w.rev++
		rev = w.rev
		for i := range res.Effects {
			w.applyLocked(&res.Effects[i], rev)
		}
	}
	res.Finish(rev)
	rep.Revision, rep.Applied = rev, w.index
	rep.Put, rep.Delete, rep.Txn = res.Put, res.Delete, res.Txn
	return rep, nil
}

func (w *world) applyLocked(e *mvcc.Effect, rev int64) {
	kv := &mvccpb.KeyValue{Key: e.Key, Value: e.Value, CreateRevision: e.Create, ModRevision: rev, Version: e.Version, Lease: e.Lease}
	if kv.CreateRevision == 0 {
		kv.CreateRevision = rev
	}
	w.keys[string(e.Key)] = append(w.keys[string(e.Key)], version{kv: kv, tomb: e.Tombstone})
}

// fakeReader reads the world's store.
type fakeReader struct {
	w      *world
	at     int64
	locked bool
}

func (r *fakeReader) lock() func() {
	if r.locked {
		return func() {}
	}
	r.w.mu.Lock()
	return r.w.mu.Unlock
}

func (r *fakeReader) find(key []byte, rev int64) *mvccpb.KeyValue {
	if rev == 0 {
		rev = r.at
	}
	vs := r.w.keys[string(key)]
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].kv.ModRevision <= rev {
			if vs[i].tomb {
				return nil
			}
			kv := vs[i].kv
			return &mvccpb.KeyValue{Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease}
		}
	}
	return nil
}

func (r *fakeReader) Head(key []byte) (mvcc.Head, error) {
	defer r.lock()()
	kv := r.find(key, 0)
	if kv == nil {
		return mvcc.Head{}, nil
	}
	return mvcc.Head{Create: kv.CreateRevision, Mod: kv.ModRevision, Version: kv.Version, Lease: kv.Lease, Exists: true}, nil
}

func (r *fakeReader) Get(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	defer r.lock()()
	return r.find(key, rev), nil
}

func (r *fakeReader) all(span keyspace.Span, rev int64) []*mvccpb.KeyValue {
	defer r.lock()()
	var out []*mvccpb.KeyValue
	for k := range r.w.keys {
		if kv := r.find([]byte(k), rev); kv != nil && span.Contains([]byte(k)) {
			out = append(out, kv)
		}
	}
	sort.Slice(out, func(i, j int) bool { return bytes.Compare(out[i].Key, out[j].Key) < 0 })
	return out
}

func (r *fakeReader) Range(_ context.Context, span keyspace.Span, o mvcc.RangeOptions, fn func(*mvccpb.KeyValue) bool) error {
	kvs := r.all(span, o.Rev)
	if o.Desc {
		slices.Reverse(kvs)
	}
	for i, kv := range kvs {
		if o.KeysOnly {
			kv.Value = nil
		}
		if !fn(kv) || (o.Limit > 0 && int64(i+1) == o.Limit) {
			break
		}
	}
	return nil
}

func (r *fakeReader) Count(_ context.Context, span keyspace.Span, rev int64) (int64, error) {
	return int64(len(r.all(span, rev))), nil
}

type fakeView struct {
	fakeReader
	desc    *kvdpb.Descriptor
	compact int64
	applied uint64
}

func (v *fakeView) Revision() int64        { return v.at }
func (v *fakeView) CompactRevision() int64 { return v.compact }
func (v *fakeView) Applied() uint64        { return v.applied }
func (v *fakeView) Generation() uint64     { return v.desc.Generation }
func (v *fakeView) Span() keyspace.Span    { return spanOf(v.desc) }
func (v *fakeView) Close()                 {}

func (v *fakeView) StateHash(_ context.Context, span keyspace.Span, rev int64) (sum uint32, _ error) {
	for _, kv := range v.all(span, rev) {
		for _, b := range kv.Key {
			sum += uint32(b) * uint32(kv.ModRevision)
		}
	}
	return sum, nil
}

// random returns some member's router.
func (w *world) random() *Router { return w.members[rand.IntN(len(w.members))].router }
