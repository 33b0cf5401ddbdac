package shard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
)

// hosts are members with real raft, disks and sockets in one process. Their
// sequencer is a fake whose clock runs.
type hosts struct {
	t       testing.TB
	dir     string
	seq     *runningSequencer
	members []*host
}

type host struct {
	id          uint64
	addr        string
	incarnation uint64
	mesh        *peer.Mesh
	raft        *multiraft.Host
	engine      *mvcc.Engine
	replicas    sync.Map // shard -> *Replica
	pending     chan *kvdpb.Descriptor
}

// runningSequencer is a sequencer whose clock is the test's.
type runningSequencer struct {
	fakeSequencer
	start time.Time
}

func newRunningSequencer() *runningSequencer {
	s := &runningSequencer{start: time.Now()}
	s.mu.epoch, s.mu.last = 1, 1
	return s
}

func (s *runningSequencer) tick() {
	s.set(func() { s.mu.reading = time.Since(s.start) })
}

func (s *runningSequencer) Allocate(ctx context.Context, n int, auth uint64) (Grant, error) {
	s.tick()
	return s.fakeSequencer.Allocate(ctx, n, auth)
}

func (s *runningSequencer) Current(ctx context.Context) (Grant, error) {
	s.tick()
	return s.fakeSequencer.Current(ctx)
}

func (s *runningSequencer) TryCurrent() (Grant, bool) {
	s.tick()
	return s.fakeSequencer.TryCurrent()
}

func (s *runningSequencer) Probe(ctx context.Context) (ownership.Stamp, error) {
	s.tick()
	return s.fakeSequencer.Probe(ctx)
}

func newHosts(t testing.TB, n int) *hosts {
	h := &hosts{t: t, dir: t.TempDir(), seq: newRunningSequencer()}
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		h.members = append(h.members, &host{id: uint64(i + 1), addr: l.Addr().String()})
		require.NoError(t, l.Close())
	}
	t.Cleanup(func() {
		for _, m := range h.members {
			h.stop(m)
		}
	})
	for _, m := range h.members {
		h.boot(m)
		h.start(m, h.descriptor(), "")
	}
	return h
}

// descriptor is the first shard's.
func (h *hosts) descriptor() *kvdpb.Descriptor {
	d := wholeShard()
	for _, m := range h.members {
		d.Initial = append(d.Initial, &kvdpb.Replica{Member: m.id, Replica: m.id})
	}
	d.Replicas = d.Initial
	return d
}

// boot starts a member without replicas.
func (h *hosts) boot(m *host) {
	t := h.t
	log := zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
	m.incarnation++
	m.pending = make(chan *kvdpb.Descriptor, 16)
	l, err := net.Listen("tcp", m.addr)
	require.NoError(t, err)
	m.mesh, err = peer.New(peer.Config{ClusterID: 9, MemberID: m.id, Incarnation: m.incarnation, Listeners: []net.Listener{l}, Logger: log,
		Addresses: func(id uint64) []string { return []string{"http://" + h.members[id-1].addr} }})
	require.NoError(t, err)
	m.engine, err = mvcc.NewEngine(mvcc.EngineOptions{Logger: log})
	require.NoError(t, err)
	m.raft, err = multiraft.NewHost(multiraft.Config{
		Dir: filepath.Join(h.dir, fmt.Sprint(m.id), "raft"), MemberID: m.id, DeploymentID: 9, Mesh: m.mesh, PreVote: true,
		Heartbeat: 20 * time.Millisecond, Election: 200 * time.Millisecond, SnapshotEntries: 100, CompactionOverhead: 10, Logger: log,
		OnLeader: func(e multiraft.LeaderEvent) {
			if r, ok := m.replicas.Load(e.Shard); ok {
				r.(*Replica).LeaderChanged(e)
			}
		},
		OnFatal: func(err error) { t.Error(err) },
	})
	require.NoError(t, err)
	require.NoError(t, m.mesh.Start())
}

