package peer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/internal/histogram"
)

// Channel separates kinds of frames between two members. Each channel has its own TCP connections.
type Channel uint8

const (
	// ChannelRaft carries raft messages.
	ChannelRaft Channel = iota
	// ChannelRequest carries requests, answers and everything else that is small and latency-bound.
	ChannelRequest

	numChannels

	// channelProbe is named by a process that only asks whether it would be let in.
	channelProbe Channel = 0xff
)

func (c Channel) String() string {
	switch c {
	case ChannelRaft:
		return "raft"
	case ChannelRequest:
		return "request"
	}
	return fmt.Sprintf("channel-%d", uint8(c))
}

const (
	// MaxFrame is the largest payload of one frame in bytes.
	MaxFrame = 80 << 20

	defaultHeartbeat = 100 * time.Millisecond
	defaultDeadAfter = 3 * time.Second
	handshakeTimeout = 5 * time.Second
	// maxPendingBytes bounds what waits for the writer of one connection. A single larger frame is accepted when
	// nothing else waits.
	maxPendingBytes  = 64 << 20
	maxPendingFrames = 1 << 17
	// maxUnidentified bounds the connections that have not yet told who they are.
	maxUnidentified = 256
)

var (
	// ErrNotConnected means that there is no connection to the member at this moment; the frame was not sent. A dial
	// is under way in the background.
	ErrNotConnected = errors.New("peer: member is not connected")
	// ErrBacklog means that too much is waiting to be written to the member already; the frame was not sent.
	ErrBacklog = errors.New("peer: too much is queued for the member")
	// ErrFrameTooLarge means that a frame exceeds MaxFrame; it was not sent.
	ErrFrameTooLarge = errors.New("peer: frame is too large")
	// ErrClosed means that the mesh was closed.
	ErrClosed = errors.New("peer: mesh is closed")
	// ErrRemoved is for Config.Allowed: the member was removed from the cluster, and is told so.
	ErrRemoved = errors.New("the member has been permanently removed from the cluster")
	// ErrSelf means that a frame was addressed to the member itself.
	ErrSelf = errors.New("peer: a member does not connect to itself")
)

// Config is what a Mesh is made of. It must not be changed after New.
type Config struct {
	// ClusterID, MemberID and Incarnation identify this process: the cluster, the member in it, and the run of it. IDs are
	// never zero.
	ClusterID, MemberID, Incarnation uint64
	// Listeners are open TCP (or unix) listeners on the peer URLs. The mesh owns and closes them.
	Listeners []net.Listener
	// ServerTLS, when set, is spoken on every listener. For mutual TLS it requires and verifies client certificates.
	ServerTLS *tls.Config
	// ClientTLS is used to dial https and unixs URLs. Where it names no server, the host of the URL is verified.
	ClientTLS *tls.Config
	// Addresses returns the current peer URLs of a member, none if unknown. It is asked before each dial.
	Addresses func(member uint64) []string
	// Allowed decides whether a member may connect; the error's text is told to it. Nil allows all members.
	Allowed func(member uint64) error
	// Began tells whether a member is known to have taken part in the cluster, for Probe. Nil knows of none.
	Began func(member uint64) bool
	// Open lists full names of gRPC methods that are served to processes that are no members yet and do not know the
	// cluster's id.
	Open []string
	// OnRemoved is called when another member says that this one was removed. It must not block.
	OnRemoved func(by uint64)
	// Heartbeat is the interval of pings on an outgoing connection; 100 ms when zero.
	Heartbeat time.Duration
	// DeadAfter is how long a connection may stand still before it is given up; 3 s when zero.
	DeadAfter time.Duration
	Logger    *zap.Logger
}

func (c *Config) fill() error {
	var errs []error
	if c.ClusterID == 0 {
		errs = append(errs, errors.New("cluster id is zero"))
	}
	if c.MemberID == 0 {
		errs = append(errs, errors.New("member id is zero"))
	}
	if c.Addresses == nil {
		errs = append(errs, errors.New("no Addresses function"))
	}
	if c.Heartbeat < 0 || c.DeadAfter < 0 {
		errs = append(errs, errors.New("negative interval"))
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = defaultHeartbeat
	}
	if c.DeadAfter == 0 {
		c.DeadAfter = max(defaultDeadAfter, 5*c.Heartbeat)
	}
	if c.DeadAfter < 2*c.Heartbeat {
		errs = append(errs, fmt.Errorf("DeadAfter %v is below two heartbeats of %v", c.DeadAfter, c.Heartbeat))
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("peer: configuration: %w", err)
	}
	return nil
}

// Status describes this member's connections with another one.
type Status struct {
	Member uint64
	// Connected tells whether every outgoing connection that was ever asked for is up.
	Connected bool
	// Since is when Connected last changed; zero if it never was connected.
	Since time.Time
	// RTT is a moving average of the ping round trip; zero before the first.
	RTT time.Duration
	// Incoming counts the channels on which the other member is connected to this one.
	Incoming int
	// Err tells why an outgoing connection is down, nil while connected. It is a *RefusedError when the other side refused.
	Err error
	// Sent and Received count the bytes of frames, Failures the frames that could not be sent and the connections that were lost or
	// could not be made. Bulk transfers are not in them.
	Sent, Received, Failures uint64
	// RTTs are the ping round trips so far.
	RTTs histogram.Snapshot
}
