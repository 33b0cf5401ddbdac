package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"
)

var errNoAddress = errors.New("no peer URL is known for the member")

// dialMesh connects one channel to a member and returns a tracked connection that was accepted.
func (m *Mesh) dialMesh(ctx context.Context, to uint64, ch Channel) (net.Conn, error) {
	conn, err := m.dial(ctx, to)
	if err != nil {
		return nil, err
	}
	if !m.track(conn) {
		return nil, ErrClosed
	}
	if err := m.introduce(conn, to, ch); err != nil {
		m.untrack(conn)
		return nil, err
	}
	return conn, nil
}

// introduce performs the dialler's half of the handshake.
func (m *Mesh) introduce(conn net.Conn, to uint64, ch Channel) error {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	h := appendHello(nil, hello{version: protocolVersion, channel: ch, cluster: m.cfg.ClusterID,
		from: m.cfg.MemberID, to: to, incarnation: m.cfg.Incarnation})
	if _, err := conn.Write(h); err != nil {
		return fmt.Errorf("sending the handshake: %w", err)
	}
	r, err := readReply(conn)
	if err != nil {
		return err
	}
	if r.status != statusOK {
		return &RefusedError{Member: r.member, Reason: r.reason, status: r.status}
	}
	if r.member != to {
		return &RefusedError{Member: r.member, Reason: "another member answered", status: statusTarget}
	}
	return conn.SetDeadline(time.Time{})
}

// dial opens a connection to one of the member's peer URLs, in their order, TLS included.
func (m *Mesh) dial(ctx context.Context, to uint64) (net.Conn, error) {
	addrs := m.cfg.Addresses(to)
	if len(addrs) == 0 {
		return nil, errNoAddress
	}
	var errs []error
	for _, a := range addrs {
		conn, err := m.dialURL(ctx, a)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", a, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (m *Mesh) dialURL(ctx context.Context, raw string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, min(handshakeTimeout, m.cfg.DeadAfter))
	defer cancel()
	return dialURL(ctx, raw, m.cfg.ClientTLS)
}

func dialURL(ctx context.Context, raw string, cfg *tls.Config) (net.Conn, error) {
	network, addr, secure, err := parseURL(raw, cfg != nil)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if !secure {
		return conn, nil
	}
	if cfg.ServerName == "" && !cfg.InsecureSkipVerify {
		cfg = cfg.Clone()
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = "localhost"
		}
		cfg.ServerName = host
	}
	tc := tls.Client(conn, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return tc, nil
}

// parseURL takes http, https, unix and unixs URLs as etcd has them, and bare host:port. withTLS tells whether there are certificates.
func parseURL(raw string, withTLS bool) (network, addr string, secure bool, err error) {
	if _, _, err := net.SplitHostPort(raw); err == nil {
		return "tcp", raw, withTLS, nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", "", false, fmt.Errorf("parsing the peer URL: %w", err)
	}
	switch u.Scheme {
	case "http", "https":
		network, addr, secure = "tcp", u.Host, u.Scheme == "https"
	case "unix", "unixs":
		network, addr, secure = "unix", u.Host+u.Path, u.Scheme == "unixs"
	default:
		return "", "", false, fmt.Errorf("peer URL with scheme %q", u.Scheme)
	}
	if addr == "" {
		return "", "", false, errors.New("peer URL without an address")
	}
	if secure && !withTLS {
		return "", "", false, errors.New("peer URL wants TLS but no peer certificates are configured")
	}
	return network, addr, secure, nil
}
