package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"
)

// Probe says hello to the member with id to at a peer URL, as one that is not running yet, and hangs up. A *RefusedError tells why that member would not let it
// in: because of its cluster, because it was removed, or because it has taken part already (Began), although it is about to begin. clientTLS is used for https and
// unixs URLs.
//
// It is a hello of the mesh and no call of gRPC, because a member asks it of all others when a cluster is born: whoever looks at the HTTP/2 traffic of a member,
// as etcd's own tests do, finds clients there and nobody else.
func Probe(ctx context.Context, url string, clientTLS *tls.Config, cluster, from, to uint64) error {
	conn, err := dialURL(ctx, url, clientTLS)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(handshakeTimeout)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	h := hello{version: protocolVersion, channel: channelProbe, cluster: cluster, from: from, to: to}
	if _, err := conn.Write(appendHello(nil, h)); err != nil {
		return fmt.Errorf("sending the handshake: %w", err)
	}
	r, err := readReply(conn)
	if err == nil && r.status != statusOK {
		err = &RefusedError{Member: r.member, Reason: r.reason, status: r.status}
	}
	return err
}
