package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/tlsutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.uber.org/zap"
)

// SetupTLS completes ClientTLS and PeerTLS and reads their files once, so that a wrong path stops the start and not
// the first connection. It makes certificates in the data directory where --auto-tls or --peer-auto-tls asks for them.
// Certificates are read again at each handshake, so that they can be renewed in place.
func (c *Config) SetupTLS(lg *zap.Logger) error {
	lowest, err := tlsutil.GetTLSVersion(c.TLSMinVersion)
	if err != nil {
		return err
	}
	highest, err := tlsutil.GetTLSVersion(c.TLSMaxVersion)
	if err != nil {
		return err
	}
	suites, err := tlsutil.GetCipherSuites(c.CipherSuites)
	if err != nil {
		return err
	}
	client := append(types.URLs{}, c.ListenClientURLs...)
	for _, port := range []struct {
		name string
		info *transport.TLSInfo
		auto bool
		urls types.URLs
	}{
		{"client", &c.ClientTLS, c.ClientAutoTLS, append(client, c.ListenClientHTTPURLs...)},
		{"peer", &c.PeerTLS, c.PeerAutoTLS, c.ListenPeerURLs},
	} {
		if port.auto && port.info.Empty() {
			if err := c.selfCertify(lg, port.name, port.info, port.urls); err != nil {
				return err
			}
		}
		port.info.Logger = lg
		port.info.MinVersion, port.info.MaxVersion, port.info.CipherSuites = lowest, highest, suites
		port.info.HandshakeFailure = logHandshake(lg, port.name)
		if port.info.Empty() {
			continue
		}
		if _, err := port.info.ServerConfig(); err != nil {
			return fmt.Errorf("certificates of the %s port: %w", port.name, err)
		}
		if err := checkRevocations(port.info.CRLFile); err != nil {
			return fmt.Errorf("revocation list of the %s port: %w", port.name, err)
		}
	}
	if c.DiscoverySRV != "" && c.PeerTLS.TrustedCAFile == "" {
		c.PeerTLS.ServerName = c.DiscoverySRV
	}
	return nil
}

// checkRevocations reads a revocation list, which is read again at each handshake. etcd takes DER form alone.
func checkRevocations(path string) error {
	if path == "" {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if _, err := x509.ParseRevocationList(b); err != nil {
		return fmt.Errorf("%s does not hold a list in DER form: %w", path, err)
	}
	return nil
}

// selfCertify replaces info by a generated certificate. What else was asked for of the port is kept.
func (c *Config) selfCertify(lg *zap.Logger, name string, info *transport.TLSInfo, urls types.URLs) error {
	hosts := make([]string, len(urls))
	for i, url := range urls {
		hosts[i] = url.Host
	}
	made, err := transport.SelfCert(lg, c.fixtures(name), hosts, c.SelfSignedCertValidity)
	if err != nil {
		return fmt.Errorf("generating a certificate for the %s port: %w", name, err)
	}
	made.ClientCertAuth, made.TrustedCAFile = info.ClientCertAuth, info.TrustedCAFile
	made.CRLFile, made.SkipClientSANVerify = info.CRLFile, info.SkipClientSANVerify
	made.AllowedCNs, made.AllowedHostnames = info.AllowedCNs, info.AllowedHostnames
	*info = made
	return nil
}

// logHandshake mentions connections that failed to shake hands. A peer that just went away is no news.
func logHandshake(lg *zap.Logger, port string) func(*tls.Conn, error) {
	message := "rejected connection on " + port + " endpoint"
	return func(conn *tls.Conn, err error) {
		state := conn.ConnectionState()
		fields := []zap.Field{
			zap.String("remote-addr", conn.RemoteAddr().String()),
			zap.String("server-name", state.ServerName),
		}
		if len(state.PeerCertificates) > 0 {
			certificate := state.PeerCertificates[0]
			ips := make([]string, len(certificate.IPAddresses))
			for i, ip := range certificate.IPAddresses {
				ips[i] = ip.String()
			}
			fields = append(fields, zap.String("common-name", certificate.Subject.CommonName), zap.String("ip-addresses", strings.Join(ips, ",")), zap.Strings("dns-names", certificate.DNSNames))
		}
		fields = append(fields, zap.Error(err))
		if errors.Is(err, io.EOF) {
			lg.Debug(message, fields...)
			return
		}
		lg.Warn(message, fields...)
	}
}

// ClientServerTLS is what the client port serves with, nil if it is not secure.
func (c *Config) ClientServerTLS() (*tls.Config, error) {
	if c.ClientTLS.Empty() || !secure(slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs, c.ListenMetricsURLs)) {
		return nil, nil
	}
	return serverTLS(&c.ClientTLS)
}

// PeerServerTLS is what the peer port serves with, nil if it is not secure. It does not compare addresses with the
// SAN of certificates, which only the listeners of ListenPeers can.
func (c *Config) PeerServerTLS() (*tls.Config, error) {
	if c.PeerTLS.Empty() || !secure(c.ListenPeerURLs) {
		return nil, nil
	}
	return serverTLS(&c.PeerTLS)
}

func serverTLS(info *transport.TLSInfo) (*tls.Config, error) {
	config, err := info.ServerConfig()
	if err != nil {
		return nil, err
	}
	info.ConfigureCRLVerification(config)
	return config, nil
}

// PeerClientTLS is what the member calls its https peers with. It is never nil: without certificates of its own it
// still verifies theirs.
func (c *Config) PeerClientTLS() (*tls.Config, error) {
	config, err := c.PeerTLS.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("certificates for calling peers: %w", err)
	}
	return config, nil
}
