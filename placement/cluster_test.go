package placement

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
)

// cluster is a cluster of nodes in one bubble of fake time: a log in memory, and a
// network whose frames take a moment and may be lost.
type cluster struct {
	t     *testing.T
	log   *fakeLog
	start time.Time
	mode  ReadMode
	mu    struct {
		sync.Mutex
		nodes map[uint64]*Node
		// severed pairs exchange no frames.
		severed map[[2]uint64]bool
		// drop, if set, decides about each frame.
		drop func(from, to uint64) bool
	}
	disks       map[uint64]*memStorage
	incarnation uint64
	wires       sync.WaitGroup
	latency     time.Duration
}

func newCluster(t *testing.T, members int, mode ReadMode) *cluster {
	c := &cluster{t: t, log: newFakeLog(), start: time.Now(), mode: mode, disks: map[uint64]*memStorage{}, latency: time.Millisecond}
	c.mu.nodes = map[uint64]*Node{}
	c.mu.severed = map[[2]uint64]bool{}
	for i := range members {
		c.disks[uint64(i)+1] = newMemStorage()
	}
	for i := range members {
		c.boot(uint64(i) + 1)
	}
	return c
}

// boot starts a new process of a member.
func (c *cluster) boot(id uint64) *Node {
	c.incarnation++
	level := zap.WarnLevel
	if testing.Verbose() {
		level = zap.DebugLevel
	}
	return c.log.attach(c.t, id, func(r Raft) *Node {
		n, err := NewNode(Config{
			Member: id, Replica: id, Incarnation: c.incarnation,
			Raft: r, Open: c.disks[id].open, Init: testInit(c.t, len(c.disks)),
			Send:     func(to uint64, frame []byte) error { return c.send(id, to, frame) },
			Conn:     func(to uint64) (grpc.ClientConnInterface, error) { return &fakeConn{c, id, to}, nil },
			ReadMode: c.mode,
			// Each member's clock has an origin of its own.
			Clock:  func() time.Duration { return time.Since(c.start) + time.Duration(id)*1000*time.Hour },
			Logger: zaptest.NewLogger(c.t, zaptest.Level(level)).With(zap.Uint64("member", id)),
		})
		require.NoError(c.t, err)
		c.mu.Lock()
		c.mu.nodes[id] = n
		c.mu.Unlock()
		return n
	})
}

func (c *cluster) node(id uint64) *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.nodes[id]
}

func (c *cluster) send(from, to uint64, frame []byte) error {
	c.mu.Lock()
	gone := c.mu.severed[[2]uint64{from, to}] || c.mu.severed[[2]uint64{to, from}] || c.mu.nodes[to] == nil
	drop := c.mu.drop
	c.mu.Unlock()
	if gone {
		return errors.New("not connected")
	}
	if drop != nil && drop(from, to) {
		return nil
	}
	frame = append([]byte(nil), frame...)
	c.wires.Go(func() {
		time.Sleep(c.latency)
		if n := c.node(to); n != nil {
			n.HandleFrame(from, frame)
		}
	})
	return nil
}

func (c *cluster) sever(a, b uint64, cut bool) {
	c.mu.Lock()
	c.mu.severed[[2]uint64{a, b}] = cut
	na, nb := c.mu.nodes[a], c.mu.nodes[b]
	c.mu.Unlock()
	if cut {
		if na != nil {
			na.PeerDown(b)
		}
		if nb != nil {
			nb.PeerDown(a)
		}
	}
}

// isolate cuts a member off from log and network.
func (c *cluster) isolate(id uint64, cut bool) {
	c.log.cut(id, cut)
	for other := range c.disks {
		if other != id {
			c.sever(id, other, cut)
		}
	}
}

// kill ends a process; what it had not synced is lost.
func (c *cluster) kill(id uint64) {
	c.mu.Lock()
	n := c.mu.nodes[id]
	delete(c.mu.nodes, id)
	c.mu.Unlock()
	c.log.detach(id)
	n.Close()
	c.disks[id].crash()
	for other := range c.disks {
		if o := c.node(other); o != nil {
			o.PeerDown(id)
		}
	}
}

func (c *cluster) close() {
	for id := range c.disks {
		if n := c.node(id); n != nil {
			n.Close()
		}
	}
	c.wires.Wait()
}

// fakeConn calls another node's service without a network.
type fakeConn struct {
	c        *cluster
	from, to uint64
}

func (f *fakeConn) Invoke(ctx context.Context, method string, in, out any, _ ...grpc.CallOption) error {
	n := f.c.node(f.to)
	f.c.mu.Lock()
	gone := n == nil || f.c.mu.severed[[2]uint64{f.from, f.to}] || f.c.mu.severed[[2]uint64{f.to, f.from}]
	f.c.mu.Unlock()
	if gone {
		return errors.New("unavailable")
	}
	if method != kvdpb.Placement_Update_FullMethodName {
		return fmt.Errorf("unexpected method %s", method)
	}
	res, err := n.Service().Update(ctx, in.(*kvdpb.PlacementCommand))
	if err != nil {
		return err
	}
	o := out.(*kvdpb.PlacementResult)
	o.Rejection, o.Reason, o.Descriptor_ = res.Rejection, res.Reason, res.Descriptor_
	o.Version, o.CompactRevision = res.Version, res.CompactRevision
	return nil
}

func (f *fakeConn) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("no streams")
}

// bubble runs a test in fake time.
func bubble(t *testing.T, members int, mode ReadMode, run func(t *testing.T, c *cluster, ctx context.Context)) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, members, mode)
		defer c.close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		run(t, c, ctx)
	})
}

func (c *cluster) allocate(ctx context.Context, id uint64, n int) int64 {
	c.t.Helper()
	g, err := c.node(id).Allocate(ctx, n, 0)
	require.NoError(c.t, err)
	return g.First
}

func (c *cluster) current(ctx context.Context, id uint64) int64 {
	c.t.Helper()
	g, err := c.node(id).Current(ctx)
	require.NoError(c.t, err)
	return g.First
}
