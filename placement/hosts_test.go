package placement

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// hosts is a cluster of three real members: raft, disks, sockets and clocks.
type hosts struct {
	t       *testing.T
	dir     string
	flags   string
	members map[string]*hostMember
}

type hostMember struct {
	name        string
	addr        string
	incarnation uint64
	mesh        *peer.Mesh
	host        *multiraft.Host
	engine      *mvcc.Engine
	node        *Node
	restored    atomic.Int64
}

func newHosts(t *testing.T) *hosts {
	h := &hosts{t: t, dir: t.TempDir(), members: map[string]*hostMember{}}
	for i, name := range []string{"a", "b", "c"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		h.members[name] = &hostMember{name: name, addr: l.Addr().String()}
		require.NoError(t, l.Close())
		if i > 0 {
			h.flags += ","
		}
		h.flags += name + "=http://" + h.members[name].addr
	}
	t.Cleanup(func() {
		for _, m := range h.members {
			m.stop(t)
		}
	})
	return h
}

func (h *hosts) start(names ...string) {
	h.t.Helper()
	for _, name := range names {
		h.boot(h.members[name])
	}
}

func (h *hosts) boot(m *hostMember) {
	t := h.t
	t.Helper()
	boot, err := Bootstrap(h.flags, "test", nil)
	require.NoError(t, err)
	self := boot.Member(m.name)
	m.incarnation++
	level := zap.WarnLevel
	if testing.Verbose() {
		level = zap.InfoLevel
	}
	log := zaptest.NewLogger(t, zaptest.Level(level)).Named(m.name)
	l, err := net.Listen("tcp", m.addr)
	require.NoError(t, err)
	m.mesh, err = peer.New(peer.Config{ClusterID: boot.ID, MemberID: self.Id, Incarnation: m.incarnation, Listeners: []net.Listener{l},
		Logger: log, Addresses: func(id uint64) []string {
			i := slices.IndexFunc(boot.Members, func(m *kvdpb.Member) bool { return m.Id == id })
			if i < 0 {
				return nil
			}
			return boot.Members[i].PeerUrls
		}})
	require.NoError(t, err)
	m.engine, err = mvcc.NewEngine(mvcc.EngineOptions{Logger: log})
	require.NoError(t, err)
	var node *Node
	m.host, err = multiraft.NewHost(multiraft.Config{Dir: filepath.Join(h.dir, m.name, "raft"), MemberID: self.Id, DeploymentID: boot.ID, Mesh: m.mesh,
		Heartbeat: 20 * time.Millisecond, Election: 200 * time.Millisecond, PreVote: true, SnapshotEntries: 50, CompactionOverhead: 10, Logger: log,
		OnLeader: func(multiraft.LeaderEvent) { node.OnLeader() },
		OnReplica: func(e multiraft.ReplicaEvent) {
			if e.Kind == multiraft.ReplicaRestored {
				m.restored.Add(1)
			}
		},
		OnFatal: func(err error) { t.Error(err) }})
	require.NoError(t, err)
	node, err = NewNode(Config{
		Member: self.Id, Replica: self.Replica, Incarnation: m.incarnation,
		Raft: NewRaft(m.host), Init: boot.Init, Election: 200 * time.Millisecond, Logger: log,
		Open: func() (Storage, error) {
			s, err := m.engine.Open(filepath.Join(h.dir, m.name, "placement"))
			if err != nil {
				return nil, err
			}
			return NewStorage(s), nil
		},
		Send: func(to uint64, frame []byte) error { return m.mesh.Send(to, peer.ChannelRequest, frame) },
		Conn: func(to uint64) (grpc.ClientConnInterface, error) { return m.mesh.Conn(to) },
	})
	require.NoError(t, err)
	m.node = node
	m.mesh.Handle(peer.ChannelRequest, node.HandleFrame)
	m.mesh.NotifyDown(func(member uint64, ch peer.Channel) {
		if ch == peer.ChannelRequest {
			node.PeerDown(member)
		}
	})
	kvdpb.RegisterPlacementServer(m.mesh.Registrar(), node.Service())
	require.NoError(t, m.mesh.Start())
	require.NoError(t, m.host.StartReplica(multiraft.ReplicaConfig{Shard: Shard, Replica: self.Replica, Initial: boot.Voters()},
		func() multiraft.StateMachine { return node.Machine() }))
	node.Start()
}

// stop ends a member without releasing anything.
func (m *hostMember) stop(t *testing.T) {
	if m.host == nil {
		return
	}
	m.node.Close()
	m.host.Close()
	m.mesh.Close()
	require.NoError(t, m.engine.Close())
	m.host = nil
}