// start starts a replica of a shard, from a seed if dir names one.
func (h *hosts) start(m *host, d *kvdpb.Descriptor, dir string) {
	t := h.t
	if dir == "" {
		dir = h.store(m, d.Shard)
	}
	r, err := New(Config{
		Member: m.id, Incarnation: m.incarnation, Shard: d.Shard, Replica: m.id, Descriptor: d, Engine: m.engine, Dir: dir,
		Raft: Bind(m.raft, d.Shard), Sequencer: h.seq, Workers: NewWorkers(0),
		OnPending: func(_ uint64, c *kvdpb.Descriptor) { m.pending <- c },
		Logger:    zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)),
	})
	require.NoError(t, err)
	m.replicas.Store(d.Shard, r)
	rc := multiraft.ReplicaConfig{Shard: d.Shard, Replica: m.id}
	if !m.raft.HasReplica(d.Shard, m.id) {
		rc.Initial = make(map[uint64]uint64)
		for _, i := range d.Initial {
			rc.Initial[i.Replica] = i.Member
		}
	}
	require.NoError(t, m.raft.StartReplica(rc, func() multiraft.StateMachine { return r }))
	if leader, term, known := m.raft.Leader(d.Shard); known {
		r.LeaderChanged(multiraft.LeaderEvent{Shard: d.Shard, Replica: m.id, Leader: leader, Term: term})
	}
}

func (h *hosts) store(m *host, shard uint64) string {
	return filepath.Join(h.dir, fmt.Sprint(m.id), "shards", fmt.Sprint(shard))
}

// stop ends a member without handing anything over.
func (h *hosts) stop(m *host) {
	if m.raft == nil {
		return
	}
	m.raft.Close()
	m.mesh.Close()
	require.NoError(h.t, m.engine.Close())
	m.raft = nil
	m.replicas.Clear()
}

// owner waits until somebody serves a shard.
func (h *hosts) owner(shard uint64) (*host, *Replica) {
	var owner *host
	var replica *Replica
	until(h.t, "an owner", func() bool {
		for _, m := range h.members {
			if r, ok := m.replicas.Load(shard); ok && r.(*Replica).Serving() {
				owner, replica = m, r.(*Replica)
			}
		}
		return owner != nil
	})
	return owner, replica
}

// do sends a request to the owner, whoever that is, until it is answered.
func (h *hosts) do(shard uint64, make func() *Request) (*Reply, error) {
	deadline := time.Now().Add(patience)
	for {
		_, r := h.owner(shard)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		req := make()
		req.Ctx = ctx
		a := <-call(r, req)
		cancel()
		var notOwner *NotOwnerError
		if !errors.As(a.err, &notOwner) || time.Now().After(deadline) {
			return a.reply, a.err
		}
		pause(context.Background(), time.Millisecond)
	}
}

// load puts n keys from several clients and returns what they were told.
func (h *hosts) load(shard uint64, prefix string, n int) map[string]int64 {
	var mu sync.Mutex
	revisions := make(map[string]int64)
	var wg sync.WaitGroup
	next := atomic.Int64{}
	for range 16 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				key := fmt.Sprintf("%s-%05d", prefix, i)
				reply, err := h.do(shard, func() *Request { return putReq(key, key) })
				if err != nil {
					h.t.Errorf("put %s: %v", key, err)
					return
				}
				mu.Lock()
				revisions[key] = reply.Revision
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return revisions
}

