package multiraft

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/kvd-io/kvd/multiraft/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testClusterID = 0xc0ffee

// memory is a state machine that keeps its commands, and writes them to a file on Sync. Its disk survives it.
type memory struct {
	disk *disk

	mu struct {
		sync.Mutex
		state  memoryState
		closed bool
		// restored counts snapshots that replaced the state.
		restored int
	}
}

type memoryState struct {
	Applied  uint64
	Commands []string
	// Seed is there before the first entry, like a child's.
	Seed string
}

// disk is a file that Sync and RecoverFromSnapshot replace.
type disk struct{ path string }

func (m *memory) Open(<-chan struct{}) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := os.ReadFile(m.disk.path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	err = json.Unmarshal(b, &m.mu.state)
	return m.mu.state.Applied, err
}

func (m *memory) Apply(entries []Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range entries {
		e := &entries[i]
		m.mu.state.Applied = e.Index
		m.mu.state.Commands = append(m.mu.state.Commands, string(e.Cmd))
		e.Result = uint64(len(m.mu.state.Commands))
		e.Data = append([]byte("did "), e.Cmd...)
	}
	return nil
}

func (m *memory) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saveLocked()
}

func (m *memory) saveLocked() error {
	b, err := json.Marshal(m.mu.state)
	if err != nil {
		return err
	}
	return writeFile(m.disk.path, b)
}

func (m *memory) PrepareSnapshot() (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return json.Marshal(m.mu.state)
}

func (m *memory) SaveSnapshot(captured any, w io.Writer, _ <-chan struct{}) error {
	b := captured.([]byte)
	if err := binary.Write(w, binary.BigEndian, uint64(len(b))); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

func (m *memory) RecoverFromSnapshot(r io.Reader, _ <-chan struct{}) error {
	var n uint64
	if err := binary.Read(r, binary.BigEndian, &n); err != nil {
		return err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.state = memoryState{}
	m.mu.restored++
	if err := json.Unmarshal(b, &m.mu.state); err != nil {
		return err
	}
	return m.saveLocked()
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.closed = true
	return nil
}

func (m *memory) commands() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.mu.state.Commands...)
}

// testNode is one member of a test cluster; it survives its host.
type testNode struct {
	c      *cluster
	id     uint64
	dir    string
	adjust func(*Config)
	mesh   *peer.Mesh
	host   *Host

	mu       sync.Mutex
	machines map[uint64]*memory
	leaders  []LeaderEvent
	events   []ReplicaEvent
}

type cluster struct {
	t     testing.TB
	log   *zap.Logger
	mu    sync.Mutex
	urls  map[uint64]string
	nodes []*testNode
}

func newTestCluster(t testing.TB, size int, adjust func(*Config)) *cluster {
	level := zap.WarnLevel
	if os.Getenv("MULTIRAFT_DEBUG") != "" {
		level = zap.DebugLevel
	}
	c := &cluster{t: t, log: zaptest.NewLogger(t, zaptest.Level(level)), urls: make(map[uint64]string)}
	// The directory must outlive the nodes.
	root := t.TempDir()
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.stop()
		}
		routed.Store(zap.NewNop())
	})
	for i := range size {
		id := uint64(i + 1)
		n := &testNode{c: c, id: id, dir: filepath.Join(root, fmt.Sprint(id)), adjust: adjust, machines: make(map[uint64]*memory)}
		c.nodes = append(c.nodes, n)
		n.start()
	}
	return c
}

func (c *cluster) address(member uint64) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u, ok := c.urls[member]; ok {
		return []string{u}
	}
	return nil
}

func (n *testNode) config() Config {
	cfg := Config{Dir: n.dir, MemberID: n.id, DeploymentID: testClusterID, Mesh: n.mesh, PreVote: true,
		Heartbeat: 20 * time.Millisecond, Election: 200 * time.Millisecond, Logger: n.c.log,
		OnLeader:  func(e LeaderEvent) { n.mu.Lock(); n.leaders = append(n.leaders, e); n.mu.Unlock() },
		OnReplica: func(e ReplicaEvent) { n.mu.Lock(); n.events = append(n.events, e); n.mu.Unlock() },
		OnFatal:   func(err error) { n.c.t.Errorf("member %d: %v", n.id, err) }}
	if n.adjust != nil {
		n.adjust(&cfg)
	}
	return cfg
}

