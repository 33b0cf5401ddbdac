package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"
)

const (
	// sniffTimeout bounds the TLS handshake and the first bytes of a connection.
	sniffTimeout = 20 * time.Second
	// maxUnknown bounds the connections of one port that have not shown yet what
	// they speak.
	maxUnknown = 8192
)

// preface is how HTTP/2 begins; no method of HTTP/1 is called PRI.
const preface = "PRI * HTTP/2.0"

// port accepts connections and hands each to the server that it speaks with.
type port struct {
	Port
	tls  *tls.Config
	log  *zap.Logger
	grpc *handed
	http *handed

	unknown chan struct{}
	wg      sync.WaitGroup
	mu      struct {
		sync.Mutex
		closed bool
		// sniffed are the connections that have not been handed on yet.
		sniffed map[net.Conn]struct{}
	}
}

func newPort(p Port, config *tls.Config, grpc, http *handed, log *zap.Logger) *port {
	q := &port{Port: p, log: log, grpc: grpc, http: http, unknown: make(chan struct{}, maxUnknown)}
	q.mu.sniffed = make(map[net.Conn]struct{})
	if p.Secure {
		q.tls = offerEither(config, p.GRPC)
	}
	return q
}

// offerEither makes ALPN tell gRPC clients, which offer h2 alone, from others.
func offerEither(config *tls.Config, grpc bool) *tls.Config {
	h2, h1 := config.Clone(), config.Clone()
	h2.NextProtos, h1.NextProtos = []string{"h2"}, []string{"http/1.1"}
	both := config.Clone()
	inner := config.GetConfigForClient
	both.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		wants := h1
		if grpc && slices.Contains(hello.SupportedProtos, "h2") && !slices.Contains(hello.SupportedProtos, "http/1.1") {
			wants = h2
		}
		if inner == nil {
			return wants, nil
		}
		c, err := inner(hello)
		if c == nil || err != nil {
			return wants, err
		}
		c = c.Clone()
		c.NextProtos = wants.NextProtos
		return c, nil
	}
	return both
}

// serve accepts until the listener is closed.
func (p *port) serve() error {
	defer p.wg.Wait()
	for {
		conn, err := p.Accept()
		if err != nil {
			var temporary interface{ Temporary() bool }
			if errors.As(err, &temporary) && temporary.Temporary() {
				// Out of file descriptors, most likely: the next try may do.
				p.log.Warn("could not accept a client connection", zap.Error(err))
				time.Sleep(5 * time.Millisecond)
				continue
			}
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		if !p.begin(conn) {
			_ = conn.Close()
			continue
		}
		go p.sniff(conn)
	}
}

func (p *port) begin(conn net.Conn) bool {
	select {
	case p.unknown <- struct{}{}:
	default:
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed {
		<-p.unknown
		return false
	}
	p.mu.sniffed[conn] = struct{}{}
	p.wg.Add(1)
	return true
}

func (p *port) end(conn net.Conn) {
	<-p.unknown
	p.mu.Lock()
	delete(p.mu.sniffed, conn)
	p.mu.Unlock()
	p.wg.Done()
}

// Close stops accepting and ends the connections that are not handed on.
func (p *port) Close() error {
	p.mu.Lock()
	p.mu.closed = true
	for conn := range p.mu.sniffed {
		_ = conn.Close()
	}
	p.mu.Unlock()
	return p.Listener.Close()
}

// sniff finds out what a connection speaks and hands it on.
func (p *port) sniff(conn net.Conn) {
	defer p.end(conn)
	if err := p.identify(conn); err != nil {
		level := zap.WarnLevel
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || p.tls == nil {
			level = zap.DebugLevel
		}
		p.log.Log(level, "rejected connection on client endpoint", zap.String("remote-addr", conn.RemoteAddr().String()), zap.Error(err))
		_ = conn.Close()
	}
}

func (p *port) identify(raw net.Conn) error {
	if err := raw.SetDeadline(time.Now().Add(sniffTimeout)); err != nil {
		return err
	}
	conn, h2, known := raw, false, false
	if p.tls != nil {
		secure := tls.Server(raw, p.tls)
		if err := secure.Handshake(); err != nil {
			return err
		}
		conn = secure
		proto := secure.ConnectionState().NegotiatedProtocol
		h2, known = proto == "h2", proto != ""
	}
	switch {
	case known:
	case !p.GRPC:
	case !p.HTTP && !p.Metrics:
		h2 = true
	default:
		begun := &begunConn{Conn: conn}
		n, err := io.ReadAtLeast(conn, begun.buf[:], 3)
		if err != nil {
			return err
		}
		begun.rest = begun.buf[:n]
		h2 = bytes.HasPrefix([]byte(preface), begun.rest[:min(n, len(preface))])
		conn = begun
	}
	to := p.http
	if h2 {
		to = p.grpc
	}
	if to == nil {
		return errors.New("the port does not serve what the connection speaks")
	}
	if err := raw.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if !to.hand(conn) {
		return net.ErrClosed
	}
	return nil
}

// begunConn is a connection whose first bytes were read already.
type begunConn struct {
	net.Conn
	rest []byte
	buf  [64]byte
}

func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.rest) > 0 {
		n := copy(b, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// handed is a listener whose connections are handed to it.
type handed struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHanded(addr net.Addr) *handed {
	return &handed{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (h *handed) hand(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		return false
	}
}

// Accept implements net.Listener.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handed) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handed) Addr() net.Addr { return h.addr }

// doneHandshakes are gRPC's credentials for connections whose TLS is done. They
// show the client's certificates to handlers.
type doneHandshakes struct{}

// ServerHandshake implements credentials.TransportCredentials.
func (doneHandshakes) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	inner := conn
	if begun, ok := conn.(*begunConn); ok {
		inner = begun.Conn
	}
	if secure, ok := inner.(*tls.Conn); ok {
		return conn, credentials.TLSInfo{
			State:          secure.ConnectionState(),
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		}, nil
	}
	return conn, plaintext{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}, nil
}

type plaintext struct{ credentials.CommonAuthInfo }

// AuthType implements credentials.AuthInfo.
func (plaintext) AuthType() string { return "insecure" }

// ClientHandshake implements credentials.TransportCredentials; no client has
// these.
func (doneHandshakes) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("credentials of a server")
}

// Info implements credentials.TransportCredentials.
func (doneHandshakes) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "handed"}
}

// Clone implements credentials.TransportCredentials.
func (c doneHandshakes) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials.
func (doneHandshakes) OverrideServerName(string) error { return nil }
