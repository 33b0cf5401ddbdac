package watch

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/ownership"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster runs hubs as they run in production: the first member holds replicas of
// all shards, which apply on goroutines of their own and in their own time; the
// second holds none and follows the first by feeds.
type cluster struct {
	t *testing.T

	mu struct {
		sync.Mutex
		world *world
		// gone is set while the first member cannot be reached.
		gone bool
	}
	hub, far *Hub
	conn     *grpc.ClientConn
	server   *grpc.Server
	work     map[uint64]chan int // entries to apply
	wg       sync.WaitGroup
}

func newCluster(t *testing.T, cfg Config) *cluster {
	c := &cluster{t: t, work: map[uint64]chan int{}}
	w := &world{t: t, shards: map[uint64]*simShard{}, rev: 1}
	c.mu.world = w
	cfg.Stores, cfg.Resolver, cfg.Revisions = c, c, c
	cfg.Map = func() RangeMap { return c }
	near := cfg
	near.MemberID = 1
	c.hub = NewHub(near)
	w.hub = c.hub
	lis := bufconn.Listen(1 << 20)
	c.server = grpc.NewServer()
	c.hub.RegisterFeed(c.server)
	c.wg.Go(func() { _ = c.server.Serve(lis) })
	var err error
	c.conn, err = grpc.NewClient("passthrough:///near", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return lis.Dial() }))
	require.NoError(t, err)
	far := cfg
	far.MemberID, far.Peers, far.Stores = 2, c, noStores{}
	c.far = NewHub(far)
	return c
}

type noStores struct{}

func (noStores) Snapshot(uint64) (Snapshot, error) { return nil, ErrNoReplica }

func (c *cluster) close() {
	for _, ch := range c.work {
		close(ch)
	}
	c.far.Close()
	c.hub.Close()
	require.NoError(c.t, c.conn.Close())
	c.server.Stop()
	c.wg.Wait()
}

// Conn implements Peers.
func (c *cluster) Conn(member uint64) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.gone {
		return nil, errors.New("unreachable")
	}
	return c.conn, nil
}

// Overlapping implements RangeMap: placement knows the newest descriptors.
func (c *cluster) Overlapping(span keyspace.Span) []*kvdpb.Descriptor {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*kvdpb.Descriptor
	for _, s := range c.mu.world.shards {
		if spanOf(s.desc).Overlaps(span) {
			d := &kvdpb.Descriptor{Shard: s.desc.Shard, Start: s.desc.Start, End: s.desc.End, Generation: s.desc.Generation}
			d.Replicas = []*kvdpb.Replica{{Member: 1, Replica: 1}}
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b *kvdpb.Descriptor) int { return slices.Compare(a.Start, b.Start) })
	return out
}

// Snapshot implements Stores.
func (c *cluster) Snapshot(id uint64) (Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.mu.world.shards[id]
	if s == nil || !s.opened {
		return nil, ErrNoReplica
	}
	// A copy, since the truth goes on.
	frozen := *s
	frozen.log = slices.Clone(s.log[:s.applied])
	return &simSnapshot{s: &frozen, applied: int(s.applied), compacted: s.compacted}, nil
}

// Resolve implements Resolver: owners answer, each in its own time.
func (c *cluster) Resolve(ctx context.Context, rev int64, shards []uint64, answer func(shard.Resolved)) {
	var wg sync.WaitGroup
	for _, id := range shards {
		wg.Go(func() {
			c.mu.Lock()
			s := c.mu.world.shards[id]
			r := c.mu.world.resolved(id)
			serves := s.opened && rand.Intn(10) > 0
			c.mu.Unlock()
			if serves {
				answer(r)
			}
		})
	}
	wg.Wait()
}

// Current implements Revisions.
func (c *cluster) Current(context.Context) (shard.Grant, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return shard.Grant{First: c.mu.world.rev, Stamp: ownership.Stamp{CompactRevision: c.mu.world.compacted}}, nil
}

// TryCurrent implements Revisions.
func (c *cluster) TryCurrent() (shard.Grant, bool) { return shard.Grant{}, false }