func (h *hosts) sequencer() *hostMember {
	h.t.Helper()
	for range 1000 {
		for _, m := range h.members {
			if m.host != nil && m.node.Serving() {
				return m
			}
		}
		<-time.After(10 * time.Millisecond)
	}
	h.t.Fatal("no sequencer")
	return nil
}

func TestThreeHosts(t *testing.T) {
	h := newHosts(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	names := []string{"a", "b", "c"}
	h.start(names...)
	next := int64(2)
	allocate := func(name string, n int) int64 {
		t.Helper()
		g, err := h.members[name].node.Allocate(ctx, n, 0)
		require.NoError(t, err)
		return g.First
	}
	for _, name := range names {
		require.Equal(t, next, allocate(name, 1))
		next++
	}

	// Many callers on each member, and a hand-over among them.
	var mu sync.Mutex
	var all []int64
	var wg sync.WaitGroup
	for _, m := range h.members {
		for range 8 {
			wg.Go(func() {
				for range 100 {
					g, err := m.node.Allocate(ctx, 1, 0)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					all = append(all, g.First)
					mu.Unlock()
				}
			})
		}
	}
	first := h.sequencer()
	other := h.members["a"]
	if first == other {
		other = h.members["b"]
	}
	require.NoError(t, first.node.HandOver(ctx, other.node.cfg.Member))
	wg.Wait()
	slices.Sort(all)
	for _, r := range all {
		require.Equal(t, next, r)
		next++
	}

	// Changes from any member, seen everywhere behind a barrier.
	for _, name := range names {
		require.NoError(t, h.members[name].node.UpdateSelf(ctx, name, []string{"http://" + name}))
	}
	d, err := h.members["b"].node.BeginSplit(ctx, 2, 1, keyspace.User([]byte("m")))
	require.NoError(t, err)
	for _, name := range names {
		_, err := h.members[name].node.ConfirmSeed(ctx, d.Shard)
		require.NoError(t, err)
	}
	for _, name := range names {
		n := h.members[name].node
		require.NoError(t, n.Barrier(ctx))
		require.Equal(t, 2, n.Map().Len())
		for _, m := range n.Members() {
			require.Equal(t, []string{"http://" + m.Name}, m.ClientUrls)
		}
	}
	_, err = h.members["c"].node.Compact(ctx, 5)
	require.NoError(t, err)

	// A crash: bounded gap, bounded time.
	lost := h.sequencer()
	left := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == lost.name })
	began := time.Now()
	end := lost.node.View().WindowEnd
	lost.stop(t)
	got := allocate(left[0], 1)
	t.Logf("%v after the crash", time.Since(began))
	require.GreaterOrEqual(t, got, next)
	require.LessOrEqual(t, got, end)
	next = got + 1
	// While it is away the log is cut, so that it needs a snapshot.
	for i := range 30 {
		require.NoError(t, h.members[left[0]].node.UpdateSelf(ctx, left[0], []string{fmt.Sprint("http://", i)}))
	}
	for i, name := range left {
		require.NoError(t, h.members[name].node.UpdateSelf(ctx, name, []string{"http://last"}))
		// Refused where a snapshot has just been made and nothing is new.
		err := h.members[name].host.RequestSnapshot(ctx, Shard, true, 0)
		for j := 0; errors.Is(err, multiraft.ErrRejected); j++ {
			require.NoError(t, h.members[name].node.UpdateSelf(ctx, name, []string{fmt.Sprint("http://again", i, j)}))
			err = h.members[name].host.RequestSnapshot(ctx, Shard, true, 0)
		}
		require.NoError(t, err)
	}
	h.start(lost.name)
	require.Equal(t, next, allocate(lost.name, 1))
	next++
	require.NoError(t, lost.node.Barrier(ctx))
	require.Eventually(t, func() bool { return lost.restored.Load() > 0 }, time.Minute, 5*time.Millisecond, "it came by a snapshot")
	for i, m := range h.sequencer().node.Members() {
		require.True(t, proto.Equal(m, lost.node.Members()[i]))
	}

	// All stop in order and start again: nothing is skipped, nothing forgotten.
	for range 2 {
		for _, m := range h.members {
			wg.Go(func() {
				if err := m.node.Release(ctx); err != nil {
					t.Error(fmt.Errorf("member %s: %w", m.name, err))
				}
			})
		}
		wg.Wait()
		for _, m := range h.members {
			m.stop(t)
		}
		h.start(names...)
		began := time.Now()
		require.Equal(t, next, allocate("a", 1))
		t.Logf("%v after the restart", time.Since(began))
		next++
		for _, name := range names {
			g, err := h.members[name].node.Current(ctx)
			require.NoError(t, err)
			require.Equal(t, next-1, g.First)
			require.EqualValues(t, 5, g.Stamp.CompactRevision)
		}
		require.Equal(t, 2, h.members["a"].node.Map().Len())
	}
}