// check reads back what was acknowledged, and compares the replicas.
func (h *hosts) check(shard uint64, want map[string]int64) {
	h.t.Helper()
	for key, rev := range want {
		reply, err := h.do(shard, func() *Request { return getReq(key) })
		require.NoError(h.t, err)
		require.Len(h.t, reply.Range.Kvs, 1, key)
		require.Equal(h.t, rev, reply.Range.Kvs[0].ModRevision)
	}
	_, owner := h.owner(shard)
	index, _ := owner.Applied()
	hashes := map[uint32]bool{}
	for _, m := range h.members {
		r, ok := m.replicas.Load(shard)
		if !ok {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		require.NoError(h.t, r.(*Replica).waitApplied(ctx, index))
		cancel()
		sn := r.(*Replica).Store().NewSnapshot()
		hash, err := sn.Hash(context.Background(), keyspace.All(), 0)
		sn.Close()
		require.NoError(h.t, err)
		hashes[hash] = true
	}
	require.Len(h.t, hashes, 1, "replicas differ")
}

func TestOneHost(t *testing.T) {
	h := newHosts(t, 1)
	want := h.load(fakeShard, "a", 300)
	h.check(fakeShard, want)

	// A restart replays what the store had not kept.
	h.stop(h.members[0])
	h.boot(h.members[0])
	h.start(h.members[0], h.descriptor(), "")
	h.check(fakeShard, want)
}

func TestThreeHosts(t *testing.T) {
	h := newHosts(t, 3)
	want := h.load(fakeShard, "a", 200)

	// The owner is lost; its successor waits out and goes on. The lost member
	// lags so far behind that it gets a snapshot.
	lost, _ := h.owner(fakeShard)
	h.stop(lost)
	for k, v := range h.load(fakeShard, "b", 400) {
		want[k] = v
	}
	for _, m := range h.members {
		if m != lost {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			require.NoError(t, m.raft.RequestSnapshot(ctx, fakeShard, true, 1))
			cancel()
		}
	}
	h.boot(lost)
	h.start(lost, h.descriptor(), "")
	h.check(fakeShard, want)

	// An orderly hand-over under load.
	done := make(chan map[string]int64)
	go func() { done <- h.load(fakeShard, "c", 400) }()
	from, replica := h.owner(fakeShard)
	to := h.members[from.id%3]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, replica.Release(ctx, to.id, nil))
	for k, v := range <-done {
		want[k] = v
	}
	until(t, "the hand-over", func() bool { m, _ := h.owner(fakeShard); return m == to })
	h.check(fakeShard, want)
}

// A split with real groups. One member makes its seed late, when the parent and
// the child have gone on, and still ends with what the others have.
func TestSplitIntoGroups(t *testing.T) {
	h := newHosts(t, 3)
	left, right := h.load(fakeShard, "a", 100), h.load(fakeShard, "z", 100)
	_, parent := h.owner(fakeShard)
	child := h.descriptor()
	child.Shard, child.Parent, child.Generation = 8, fakeShard, 2
	child.Start = keyspace.User([]byte("m"))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, parent.Split(ctx, child, 2, nil))

	seedAndStart := func(m *host) {
		r, _ := m.replicas.Load(uint64(fakeShard))
		c := <-m.pending
		require.Equal(t, uint64(8), c.Shard)
		require.NoError(t, r.(*Replica).Seed(8, h.store(m, 8)))
		require.NoError(t, r.(*Replica).Seed(8, h.store(m, 8)), "repeating is harmless")
		h.start(m, c, "")
	}
	for _, m := range h.members[:2] {
		seedAndStart(m)
	}
	for k, v := range h.load(8, "y", 100) {
		right[k] = v
	}
	for k, v := range h.load(fakeShard, "b", 100) {
		left[k] = v
	}
	seedAndStart(h.members[2])
	for k, v := range h.load(8, "x", 20) {
		right[k] = v
	}
	h.check(8, right)

	_, parent = h.owner(fakeShard)
	require.NoError(t, parent.SplitDone(ctx, 8))
	h.check(fakeShard, left)
	_, err := h.do(fakeShard, func() *Request { return getReq("z-00001") })
	var wrong *WrongRangeError
	require.ErrorAs(t, err, &wrong)
	require.Equal(t, keyspace.User([]byte("m")), wrong.Descriptors[0].End)
}