func (n *testNode) start() {
	n.c.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(n.c.t, err)
	n.c.mu.Lock()
	n.c.urls[n.id] = "http://" + l.Addr().String()
	n.c.mu.Unlock()
	n.mesh, err = peer.New(peer.Config{ClusterID: testClusterID, MemberID: n.id, Incarnation: 1, Listeners: []net.Listener{l},
		Addresses: n.c.address, Logger: n.c.log})
	require.NoError(n.c.t, err)
	n.host, err = NewHost(n.config())
	require.NoError(n.c.t, err)
	require.NoError(n.c.t, n.mesh.Start())
}

func (n *testNode) stop() {
	if n.host == nil {
		return
	}
	n.host.Close()
	n.mesh.Close()
	n.host = nil
}

// run starts a replica whose number is the member's id unless rc says otherwise.
func (n *testNode) run(rc ReplicaConfig) *memory {
	n.c.t.Helper()
	if rc.Replica == 0 {
		rc.Replica = n.id
	}
	m := &memory{disk: &disk{filepath.Join(n.dir, fmt.Sprintf("machine-%d-%d", rc.Shard, rc.Replica))}}
	n.mu.Lock()
	n.machines[rc.Shard] = m
	n.mu.Unlock()
	require.NoError(n.c.t, n.host.StartReplica(rc, func() StateMachine { return m }))
	return m
}

func (n *testNode) machine(shard uint64) *memory {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.machines[shard]
}

func (n *testNode) saw(kind ReplicaEventKind, shard uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if e.Kind == kind && e.Shard == shard {
			return true
		}
	}
	return false
}

// group starts a new group with a replica on each of the first size nodes.
func (c *cluster) group(shard uint64, size int) {
	c.t.Helper()
	initial := make(map[uint64]uint64)
	for _, n := range c.nodes[:size] {
		initial[n.id] = n.id
	}
	for _, n := range c.nodes[:size] {
		n.run(ReplicaConfig{Shard: shard, Initial: initial})
	}
}

// leader waits until a running node leads the shard.
func (c *cluster) leader(shard uint64) *testNode {
	c.t.Helper()
	var leader *testNode
	eventually(c.t, "there is a leader", func() bool {
		for _, n := range c.nodes {
			if n.host == nil {
				continue
			}
			if r := n.host.replica(shard); r != nil && r.leading.Load() && n.host.ReadIndex(c.ctx(), shard) == nil {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

func (c *cluster) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	c.t.Cleanup(cancel)
	return ctx
}

// lead makes a node's replica the leader. A transfer may fail, for the target is not always ready to campaign.
func (c *cluster) lead(shard uint64, n *testNode, replica uint64) {
	c.t.Helper()
	eventually(c.t, "leadership moved", func() bool {
		l := c.leader(shard)
		if l != n {
			require.NoError(c.t, l.host.TransferLeader(shard, replica))
		}
		return l == n
	})
}

// propose proposes on whoever leads until the command is applied, and returns that node.
func (c *cluster) propose(shard uint64, cmd string) *testNode {
	c.t.Helper()
	for {
		n := c.leader(shard)
		p, err := n.host.Propose(shard, []byte(cmd))
		if errors.Is(err, ErrNotLeader) {
			continue
		}
		require.NoError(c.t, err)
		switch o := p.Wait(c.ctx()); o.Kind {
		case Applied:
			return n
		case NotAppended:
		default:
			c.t.Fatalf("%s: %v", cmd, o.Err)
		}
	}
}

// converged waits until all given nodes have applied exactly these commands.
func (c *cluster) converged(shard uint64, want []string, nodes ...*testNode) {
	c.t.Helper()
	for _, n := range nodes {
		eventually(c.t, fmt.Sprintf("member %d has applied %d commands", n.id, len(want)), func() bool {
			return len(n.machine(shard).commands()) >= len(want)
		})
		require.Equal(c.t, want, n.machine(shard).commands(), "member %d", n.id)
	}
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
		<-tick.C
	}
}
