package e2e

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
)

// TestClientTLSFlags asks one member that has most of etcd's TLS flags for the client port, with one certificate after
// the other. Certificates and revocation lists are read anew for each connection.
func TestClientTLSFlags(t *testing.T) {
	dir := t.TempDir()
	certs, err := cluster.NewCerts(dir)
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{"good.example"}
	issue := func(name string, s cluster.Subject) (cert, key string) {
		t.Helper()
		cert, key, err := certs.Issue(dir, name, s)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	good, _ := issue("good", cluster.Subject{CommonName: "good", Hosts: hosts})
	revoked, _ := issue("revoked", cluster.Subject{CommonName: "good", Hosts: hosts})
	issue("expired", cluster.Subject{CommonName: "good", Hosts: hosts, NotAfter: time.Now().Add(-time.Minute)})
	issue("stranger", cluster.Subject{CommonName: "good", Hosts: []string{"other.example"}})
	crl := filepath.Join(dir, "clients.crl")
	if err := certs.Revoke(crl, revoked); err != nil {
		t.Fatal(err)
	}
	serverCert, serverKey := issue("renewed", cluster.Subject{CommonName: "first"})
	const suite = tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
	c := newCluster(t, cluster.Options{ClientTLS: certs, Args: []string{
		"--cert-file=" + serverCert, "--key-file=" + serverKey, "--client-crl-file=" + crl,
		"--client-cert-allowed-hostname=good.example", "--tls-max-version=TLS1.2", "--tls-min-version=TLS1.2",
		"--cipher-suites=" + tls.CipherSuiteName(suite),
		// The member is a client of its own port, for the gateway.
		"--client-cert-file=" + good, "--client-key-file=" + strings.TrimSuffix(good, ".crt") + ".key",
	}})
	m := c.Members[0]
	if err := errors.Join(m.Start(), m.WaitReady(within(t, patience))); err != nil {
		t.Fatal(err)
	}
	with := func(name string, change func(*tls.Config)) *tls.Config {
		t.Helper()
		conf, err := certs.AnonymousConfig()
		if err != nil {
			t.Fatal(err)
		}
		if name != "" {
			pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
			if err != nil {
				t.Fatal(err)
			}
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		if change != nil {
			change(conf)
		}
		return conf
	}
	for _, tc := range []struct {
		name, cert string
		change     func(*tls.Config)
		served     bool
	}{
		{"allowed", "good", nil, true},
		{"no certificate", "", nil, false},
		{"another host name", "stranger", nil, false},
		{"expired", "expired", nil, false},
		{"revoked", "revoked", nil, false},
		{"TLS 1.3 alone", "good", func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }, false},
		{"another cipher suite", "good", func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
		}, false},
	} {
		limit := 3 * time.Second
		if tc.served {
			limit = patience
		}
		err := tryGet(within(t, limit), m.ClientURL, with(tc.cert, tc.change))
		if tc.served != (err == nil) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}

	handshake := func() (serial string) {
		t.Helper()
		conn, err := tls.Dial("tcp", m.Address, with("good", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		state := conn.ConnectionState()
		if state.Version != tls.VersionTLS12 || state.CipherSuite != suite {
			t.Errorf("negotiated %s with %s", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite))
		}
		return state.PeerCertificates[0].SerialNumber.String()
	}
	before := handshake()
	issue("renewed", cluster.Subject{CommonName: "second"})
	if after := handshake(); before == after {
		t.Errorf("a renewed certificate is not shown: still serial %s", after)
	}
	if err := certs.Revoke(crl, revoked, good); err != nil {
		t.Fatal(err)
	}
	if err := tryGet(within(t, 3*time.Second), m.ClientURL, with("good", nil)); err == nil {
		t.Error("a certificate that was revoked meanwhile is served")
	}
	if log := m.Log(); !strings.Contains(log, "rejected connection on client endpoint") {
		t.Error("the log says nothing about refused connections")
	}
}

// TestPeerTLSFlags: a member whose certificate the others do not take stays outside, with a line in their logs that
// says why, and comes in once it shows a good one.
func TestPeerTLSFlags(t *testing.T) {
	dir := t.TempDir()
	certs, err := cluster.NewCerts(dir)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := cluster.NewCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	revoked, revokedKey, err := certs.Issue(dir, "revoked", cluster.Subject{CommonName: "server"})
	if err != nil {
		t.Fatal(err)
	}
	stranger, strangerKey, err := certs.Issue(dir, "stranger", cluster.Subject{CommonName: "stranger"})
	if err != nil {
		t.Fatal(err)
	}
	crl := filepath.Join(dir, "peers.crl")
	if err := certs.Revoke(crl, revoked); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, cluster.Options{Members: 3, PeerTLS: certs, Args: []string{"--peer-cert-allowed-cn=server", "--peer-crl-file=" + crl}})
	inside, outside := c.Members[:2], c.Members[2]
	for _, m := range inside {
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range inside {
		if err := m.WaitReady(within(t, patience)); err != nil {
			t.Fatal(err)
		}
	}
	const line = "rejected connection on peer endpoint"
	// Each case has words of its own, so that a late line of the case before is not taken for one of it.
	refused := func(why string) bool {
		for _, m := range inside {
			for l := range strings.Lines(m.Log()) {
				if strings.Contains(l, line) && strings.Contains(l, why) {
					return true
				}
			}
		}
		return false
	}
	for _, tc := range []struct{ name, cert, key, ca, why string }{
		{"another common name", stranger, strangerKey, certs.CA, `"common-name":"stranger"`},
		{"a revoked certificate", revoked, revokedKey, certs.CA, "revoked"},
		{"a foreign authority", foreign.ServerCert, foreign.ServerKey, certs.CA, "unknown authority"},
	} {
		if refused(tc.why) {
			t.Fatalf("%s: refused before it came", tc.name)
		}
		outside.SetArgs("--peer-cert-file="+tc.cert, "--peer-key-file="+tc.key, "--peer-trusted-ca-file="+tc.ca)
		if err := outside.Start(); err != nil {
			t.Fatal(err)
		}
		reach(t, patience, "a refusal of "+tc.name+" that says "+tc.why, func() (bool, error) { return refused(tc.why), nil })
		if err := outside.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	outside.SetArgs()
	if err := outside.Start(); err != nil {
		t.Fatal(err)
	}
	if err := outside.WaitReady(within(t, patience)); err != nil {
		t.Fatalf("a member with a good certificate: %v", err)
	}
}

// TestAutoTLS: members that make their own certificates find each other, and keep them over a restart.
func TestAutoTLS(t *testing.T) {
	c := newCluster(t, cluster.Options{Members: 3})
	for _, m := range c.Members {
		m.ClientURL = strings.Replace(m.ClientURL, "http:", "https:", 1)
		plain := m.PeerURL
		m.PeerURL = strings.Replace(m.PeerURL, "http:", "https:", 1)
		m.SetArgs("--auto-tls", "--peer-auto-tls", "--listen-peer-urls="+strings.Replace(plain, "http:", "https:", 1))
	}
	for _, m := range c.Members {
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range c.Members {
		if err := m.WaitReady(within(t, patience)); err != nil {
			t.Fatal(err)
		}
	}
	serial := func(m *cluster.Member) (string, error) {
		dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
		conn, err := dialer.DialContext(within(t, patience), "tcp", m.Address)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
	}
	m := c.Members[0]
	before, err := serial(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := tryGet(within(t, patience), m.ClientURL, &tls.Config{InsecureSkipVerify: true}); err != nil {
		t.Fatal(err)
	}
	if err := tryGet(within(t, 3*time.Second), "http://"+m.Address, nil); err == nil {
		t.Error("plain text is served")
	}
	if err := errors.Join(m.Kill(), m.Start()); err != nil {
		t.Fatal(err)
	}
	if err := m.WaitReady(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	after, err := serial(m)
	if err != nil || after != before {
		t.Errorf("the certificate is another one after a restart: serial %s, then %s (%v)", before, after, err)
	}
	for _, kind := range []string{"client", "peer"} {
		if files, err := os.ReadDir(filepath.Join(m.DataDir, "fixtures", kind)); err != nil || len(files) != 2 {
			t.Errorf("generated certificates of the %s port: %v, %v", kind, files, err)
		}
	}
}
