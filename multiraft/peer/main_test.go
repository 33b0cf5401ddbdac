package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testCluster = 0xc1

// net of meshes on loopback, whose addresses are known to each other.
type testNet struct {
	t  testing.TB
	mu sync.Mutex
	// urls is the member table.
	urls map[uint64][]string
}

func newTestNet(t testing.TB) *testNet {
	return &testNet{t: t, urls: make(map[uint64][]string)}
}

func (n *testNet) addresses(member uint64) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.urls[member]
}

func (n *testNet) set(member uint64, urls ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.urls[member] = urls
}

// member makes a mesh that listens and is in the member table; adjust may change its configuration.
func (n *testNet) member(id uint64, adjust func(*Config)) *Mesh {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	cfg := Config{ClusterID: testCluster, MemberID: id, Incarnation: 1, Listeners: []net.Listener{l}, Addresses: n.addresses,
		Logger: zaptest.NewLogger(n.t, zaptest.Level(zap.WarnLevel))}
	scheme := "http"
	if adjust != nil {
		adjust(&cfg)
	}
	if cfg.ServerTLS != nil {
		scheme = "https"
	}
	n.set(id, fmt.Sprintf("%s://%s", scheme, l.Addr()))
	m, err := New(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(m.Close)
	return m
}

func ignore(uint64, []byte) {}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func connect(t testing.TB, from, to *Mesh, ch Channel) {
	t.Helper()
	if err := from.WaitConnected(testContext(t), to.MemberID(), ch); err != nil {
		t.Fatal(err)
	}
}

// eventually polls a condition that another goroutine brings about.
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

func refusal(t *testing.T, from *Mesh, to uint64) *RefusedError {
	t.Helper()
	var refused *RefusedError
	eventually(t, "the connection is refused", func() bool {
		err := from.Send(to, ChannelRaft, []byte("x"))
		if !errors.Is(err, ErrNotConnected) {
			t.Fatalf("Send: %v", err)
		}
		for _, s := range from.Peers() {
			if s.Member == to && errors.As(s.Err, &refused) {
				return true
			}
		}
		return false
	})
	return refused
}
