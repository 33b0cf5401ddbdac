package config

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestAutoTLSServesBothPorts(t *testing.T) {
	dir := t.TempDir()
	cfg := parse(t, "--data-dir="+dir, "--auto-tls", "--peer-auto-tls", "--tls-min-version=TLS1.3",
		"--listen-client-urls=https://127.0.0.1:0", "--advertise-client-urls=https://127.0.0.1:1",
		"--listen-peer-urls=https://127.0.0.1:0")
	require.NoError(t, cfg.SetupTLS(zap.NewNop()))
	require.FileExists(t, filepath.Join(dir, "fixtures", "client", "cert.pem"))
	require.FileExists(t, filepath.Join(dir, "fixtures", "peer", "key.pem"))

	clients, err := cfg.ListenClients()
	require.NoError(t, err)
	serverTLS, err := cfg.ClientServerTLS()
	require.NoError(t, err)
	require.NotNil(t, serverTLS)
	require.Equal(t, uint16(tls.VersionTLS13), serverTLS.MinVersion)
	greet(t, tls.NewListener(clients[0], serverTLS), &tls.Config{InsecureSkipVerify: true})

	peers, err := cfg.ListenPeers()
	require.NoError(t, err)
	require.Equal(t, "https", peers[0].URL.Scheme)
	clientTLS, err := cfg.PeerClientTLS()
	require.NoError(t, err)
	greet(t, peers[0].Listener, clientTLS)
}

// greet connects to a listener and passes a byte through.
func greet(t *testing.T, listener net.Listener, config *tls.Config) {
	t.Helper()
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte{42})
	}()
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: config}
	conn, err := dialer.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, []byte{42}, got)
}

func TestPlainPortsNeedNoTLS(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	cfg := parse(t, "--data-dir="+t.TempDir(), "--listen-client-urls=http://127.0.0.1:0,unix://"+socket,
		"--advertise-client-urls=http://127.0.0.1:1", "--listen-peer-urls=http://127.0.0.1:0", "--socket-reuse-port")
	require.NoError(t, cfg.SetupTLS(zap.NewNop()))
	server, err := cfg.ClientServerTLS()
	require.NoError(t, err)
	require.Nil(t, server)
	peer, err := cfg.PeerServerTLS()
	require.NoError(t, err)
	require.Nil(t, peer)
	listeners, err := cfg.ListenClients()
	require.NoError(t, err)
	require.Len(t, listeners, 2)
	require.FileExists(t, socket)
	require.NoError(t, closeAll(listeners))
	listeners, err = cfg.ListenPeers()
	require.NoError(t, err)
	require.NoError(t, closeAll(listeners))
}

func TestAPortInUseIsNamed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	url := "http://" + taken.Addr().String()
	cfg := parse(t, "--listen-peer-urls=http://127.0.0.1:0,"+url)
	_, err = cfg.ListenPeers()
	require.ErrorContains(t, err, "listening for peers on "+url)
	require.ErrorContains(t, err, "address already in use")
}

func TestWrongCertificatesStopTheStart(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.pem")
	require.NoError(t, os.WriteFile(garbage, []byte("not a certificate"), 0o600))
	for _, file := range []string{garbage, filepath.Join(dir, "missing.pem")} {
		cfg := parse(t, "--cert-file="+file, "--key-file="+file)
		require.ErrorContains(t, cfg.SetupTLS(zap.NewNop()), "certificates of the client port: ")
		cfg = parse(t, "--peer-cert-file="+file, "--peer-key-file="+file)
		require.ErrorContains(t, cfg.SetupTLS(zap.NewNop()), "certificates of the peer port: ")
	}
}

func TestPlaintextOnASecurePeerPortIsLogged(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	cfg := parse(t, "--data-dir="+t.TempDir(), "--peer-auto-tls", "--listen-peer-urls=https://127.0.0.1:0")
	require.NoError(t, cfg.SetupTLS(zap.New(core)))
	listeners, err := cfg.ListenPeers()
	require.NoError(t, err)
	defer func() { require.NoError(t, closeAll(listeners)) }()
	conn, err := net.Dial("tcp", listeners[0].Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return logs.FilterMessage("rejected connection on peer endpoint").Len() == 1
	}, time.Minute, 10*time.Millisecond)
}
