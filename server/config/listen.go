package config

import (
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

// ListenPeers opens the peer port. The listeners of https URLs answer connections whose handshake, client certificate,
// revocation list and SAN are done with. Call SetupTLS before. All are open or none is.
func (c *Config) ListenPeers() ([]Listener, error) {
	return c.listen("peer", c.ListenPeerURLs, transport.WithTLSInfo(&c.PeerTLS))
}

// ListenClients opens the client port. TLS is not done here, since gRPC wants to see the certificates itself: serve
// https URLs with ClientServerTLS. All are open or none is.
func (c *Config) ListenClients() ([]Listener, error) {
	return c.listen("client", c.ListenClientURLs, transport.WithSkipTLSInfoCheck(true))
}

func (c *Config) listen(port string, urls types.URLs, tlsOption transport.ListenerOption) (opened []Listener, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, listener := range opened {
			err = errors.Join(err, listener.Close())
		}
		opened = nil
	}()
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
			return opened, fmt.Errorf("listening for %ss on %s: %w", port, u.String(), err)
		}
		opened = append(opened, Listener{Listener: listener, URL: u})
	}
	return opened, nil
}
