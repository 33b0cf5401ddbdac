package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

func closedListener(t testing.TB) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

// certificate makes a certificate that is its own authority.
func certificate(t testing.TB, name string) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}, pool
}

func TestSecurePort(t *testing.T) {
	serverCert, serverPool := certificate(t, "server")
	clientCert, clientPool := certificate(t, "client")
	f := newFixture(t, func(c *Config) {
		c.Ports[0].Secure = true
		c.TLS = &tls.Config{Certificates: []tls.Certificate{serverCert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clientPool, MinVersion: tls.VersionTLS12}
	})
	secure := func() *tls.Config {
		return &tls.Config{RootCAs: serverPool, Certificates: []tls.Certificate{clientCert}}
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + f.addr}, TLS: secure(), Logger: zap.NewNop(), DialTimeout: time.Minute})
	require.NoError(t, err)
	defer client.Close()
	_, err = client.Put(context.Background(), "k", "v")
	require.NoError(t, err)

	// curl and browsers offer both protocols, and old tools none.
	for _, protos := range [][]string{{"h2", "http/1.1"}, {"http/1.1"}, nil} {
		config := secure()
		config.NextProtos = protos
		conn, err := tls.Dial("tcp", f.addr, config)
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		require.NoError(t, err)
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Contains(t, string(answer), "200 OK", "%v", protos)
		require.NoError(t, conn.Close())
	}
	// gRPC without ALPN shows by its first bytes.
	raw, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(noALPN{secure()}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", f.addr)
		}))
	require.NoError(t, err)
	defer raw.Close()
	_, err = pb.NewKVClient(raw).Range(context.Background(), &pb.RangeRequest{Key: []byte("k")})
	require.NoError(t, err)

	// Without a certificate nobody gets in.
	stranger := secure()
	stranger.Certificates = nil
	conn, err := tls.Dial("tcp", f.addr, stranger)
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		require.NoError(t, conn.Close())
	}
	require.Error(t, err)
	_, err = http.Get("http://" + f.addr + "/version")
	require.Error(t, err)
	http.DefaultClient.CloseIdleConnections()
}

// noALPN does the handshake of a client that offers no protocols.
type noALPN struct{ config *tls.Config }

func (c noALPN) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config := c.config.Clone()
	config.ServerName = "127.0.0.1"
	conn := tls.Client(raw, config)
	return conn, credentials.TLSInfo{}, conn.HandshakeContext(ctx)
}

func (c noALPN) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, net.ErrClosed
}
func (c noALPN) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (c noALPN) Clone() credentials.TransportCredentials { return c }
func (c noALPN) OverrideServerName(string) error         { return nil }

func TestPortsOfTheirOwn(t *testing.T) {
	grpcOnly, httpOnly, metrics := closedListener(t), closedListener(t), closedListener(t)
	f := newFixture(t, func(c *Config) {
		_ = c.Ports[0].Close()
		c.Ports = []Port{{Listener: grpcOnly, GRPC: true}, {Listener: httpOnly, HTTP: true}, {Listener: metrics, Metrics: true}}
	})
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{grpcOnly.Addr().String()}, Logger: zap.NewNop()})
	require.NoError(t, err)
	defer client.Close()
	_, err = client.Put(context.Background(), "k", "v")
	require.NoError(t, err)
	page := func(l net.Listener, path string) int {
		resp, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			return 0
		}
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	defer http.DefaultClient.CloseIdleConnections()
	require.Equal(t, 200, page(httpOnly, "/version"))
	require.Equal(t, 200, page(metrics, "/metrics"))
	require.Equal(t, 200, page(metrics, "/health"))
	require.Equal(t, 404, page(metrics, "/version"))
	require.Zero(t, page(grpcOnly, "/version"))
	require.NotNil(t, f.server)
}

// TestSilentAndGarbageConnections do not disturb others, nor the stop.
func TestSilentAndGarbageConnections(t *testing.T) {
	f := newFixture(t, nil)
	silent, err := net.Dial("tcp", f.addr)
	require.NoError(t, err)
	defer silent.Close()
	for _, garbage := range []string{"PRI * HTTP/1.9\r\n\r\n", "\x16\x03\x01\x00", "PRI", "\x00\x00\x00\x00\x00\x00"} {
		conn, err := net.Dial("tcp", f.addr)
		require.NoError(t, err)
		_, err = conn.Write([]byte(garbage))
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		_, err = io.ReadAll(conn)
		_ = err // an answer or a reset, either will do
		require.NoError(t, conn.Close())
	}
	_, err = f.client.Put(context.Background(), "k", "v")
	require.NoError(t, err)
	f.server.Stop(time.Second)
	_, err = silent.Read(make([]byte, 1))
	require.Error(t, err)
}
