package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Ask makes a gRPC connection to the peer port at a URL, for a process that is no member yet: only methods of Config.Open are served on
// it. clientTLS is used for https and unixs URLs. The caller closes the connection.
func Ask(url string, clientTLS *tls.Config) (*grpc.ClientConn, error) {
	if _, _, _, err := parseURL(url, clientTLS != nil); err != nil {
		return nil, err
	}
	c, err := grpc.NewClient("passthrough:///"+url,
		// The connection is secured by the dialler itself, as among members.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialURL(ctx, url, clientTLS) }),
		grpc.WithNoProxy(),
	)
	if err != nil {
		return nil, fmt.Errorf("peer: gRPC client of %s: %w", url, err)
	}
	return c, nil
}
