package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/server/config"
)

// cluster is the members of one cluster in this process.
type cluster struct {
	dir, initial   string
	peers, clients []string
	members        []*Member
}

// freeURL finds a port nobody listens on.
func freeURL(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return "http://" + l.Addr().String()
}

func newCluster(t testing.TB, n int) *cluster {
	c := &cluster{dir: t.TempDir(), members: make([]*Member, n)}
	var initial []string
	for i := range n {
		c.peers = append(c.peers, freeURL(t))
		c.clients = append(c.clients, freeURL(t))
		initial = append(initial, fmt.Sprintf("m%d=%s", i, c.peers[i]))
	}
	c.initial = strings.Join(initial, ",")
	return c
}

func (c *cluster) config(t testing.TB, i int, more ...string) *config.Config {
	name := fmt.Sprintf("m%d", i)
	args := []string{
		"--name", name, "--data-dir", filepath.Join(c.dir, name), "--initial-cluster", c.initial,
		"--listen-peer-urls", c.peers[i], "--initial-advertise-peer-urls", c.peers[i],
		"--listen-client-urls", c.clients[i], "--advertise-client-urls", c.clients[i],
		"--unsafe-no-fsync", "--block-cache-bytes=16777216",
		// A sequencer that is lost because the machine is busy skips revisions, as it may: not in these tests.
		"--election-timeout=5000",
	}
	inv, err := config.Parse(append(args, more...), nil)
	require.NoError(t, err)
	inv.Config.Logger = zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)).Named(name)
	return inv.Config
}

