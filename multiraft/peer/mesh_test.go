package peer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFramesArriveInOrderOnEveryChannel(t *testing.T) {
	n := newTestNet(t)
	a, b := n.member(1, nil), n.member(2, nil)
	const count = 20000
	done := make(chan error, numChannels)
	for ch := Channel(0); ch < numChannels; ch++ {
		want := uint64(0)
		b.Handle(ch, func(from uint64, f []byte) {
			if from != 1 || binary.BigEndian.Uint64(f) != want {
				done <- fmt.Errorf("from %d: frame %d, want %d", from, binary.BigEndian.Uint64(f), want)
				return
			}
			if want++; want == count {
				done <- nil
			}
		})
	}
	require.NoError(t, a.Start())
	require.NoError(t, b.Start())
	for ch := Channel(0); ch < numChannels; ch++ {
		connect(t, a, b, ch)
		go func() {
			buf := make([]byte, 8+ch*100)
			for i := uint64(0); i < count; i++ {
				binary.BigEndian.PutUint64(buf, i)
				if err := a.Send(2, ch, buf); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for range numChannels {
		require.NoError(t, <-done)
	}
}

func TestLargeFramesBothWays(t *testing.T) {
	n := newTestNet(t)
	// Handling such frames may take a slow machine longer than a connection may stand still.
	patient := func(c *Config) { c.DeadAfter = time.Minute }
	a, b := n.member(1, patient), n.member(2, patient)
	big := bytes.Repeat([]byte("0123456789abcdef"), 40<<16)
	back := make(chan bool, 2)
	b.Handle(ChannelRequest, func(_ uint64, f []byte) {
		if err := b.SendWith(1, ChannelRequest, len(f), func(dst []byte) (int, error) { return copy(dst, f), nil }); err != nil {
			t.Error(err)
		}
	})
	a.Handle(ChannelRequest, func(_ uint64, f []byte) { back <- bytes.Equal(f, big) })
	require.NoError(t, a.Start())
	require.NoError(t, b.Start())
	connect(t, a, b, ChannelRequest)
	connect(t, b, a, ChannelRequest)
	require.NoError(t, a.Send(2, ChannelRequest, big))
	require.NoError(t, a.SendWith(2, ChannelRequest, len(big), func(dst []byte) (int, error) { return copy(dst, big), nil }))
	require.True(t, <-back)
	require.True(t, <-back)
	require.ErrorIs(t, a.Send(2, ChannelRequest, make([]byte, MaxFrame+1)), ErrFrameTooLarge)
	require.ErrorIs(t, a.Send(1, ChannelRequest, nil), ErrSelf)
}

func TestReconnectAfterRestartUnderAnotherAddress(t *testing.T) {
	n := newTestNet(t)
	a, b := n.member(1, nil), n.member(2, nil)
	var downs atomic.Int64
	a.NotifyDown(func(member uint64, ch Channel) {
		if member == 2 && ch == ChannelRequest {
			downs.Add(1)
		}
	})
	b.Handle(ChannelRequest, ignore)
	require.NoError(t, a.Start())
	require.NoError(t, b.Start())
	connect(t, a, b, ChannelRequest)
	eventually(t, "there is a round trip time", func() bool { return a.Peers()[0].RTT > 0 })
	require.True(t, a.Peers()[0].Connected)
	b.Close()
	eventually(t, "the loss is told", func() bool { return downs.Load() == 1 })
	require.ErrorIs(t, a.Send(2, ChannelRequest, []byte("x")), ErrNotConnected)
	require.False(t, a.Peers()[0].Connected)
	require.Error(t, a.Peers()[0].Err)

	again := n.member(2, func(c *Config) { c.Incarnation = 2 })
	got := make(chan string, 1)
	again.Handle(ChannelRequest, func(_ uint64, f []byte) { got <- string(f) })
	require.NoError(t, again.Start())
	connect(t, a, again, ChannelRequest)
	require.NoError(t, a.Send(2, ChannelRequest, []byte("hello")))
	require.Equal(t, "hello", <-got)
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		name   string
		adjust func(*Config)
		dial   uint64
		reason string
		check  func(*RefusedError) bool
	}{
		{"cluster", func(c *Config) { c.ClusterID = 0xc2 }, 2, "--initial-cluster-token", (*RefusedError).ClusterMismatch},
		{"removed", func(c *Config) {
			c.Allowed = func(uint64) error { return errors.New("the member was removed from the cluster") }
		}, 2, "was removed", (*RefusedError).NotAllowed},
		{"wrong member", nil, 3, "this is member 0000000000000002", func(e *RefusedError) bool { return e.Member == 2 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newTestNet(t)
			a, b := n.member(1, nil), n.member(2, tc.adjust)
			n.set(3, n.addresses(2)...)
			b.Handle(ChannelRaft, ignore)
			require.NoError(t, a.Start())
			require.NoError(t, b.Start())
			refused := refusal(t, a, tc.dial)
			require.Contains(t, refused.Reason, tc.reason)
			require.True(t, tc.check(refused))
		})
	}
}

func TestNotReadyUntilThereIsAHandler(t *testing.T) {
	n := newTestNet(t)
	a, b := n.member(1, nil), n.member(2, nil)
	require.NoError(t, a.Start())
	require.NoError(t, b.Start())
	require.Contains(t, refusal(t, a, 2).Reason, "starting")
	b.Handle(ChannelRaft, ignore)
	connect(t, a, b, ChannelRaft)
}

func TestANewConnectionReplacesTheOldOne(t *testing.T) {
	n := newTestNet(t)
	a := n.member(1, nil)
	entered, release := make(chan struct{}), make(chan struct{})
	got := make(chan byte, 2)
	a.Handle(ChannelRequest, func(_ uint64, f []byte) {
		if f[0] == 1 {
			close(entered)
			<-release
		}
		got <- f[0]
	})
	require.NoError(t, a.Start())
	open := func(payload byte) net.Conn {
		c, err := net.Dial("tcp", strings.TrimPrefix(n.addresses(1)[0], "http://"))
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		_, err = c.Write(appendFrame(appendHello(nil, hello{version: protocolVersion, channel: ChannelRequest, cluster: testCluster, from: 7, to: 1}),
			frameData, []byte{payload}))
		require.NoError(t, err)
		return c
	}
	first := open(1)
	_, err := readReply(first)
	require.NoError(t, err)
	eventually(t, "the member is connected", func() bool { return a.Peers()[0].Incoming == 1 })
	// What the old connection had not handed over yet would go with it.
	<-entered
	second := open(2)
	// The old connection is closed at once, but the new one waits for the handler that still runs on behalf of the old one.
	// Whether its end shows as an end or as a reset depends on what was still unread.
	_, _ = io.Copy(io.Discard, first)
	require.Empty(t, got)
	close(release)
	require.Equal(t, byte(1), <-got)
	require.Equal(t, byte(2), <-got)
	r, err := readReply(second)
	require.NoError(t, err)
	require.Equal(t, statusOK, r.status)
}

// silentListener accepts, says yes to the handshake, and then neither reads nor writes.
func silentListener(t *testing.T, member uint64) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	conns := make(chan net.Conn, 100)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
			var magic [magicLen]byte
			if _, err := io.ReadFull(c, magic[:]); err != nil {
				continue
			}
			if _, err := readHello(c); err != nil {
				continue
			}
			_, _ = c.Write(appendReply(nil, reply{version: protocolVersion, member: member}))
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-stopped
		close(conns)
		for c := range conns {
			c.Close()
		}
	})
	return "http://" + l.Addr().String()
}