// addShard starts a shard and its replica.
func (c *cluster) addShard(id uint64, start, end string) {
	c.mu.Lock()
	s := c.mu.world.addShard(id, start, end)
	s.opened = true
	c.mu.Unlock()
	c.hub.Opened(id, s.desc, 0, 1)
	c.startApplying(id)
	c.far.MapChanged()
}

// startApplying runs a shard's apply.
func (c *cluster) startApplying(id uint64) {
	ch := make(chan int, 1<<16)
	c.work[id] = ch
	c.wg.Go(func() {
		for range ch {
			if rand.Intn(4) == 0 {
				<-time.After(time.Duration(rand.Intn(300)) * time.Microsecond) // a pace, not a wait
			}
			c.applyNext(id)
		}
	})
}

func (c *cluster) applyNext(id uint64) {
	c.mu.Lock()
	s := c.mu.world.shards[id]
	e := s.log[s.applied]
	s.applied++
	applied, last := s.applied, s.lastAt(s.applied)
	c.mu.Unlock()
	if e.child == nil {
		c.hub.Applied(id, applied, e.events())
		return
	}
	c.hub.Split(e.parent, e.child, applied, last)
	c.mu.Lock()
	child := c.mu.world.shards[e.child.Shard]
	child.opened = true
	first := child.lastAt(0)
	backlog := len(child.log)
	c.startApplying(e.child.Shard)
	ch := c.work[e.child.Shard]
	c.mu.Unlock()
	c.hub.Opened(e.child.Shard, e.child, 0, first)
	c.far.MapChanged()
	for range backlog {
		ch <- 1
	}
}

// write makes a transaction and has it applied.
func (c *cluster) write(changes map[string]*string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.mu.world
	before := map[uint64]int{}
	for id, s := range w.shards {
		before[id] = len(s.log)
	}
	w.write(w.rev+1, changes)
	c.kickLocked(before)
	return w.rev
}

func (c *cluster) kickLocked(before map[uint64]int) {
	for id, s := range c.mu.world.shards {
		// The backlog of a child is kicked when it opens.
		if len(s.log) > before[id] && s.opened {
			c.work[id] <- 1
		}
	}
}

func (c *cluster) split(key string, child uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := map[uint64]int{}
	for id, s := range c.mu.world.shards {
		before[id] = len(s.log)
	}
	c.mu.world.split(key, child)
	c.kickLocked(before)
}

// truth lists all changes of a span in revisions [from, to].
func (c *cluster) truth(span keyspace.Span, from, to int64) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := map[string]change{}
	for _, s := range c.mu.world.shards {
		for _, ch := range s.history(len(s.log)) {
			if ch.rev >= from && ch.rev <= to && span.Contains(ch.kv.Key) {
				seen[fmt.Sprint(ch.rev, ch.sub)] = ch
			}
		}
	}
	var cs []change
	for _, ch := range seen {
		cs = append(cs, ch)
	}
	slices.SortFunc(cs, func(a, b change) int {
		if a.rev != b.rev {
			return int(a.rev - b.rev)
		}
		return int(a.sub - b.sub)
	})
	var out []string
	for _, ch := range cs {
		out = append(out, fmt.Sprintf("%d:%s", ch.rev, ch.kv.Key[1:]))
	}
	return out
}

// client is one stream with one watch, and what it got.
type client struct {
	span  keyspace.Span
	start int64
	prev  bool
	mu    sync.Mutex
	got   []string
	last  int64
	err   error
	known map[string]*mvccpb.KeyValue
	done  chan struct{}
	stop  context.CancelFunc
}