// start starts the given members at once.
func (c *cluster) start(t *testing.T, which ...int) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for _, i := range which {
		cfg := c.config(t, i)
		wg.Add(1)
		go func() {
			defer wg.Done()
			var err error
			if c.members[i], err = Start(ctx, cfg); err != nil {
				t.Errorf("start member %d: %v", i, err)
			}
		}()
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// stop stops the given members at once.
func (c *cluster) stop(which ...int) {
	var wg sync.WaitGroup
	for _, i := range which {
		if c.members[i] == nil {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			c.members[i].Close()
			c.members[i] = nil
		}()
	}
	wg.Wait()
}

func (c *cluster) client(t *testing.T, i int) *clientv3.Client {
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{c.clients[i]}, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

func TestOneMemberRestartsWhereItWas(t *testing.T) {
	c := newCluster(t, 1)
	defer c.stop(0)
	for round := range 3 {
		c.start(t, 0)
		cli := c.client(t, 0)
		resp, err := cli.Put(t.Context(), "k", fmt.Sprint(round))
		require.NoError(t, err)
		require.EqualValues(t, round+2, resp.Header.Revision, "a clean restart skips no revision")
		got, err := cli.Get(t.Context(), "k", clientv3.WithRev(2))
		require.NoError(t, err)
		require.Equal(t, "0", string(got.Kvs[0].Value))
		c.stop(0)
	}
}

func TestThreeMembersAreOneStore(t *testing.T) {
	c := newCluster(t, 3)
	all := []int{0, 1, 2}
	defer c.stop(all...)
	c.start(t, all...)
	revision := int64(1)
	put := func(i int, key, value string) {
		t.Helper()
		resp, err := c.client(t, i).Put(t.Context(), key, value)
		require.NoError(t, err)
		revision++
		require.Equal(t, revision, resp.Header.Revision, "revisions are dense")
	}
	watch := c.client(t, 1).Watch(t.Context(), "k", clientv3.WithPrefix(), clientv3.WithRev(2))
	for i := range 9 {
		put(i%3, fmt.Sprintf("k%d", i), "before")
	}
	for _, key := range []string{"k3", "k6"} {
		_, right, err := c.members[0].router.Split(t.Context(), []byte(key))
		require.NoError(t, err)
		require.Equal(t, keyspace.User([]byte(key)), right.Start)
	}
	for i := range 9 {
		put(i%3, fmt.Sprintf("k%d", i), "after")
	}
	for i := range 3 {
		cli := c.client(t, i)
		for rev, value := range map[int64]string{10: "before", revision: "after"} {
			got, err := cli.Get(t.Context(), "k", clientv3.WithPrefix(), clientv3.WithRev(rev))
			require.NoError(t, err)
			require.Len(t, got.Kvs, 9)
			for _, kv := range got.Kvs {
				require.Equal(t, value, string(kv.Value))
			}
		}
	}
	next := int64(2)
	for next <= revision {
		resp, ok := <-watch
		require.True(t, ok)
		require.NoError(t, resp.Err())
		for _, e := range resp.Events {
			require.Equal(t, next, e.Kv.ModRevision, "every event once, in order")
			next++
		}
	}

	// One after another, as a rolling restart does, and all at once.
	for i := range 3 {
		c.stop(i)
		c.start(t, i)
		put((i+1)%3, "k4", "rolling")
	}
	c.stop(all...)
	c.start(t, all...)
	put(2, "k5", "back")
	got, err := c.client(t, 0).Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	require.NoError(t, err)
	require.EqualValues(t, 9, got.Count)
	infos, _, err := c.members[1].router.Shards(t.Context())
	require.NoError(t, err)
	require.Len(t, infos, 3)
}

func TestStartObeysItsContext(t *testing.T) {
	c := newCluster(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := Start(ctx, c.config(t, 0))
	require.ErrorIs(t, err, context.DeadlineExceeded, "one of three is no cluster")
	// Everything was given back: the ports and the directory's lock.
	one := newCluster(t, 1)
	one.peers[0], one.clients[0] = c.peers[0], c.clients[0]
	one.initial = "m0=" + one.peers[0]
	defer one.stop(0)
	one.start(t, 0)
}

func TestStartRefuses(t *testing.T) {
	c := newCluster(t, 1)
	defer c.stop(0)
	c.start(t, 0)
	_, err := Start(t.Context(), c.config(t, 0))
	require.ErrorContains(t, err, "in use by another process")

	other := newCluster(t, 1)
	other.peers[0] = c.peers[0]
	other.initial = "m0=" + other.peers[0]
	_, err = Start(t.Context(), other.config(t, 0))
	var op *net.OpError
	require.True(t, errors.As(err, &op), "a port in use: %v", err)
}

func TestCloseEndsRequests(t *testing.T) {
	c := newCluster(t, 1)
	c.start(t, 0)
	r := c.members[0].router
	c.stop(0)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := r.Put(ctx, &pb.PutRequest{Key: []byte("k")})
	require.Error(t, err)
	require.NoError(t, ctx.Err(), "it did not have to wait for its deadline")
}

// Raft calls the other members before the parts exist that want to know of a lost
// connection.
func TestConnectionLostWhileStarting(t *testing.T) {
	c := newCluster(t, 2)
	var ms []*Member
	for i := range 2 {
		m := &Member{cfg: c.config(t, i), stopped: make(chan error, 1), giveUp: func(error) {}}
		m.log = m.cfg.Logger
		t.Cleanup(m.undo)
		for _, step := range []func(context.Context) error{m.openDirectory, m.openEngine, m.openMesh, m.openPlacement} {
			require.NoError(t, step(t.Context()))
		}
		ms = append(ms, m)
	}
	other := ms[0].id.member
	connected := func() bool {
		return slices.ContainsFunc(ms[1].mesh.Peers(), func(p peer.Status) bool { return p.Member == other && p.Connected })
	}
	require.NoError(t, ms[0].mesh.Start())
	require.Eventually(t, func() bool {
		_ = ms[1].mesh.Send(other, peer.ChannelRequest, []byte{frameCallReply})
		return connected()
	}, time.Minute, 10*time.Millisecond)
	ms[0].mesh.Close()
	require.Eventually(t, func() bool { return !connected() }, time.Minute, 10*time.Millisecond)
}