func TestAStalledPeerIsGivenUpAndTheBacklogIsBounded(t *testing.T) {
	n := newTestNet(t)
	a := n.member(1, func(c *Config) { c.Heartbeat, c.DeadAfter = 50*time.Millisecond, time.Second })
	a.maxPending = 4 << 20
	n.set(2, silentListener(t, 2))
	down := make(chan struct{}, 1000)
	a.NotifyDown(func(uint64, Channel) { down <- struct{}{} })
	require.NoError(t, a.Start())
	require.NoError(t, a.WaitConnected(testContext(t), 2, ChannelRaft))
	frame := make([]byte, 1<<20)
	var err error
	for sent := 0; !errors.Is(err, ErrBacklog); {
		switch err = a.Send(2, ChannelRaft, frame); {
		case err == nil:
			sent++
			require.LessOrEqual(t, sent, 32)
		case errors.Is(err, ErrNotConnected):
			// A machine that stalls has the watchdog end the connection before.
			require.NoError(t, a.WaitConnected(testContext(t), 2, ChannelRaft))
			sent = 0
		default:
			require.ErrorIs(t, err, ErrBacklog)
		}
	}
	// The blocking sender is released by the watchdog, when the kernel's buffers are full too.
	err = nil
	for err == nil {
		err = a.SendWith(2, ChannelRaft, len(frame), func(b []byte) (int, error) { return len(b), nil })
	}
	require.ErrorIs(t, err, ErrNotConnected)
	<-down
}