// watch begins a client. A slow one rests now and then.
func (c *cluster) watch(h *Hub, key, end string, start int64, prev, slow bool) *client {
	cl := &client{span: keyspace.UserSpan([]byte(key), []byte(end)), start: start, prev: prev, done: make(chan struct{})}
	cl.known = map[string]*mvccpb.KeyValue{}
	s := h.NewStream()
	ctx, cancel := context.WithCancel(context.Background())
	cl.stop = func() {
		cancel()
		<-cl.done
		s.Close()
	}
	go func() {
		defer close(cl.done)
		_ = s.Run(ctx, func(r *Response) error {
			if slow && rand.Intn(10) == 0 {
				<-time.After(2 * time.Millisecond) // a pace, not a wait
			}
			cl.take(r)
			return nil
		})
	}()
	req := &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end), StartRevision: start, PrevKv: prev}
	require.NoError(c.t, s.Create(ctx, req))
	return cl
}

func (cl *client) take(r *Response) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if r.Created && cl.start == 0 {
		cl.start = r.Revision + 1
	}
	if r.Canceled && cl.err == nil {
		cl.err = fmt.Errorf("canceled: %s", show(r))
	}
	for _, ev := range r.Events() {
		rev, key := ev.Kv.ModRevision, string(ev.Kv.Key)
		if rev < cl.last && cl.err == nil {
			cl.err = fmt.Errorf("revision %d after %d", rev, cl.last)
		}
		cl.last = rev
		cl.got = append(cl.got, fmt.Sprintf("%d:%s", rev, key))
		old := cl.known[key]
		if cl.prev && old != nil && cl.err == nil && (ev.PrevKv == nil || ev.PrevKv.ModRevision != old.ModRevision || string(ev.PrevKv.Value) != string(old.Value)) {
			cl.err = fmt.Errorf("at %d the previous value of %s is %v, was %v", rev, key, ev.PrevKv, old)
		}
		if cl.known[key] = ev.Kv; ev.Type == mvccpb.Event_DELETE {
			delete(cl.known, key)
		}
	}
}

// finish waits until the client has got everything up to rev and checks it.
func (c *cluster) finish(cl *client, rev int64) {
	var want []string
	require.Eventually(c.t, func() bool {
		cl.mu.Lock()
		defer cl.mu.Unlock()
		if cl.start == 0 {
			return false
		}
		want = c.truth(cl.span, cl.start, rev)
		return cl.err != nil || len(cl.got) >= len(want)
	}, time.Minute, time.Millisecond)
	cl.mu.Lock()
	require.NoError(c.t, cl.err)
	require.Equal(c.t, want, cl.got)
	cl.mu.Unlock()
	cl.stop()
}

func TestClusterUnderLoad(t *testing.T) {
	c := newCluster(t, Config{StreamBytes: 4 << 10, RingBytes: 24 << 10, WindowBytes: 2 << 10})
	defer c.close()
	c.addShard(1, "", "h")
	c.addShard(2, "h", "p")
	c.addShard(3, "p", "")
	key := func() string { return string(rune('a' + rand.Intn(26))) }
	var clients []*client
	var last int64
	child := uint64(10)
	for i := range 1500 {
		v := fmt.Sprintf("value %d", i)
		changes := map[string]*string{key(): &v}
		if i%5 == 0 {
			changes[key()] = &v
		}
		if i%7 == 0 {
			changes[key()] = nil
		}
		last = c.write(changes)
		if i%40 == 0 {
			h := []*Hub{c.hub, c.far}[i/40%2]
			a, b := key(), key()
			if a > b {
				a, b = b, a
			}
			start := int64(0)
			if i%80 == 0 {
				start = 1 + rand.Int63n(last)
			}
			clients = append(clients, c.watch(h, a, b+"~", start, i%3 == 0, i%4 == 0))
			clients = append(clients, c.watch(h, key(), "", start, i%3 == 1, false))
		}
		if i%200 == 150 {
			child++
			k := []string{"d", "k", "t", "f", "m", "w", "b"}[i/200%7]
			c.split(k, child)
		}
		if i%300 == 299 {
			c.mu.Lock()
			c.mu.gone = i%600 == 299
			c.mu.Unlock()
		}
		if i%10 == 0 {
			<-time.After(100 * time.Microsecond) // a pace, not a wait
		}
	}
	c.mu.Lock()
	c.mu.gone = false
	c.mu.Unlock()
	for _, cl := range clients {
		c.finish(cl, last)
	}
}
