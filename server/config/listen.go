package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
)

// Listener is an open port and the URL that it was opened for.
type Listener struct {
	net.Listener
	URL url.URL
}

// Secure says whether the URL asks for TLS.
func (l *Listener) Secure() bool { return l.URL.Scheme == "https" || l.URL.Scheme == "unixs" }

// ListenPeers opens the peer port. The listeners of https URLs answer connections whose handshake, client certificate,
// revocation list and SAN are done with. Call SetupTLS before. All are open or none is.
func (c *Config) ListenPeers() ([]Listener, error) {
	opened, err := c.listen("peer", c.ListenPeerURLs, transport.WithTLSInfo(&c.PeerTLS))
	if err != nil {
		return nil, err
	}
	for i := range opened {
		if opened[i].URL.Scheme == "unixs" { // the one scheme whose TLS etcd's listeners leave to their caller
			config, err := serverTLS(&c.PeerTLS)
			if err != nil {
				return nil, errors.Join(err, closeAll(opened))
			}
			opened[i].Listener = tls.NewListener(opened[i].Listener, config)
		}
	}
	return opened, nil
}

// ListenClients opens the client port. TLS is not done here, since gRPC wants to see the certificates itself: serve
// https URLs with ClientServerTLS. All are open or none is.
func (c *Config) ListenClients() ([]Listener, error) {
	return c.listen("client", c.ListenClientURLs, transport.WithSkipTLSInfoCheck(true))
}

// ListenClientHTTP opens the ports that serve HTTP alone, as ListenClients does. If there are any, the client port itself
// serves only gRPC.
func (c *Config) ListenClientHTTP() ([]Listener, error) {
	return c.listen("client's HTTP", c.ListenClientHTTPURLs, transport.WithSkipTLSInfoCheck(true))
}

// ListenMetrics opens the ports for metrics and health, as ListenClients does.
func (c *Config) ListenMetrics() ([]Listener, error) {
	return c.listen("metrics reader", c.ListenMetricsURLs, transport.WithSkipTLSInfoCheck(true))
}

func (c *Config) listen(port string, urls types.URLs, tlsOption transport.ListenerOption) ([]Listener, error) {
	var opened []Listener
	for _, u := range urls {
		place := u.Host
		if u.Scheme == "unix" || u.Scheme == "unixs" {
			place = u.Host + u.Path
		}
		options := []transport.ListenerOption{tlsOption}
		if !c.Socket.Empty() {
			options = append(options, transport.WithSocketOpts(&c.Socket))
		}
		listener, err := transport.NewListenerWithOpts(place, u.Scheme, options...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listening for %ss on %s: %w", port, u.String(), err), closeAll(opened))
		}
		opened = append(opened, Listener{Listener: listener, URL: u})
	}
	return opened, nil
}

func closeAll(listeners []Listener) error {
	var errs []error
	for _, listener := range listeners {
		errs = append(errs, listener.Close())
	}
	return errors.Join(errs...)
}
