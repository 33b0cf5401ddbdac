package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Certs are the files of one certificate authority and what it signed: a certificate for members (client and server use, for loopback) and
// one for clients.
type Certs struct {
	CA                    string
	ServerCert, ServerKey string
	ClientCert, ClientKey string
	caCert                *x509.Certificate
	caKey                 *ecdsa.PrivateKey
	serial                int64
	notBefore, notAfter   time.Time
}

// NewCerts makes an authority with fresh keys and writes all files to dir, which must exist.
func NewCerts(dir string) (*Certs, error) {
	now := time.Now()
	c := &Certs{CA: filepath.Join(dir, "ca.crt"), notBefore: now.Add(-time.Hour), notAfter: now.Add(24 * time.Hour)}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making an authority: %w", err)
	}
	c.serial++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(c.serial), Subject: pkix.Name{CommonName: "kvd test authority"},
		NotBefore: c.notBefore, NotAfter: c.notAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("making an authority: %w", err)
	}
	if c.caCert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("making an authority: %w", err)
	}
	c.caKey = key
	if err := writePEM(c.CA, "CERTIFICATE", der); err != nil {
		return nil, err
	}
	if c.ServerCert, c.ServerKey, err = c.sign(dir, "server", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}); err != nil {
		return nil, err
	}
	if c.ClientCert, c.ClientKey, err = c.sign(dir, "client", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}); err != nil {
		return nil, err
	}
	return c, nil
}

// Client makes one more certificate for a client and writes it, with its key, to dir under the common name.
func (c *Certs) Client(dir, commonName string) (certPath, keyPath string, err error) {
	return c.sign(dir, commonName, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})
}

func (c *Certs) sign(dir, name string, usage []x509.ExtKeyUsage) (certPath, keyPath string, err error) {
	return c.Issue(dir, name, Subject{CommonName: name, Usage: usage})
}

// Subject is what a certificate says. Zero values stand for localhost, for both usages and for as long as the authority lives.
type Subject struct {
	CommonName string
	Hosts      []string
	Usage      []x509.ExtKeyUsage
	NotAfter   time.Time
}

// Issue signs a certificate for loopback and writes it and its key to dir, under a name.
func (c *Certs) Issue(dir, name string, s Subject) (certPath, keyPath string, err error) {
	if len(s.Hosts) == 0 {
		s.Hosts = []string{"localhost"}
	}
	if len(s.Usage) == 0 {
		s.Usage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if s.NotAfter.IsZero() {
		s.NotAfter = c.notAfter
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("making certificate %s: %w", name, err)
	}
	c.serial++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(c.serial), Subject: pkix.Name{CommonName: s.CommonName},
		NotBefore: c.notBefore, NotAfter: s.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: s.Usage,
		DNSNames: s.Hosts, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.caCert, &key.PublicKey, c.caKey)
	if err != nil {
		return "", "", fmt.Errorf("making certificate %s: %w", name, err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return "", "", fmt.Errorf("making certificate %s: %w", name, err)
	}
	certPath, keyPath = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	if err := writePEM(certPath, "CERTIFICATE", der); err != nil {
		return "", "", err
	}
	return certPath, keyPath, writePEM(keyPath, "EC PRIVATE KEY", keyDER)
}

// Revoke writes a list, in DER form as etcd reads it, of the given certificates, by path, as revoked.
func (c *Certs) Revoke(path string, certificates ...string) error {
	c.serial++
	list := &x509.RevocationList{Number: big.NewInt(c.serial), ThisUpdate: c.notBefore, NextUpdate: c.notAfter}
	for _, p := range certificates {
		pair, err := tls.LoadX509KeyPair(p, strings.TrimSuffix(p, ".crt")+".key")
		if err != nil {
			return fmt.Errorf("revoking %s: %w", p, err)
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: pair.Leaf.SerialNumber, RevocationTime: c.notBefore})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, c.caCert, c.caKey)
	if err != nil {
		return fmt.Errorf("making a revocation list: %w", err)
	}
	if err := os.WriteFile(path, der, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// ClientConfig is the TLS configuration of a client that shows the client certificate.
func (c *Certs) ClientConfig() (*tls.Config, error) {
	conf, err := c.AnonymousConfig()
	if err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(c.ClientCert, c.ClientKey)
	if err != nil {
		return nil, fmt.Errorf("loading the client certificate: %w", err)
	}
	conf.Certificates = []tls.Certificate{cert}
	return conf, nil
}

// AnonymousConfig trusts the authority but shows no certificate.
func (c *Certs) AnonymousConfig() (*tls.Config, error) {
	b, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("loading the authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("loading the authority: no certificate in %s", c.CA)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

func writePEM(path, kind string, der []byte) error {
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
