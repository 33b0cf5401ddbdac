package peer

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// incomingSlot holds the one connection on which a member sends on a channel: the transport below TLS, whose Close never waits.
type incomingSlot struct {
	mu   sync.Mutex
	conn net.Conn
	done chan struct{}
}

func (s *incomingSlot) connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn != nil
}

func (s *incomingSlot) closeConn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Close()
	}
}

// take makes conn the slot's connection once the previous one's reader has ended. It returns false if the previous reader does not end
// within the time of a handshake.
func (s *incomingSlot) take(ctx context.Context, conn net.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	for {
		s.mu.Lock()
		if s.conn == nil {
			s.conn, s.done = conn, make(chan struct{})
			s.mu.Unlock()
			return true
		}
		_ = s.conn.Close()
		done := s.done
		s.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return false
		}
	}
}

func (s *incomingSlot) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = nil
	close(s.done)
}

// accept takes connections from one listener until it is closed.
func (m *Mesh) accept(l net.Listener) {
	defer m.wg.Done()
	pause := 5 * time.Millisecond
	for {
		conn, err := l.Accept()
		if err != nil {
			if m.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, most likely: try again, but do not spin.
			m.log.Warn("accepting a peer connection failed", zap.Error(err))
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-m.ctx.Done():
				t.Stop()
				return
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		select {
		case m.unidentified <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		if !m.track(conn) {
			return
		}
		m.wg.Add(1)
		go m.identify(conn)
	}
}

// identify finds out what a new connection is and serves it.
func (m *Mesh) identify(raw net.Conn) {
	defer m.wg.Done()
	identified := sync.OnceFunc(func() { <-m.unidentified })
	defer identified()
	served := false
	defer func() {
		if !served {
			m.untrack(raw)
		}
	}()
	if err := raw.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return
	}
	conn := raw
	if m.cfg.ServerTLS != nil {
		tc := tls.Server(raw, m.cfg.ServerTLS)
		if err := tc.HandshakeContext(m.ctx); err != nil {
			if m.ctx.Err() == nil {
				m.log.Warn("peer TLS handshake failed", zap.Stringer("remote", raw.RemoteAddr()), zap.Error(err))
			}
			return
		}
		conn = tc
	}
	var first [magicLen]byte
	n, err := io.ReadAtLeast(conn, first[:], 1)
	for err == nil && n < magicLen && string(first[:n]) == string(helloMagic[:n]) {
		var more int
		more, err = conn.Read(first[n:])
		n += more
	}
	if err != nil {
		return
	}
	if first != helloMagic {
		identified()
		served = true
		m.bulk.hand(&sniffedConn{Conn: conn, prefix: first[:n], forget: func() { m.untrack(raw) }})
		return
	}
	h, err := readHello(conn)
	if err != nil {
		m.log.Warn("peer handshake failed", zap.Stringer("remote", raw.RemoteAddr()), zap.Error(err))
		return
	}
	if status, reason := m.judge(h); status != statusOK {
		m.logRefusal(h.from, "incoming", reason, zap.Stringer("remote", raw.RemoteAddr()))
		m.answer(conn, status, reason)
		return
	}
	if h.channel == channelProbe {
		m.answer(conn, statusOK, "")
		return
	}
	identified()
	m.serveIncoming(raw, conn, h)
}

// judge decides on a hello.
func (m *Mesh) judge(h hello) (status uint8, reason string) {
	switch {
	case h.version != protocolVersion:
		return statusVersion, fmt.Sprintf("peer protocol version mismatch: %d here, %d there", protocolVersion, h.version)
	case h.cluster != m.cfg.ClusterID:
		return statusCluster, clusterMismatch(m.cfg.ClusterID, h.cluster)
	case h.to != m.cfg.MemberID:
		return statusTarget, fmt.Sprintf("this is member %016x, not %016x (does a peer URL point to the wrong member?)", m.cfg.MemberID, h.to)
	case h.from == m.cfg.MemberID || h.from == 0:
		return statusTarget, fmt.Sprintf("member id %016x is this member's own or zero", h.from)
	case h.channel >= numChannels && h.channel != channelProbe:
		return statusProtocol, fmt.Sprintf("unknown channel %d", h.channel)
	}
	if m.cfg.Allowed != nil {
		if err := m.cfg.Allowed(h.from); errors.Is(err, ErrRemoved) {
			return statusRemoved, err.Error()
		} else if err != nil {
			return statusNotAllowed, err.Error()
		}
	}
	if h.channel == channelProbe {
		if m.cfg.Began != nil && m.cfg.Began(h.from) {
			return statusBegan, "the member has taken part in the cluster already"
		}
		return statusOK, ""
	}
	if m.handlers[h.channel].Load() == nil {
		return statusNotReady, "the member is still starting"
	}
	return statusOK, ""
}

func clusterMismatch(here, there uint64) string {
	return fmt.Sprintf("cluster ID mismatch: %016x here, %016x there (is --initial-cluster-token / --initial-cluster the same on all members?)",
		here, there)
}

func (m *Mesh) answer(conn net.Conn, status uint8, reason string) bool {
	_, err := conn.Write(appendReply(nil, reply{version: protocolVersion, status: status, member: m.cfg.MemberID,
		incarnation: m.cfg.Incarnation, reason: reason}))
	return err == nil
}

// serveIncoming delivers the frames of an accepted connection until it ends.
func (m *Mesh) serveIncoming(raw, conn net.Conn, h hello) {
	r := m.remote(h.from)
	slot := &r.in[h.channel]
	if !slot.take(m.ctx, raw) {
		m.answer(conn, statusNotReady, "the previous connection is still being served")
		return
	}
	defer slot.release()
	if !m.answer(conn, statusOK, "") || conn.SetDeadline(time.Time{}) != nil {
		return
	}
	// The other side is alive: no need to wait out a backoff before dialling it.
	for _, o := range r.out {
		o.kickDial()
	}
	m.clearRefusal(h.from)
	err := m.readFrames(conn, h, &r.received)
	_ = raw.Close()
	if m.ctx.Err() == nil {
		level := zap.InfoLevel
		if errors.Is(err, errFrame) {
			level = zap.ErrorLevel
		}
		m.log.Log(level, "connection from peer ended", zap.String("member", fmt.Sprintf("%016x", h.from)),
			zap.Stringer("channel", h.channel), zap.Error(err))
	}
	m.notifyDown(h.from, h.channel)
}

func (m *Mesh) readFrames(conn net.Conn, h hello, received *atomic.Uint64) error {
	handle := *m.handlers[h.channel].Load()
	fr := newFrameReader(&watchedReader{conn: conn, limit: m.cfg.DeadAfter, received: received}, MaxFrame)
	var pong []byte
	for {
		kind, payload, err := fr.next()
		if err != nil {
			return err
		}
		switch kind {
		case frameData:
			handle(h.from, payload)
		case framePing:
			pong = appendPing(pong[:0], framePong, int64(binary.BigEndian.Uint64(payload)))
			if err := conn.SetWriteDeadline(time.Now().Add(m.cfg.DeadAfter)); err != nil {
				return err
			}
			if _, err := conn.Write(pong); err != nil {
				return fmt.Errorf("answering a ping: %w", err)
			}
		default:
			return fmt.Errorf("%w: kind %d on the receiving side", errFrame, kind)
		}
	}
}

// watchedReader fails when nothing at all arrives for the limit; the sender pings more often than that. The deadline is moved only
// now and then, because moving it costs about as much as a small frame.
type watchedReader struct {
	conn  net.Conn
	limit time.Duration
	set   int64
	// received counts the bytes.
	received *atomic.Uint64
}

func (w *watchedReader) Read(b []byte) (int, error) {
	if t := now(); w.set == 0 || t-w.set > int64(w.limit/4) {
		w.set = t
		if err := w.conn.SetReadDeadline(time.Now().Add(w.limit + w.limit/4)); err != nil {
			return 0, err
		}
	}
	n, err := w.conn.Read(b)
	w.received.Add(uint64(n))
	return n, err
}

// sniffedConn gives back the bytes that were read to tell the protocol.
type sniffedConn struct {
	net.Conn
	prefix []byte
	once   sync.Once
	forget func()
}

func (c *sniffedConn) Read(b []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(b, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

func (c *sniffedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.forget)
	return err
}
