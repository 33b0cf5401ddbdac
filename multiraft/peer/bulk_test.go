package peer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// whoami answers health checks with an error that names the caller.
type whoami struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (whoami) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	from, ok := MemberFrom(ctx)
	return nil, status.Errorf(codes.Aborted, "%d %t", from, ok)
}

func (whoami) Watch(_ *grpc_health_v1.HealthCheckRequest, s grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	from, ok := MemberFrom(s.Context())
	return status.Errorf(codes.Aborted, "%d %t", from, ok)
}

func checkGRPC(t *testing.T, from, to *Mesh) {
	t.Helper()
	cc, err := from.Conn(to.MemberID())
	require.NoError(t, err)
	client := grpc_health_v1.NewHealthClient(cc)
	_, err = client.Check(testContext(t), &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
	require.Equal(t, codes.Aborted, status.Code(err), "%v", err)
	require.Equal(t, "1 true", status.Convert(err).Message())
	stream, err := client.Watch(testContext(t), &grpc_health_v1.HealthCheckRequest{})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.Equal(t, "1 true", status.Convert(err).Message())
}

func TestGRPCOnTheSamePort(t *testing.T) {
	n := newTestNet(t)
	a, b := n.member(1, nil), n.member(2, nil)
	b.Handle(ChannelRaft, ignore)
	grpc_health_v1.RegisterHealthServer(b.Registrar(), whoami{})
	require.NoError(t, a.Start())
	require.NoError(t, b.Start())
	connect(t, a, b, ChannelRaft)
	checkGRPC(t, a, b)

	stranger := n.member(5, func(c *Config) { c.ClusterID = 0xdd })
	cc, err := stranger.Conn(2)
	require.NoError(t, err)
	_, err = grpc_health_v1.NewHealthClient(cc).Check(testContext(t), &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	require.Contains(t, err.Error(), "cluster ID mismatch")
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{cert: cert, key: key, pool: pool}
}

// configure gives a mesh mutual TLS with a certificate of the authority that is good for both directions.
func (a *authority) configure(t *testing.T, trust *authority) func(*Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "member"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	require.NoError(t, err)
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return func(c *Config) {
		c.ServerTLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: trust.pool, ClientAuth: tls.RequireAndVerifyClientCert}
		c.ClientTLS = &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: trust.pool}
	}
}

func TestMutualTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	n := newTestNet(t)
	a, b := n.member(1, ca.configure(t, ca)), n.member(2, ca.configure(t, ca))
	got := make(chan string, 1)
	b.Handle(ChannelRaft, func(_ uint64, f []byte) { got <- string(f) })
	grpc_health_v1.RegisterHealthServer(b.Registrar(), whoami{})
	require.NoError(t, a.Start())
	require.NoError(t, b.Start())
	connect(t, a, b, ChannelRaft)
	require.NoError(t, a.Send(2, ChannelRaft, []byte("sealed")))
	require.Equal(t, "sealed", <-got)
	checkGRPC(t, a, b)

	for name, adjust := range map[string]func(*Config){
		// Trusts the cluster, but its own certificate is of another authority.
		"foreign certificate": other.configure(t, ca),
		"no certificate":      func(c *Config) { c.ClientTLS = &tls.Config{RootCAs: ca.pool} },
		"plaintext":           nil,
	} {
		t.Run(name, func(t *testing.T) {
			url := n.addresses(2)[0]
			if name == "plaintext" {
				url = "http" + strings.TrimPrefix(url, "https")
			}
			n := &testNet{t: t, urls: map[uint64][]string{2: {url}}}
			intruder := n.member(3, adjust)
			require.NoError(t, intruder.Start())
			eventually(t, "the connection failed", func() bool {
				require.ErrorIs(t, intruder.Send(2, ChannelRaft, []byte("x")), ErrNotConnected)
				return intruder.Peers()[0].Err != nil
			})
			for _, s := range b.Peers() {
				require.NotEqual(t, uint64(3), s.Member)
			}
		})
	}
}