func TestASilentSenderIsGivenUp(t *testing.T) {
	n := newTestNet(t)
	a := n.member(1, func(c *Config) { c.Heartbeat, c.DeadAfter = 50*time.Millisecond, 200*time.Millisecond })
	a.Handle(ChannelRaft, ignore)
	require.NoError(t, a.Start())
	c, err := net.Dial("tcp", strings.TrimPrefix(n.addresses(1)[0], "http://"))
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write(appendHello(nil, hello{version: protocolVersion, channel: ChannelRaft, cluster: testCluster, from: 7, to: 1}))
	require.NoError(t, err)
	_, err = readReply(c)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, c)
	require.NoError(t, err)
}

func TestGarbageOnThePortIsDropped(t *testing.T) {
	n := newTestNet(t)
	a := n.member(1, nil)
	var frames atomic.Int64
	a.Handle(ChannelRaft, func(uint64, []byte) { frames.Add(1) })
	require.NoError(t, a.Start())
	good := appendHello(nil, hello{version: protocolVersion, channel: ChannelRaft, cluster: testCluster, from: 7, to: 1})
	corrupt := appendFrame(nil, frameData, []byte("payload"))
	corrupt[len(corrupt)-1] ^= 1
	for name, b := range map[string][]byte{
		"http":       []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"long hello": append(append([]byte{}, helloMagic[:]...), 0xff, 0xff),
		"corrupt":    append(append([]byte{}, good...), corrupt...),
		"huge":       append(append([]byte{}, good...), 0x0f, 0xff, 0xff, 0xff, 0, 0, 0, 0),
		"bad kind":   append(append([]byte{}, good...), 0xf0, 0, 0, 0, 0, 0, 0, 0),
		"pong":       appendPing(append([]byte{}, good...), framePong, 1),
		"channel":    appendHello(nil, hello{version: protocolVersion, channel: 9, cluster: testCluster, from: 7, to: 1}),
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(n.addresses(1)[0], "http://"))
		require.NoError(t, err, name)
		_, err = c.Write(b)
		require.NoError(t, err, name)
		// The member may have dropped the connection already.
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		c.Close()
	}
	require.Zero(t, frames.Load())
}

func TestCloseEndsWaiters(t *testing.T) {
	n := newTestNet(t)
	a := n.member(1, nil)
	require.NoError(t, a.Start())
	n.set(2, "http://127.0.0.1:1")
	done := make(chan error, 1)
	go func() { done <- a.WaitConnected(testContext(t), 2, ChannelRaft) }()
	eventually(t, "the dial was tried", func() bool { p := a.Peers(); return len(p) == 1 && p[0].Err != nil })
	a.Close()
	require.ErrorIs(t, <-done, ErrClosed)
	require.ErrorIs(t, a.Send(2, ChannelRaft, nil), ErrClosed)
}

func TestConfigurationIsCheckedAtOnce(t *testing.T) {
	_, err := New(Config{})
	require.ErrorContains(t, err, "cluster id is zero")
	require.ErrorContains(t, err, "member id is zero")
}
