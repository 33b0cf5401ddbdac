package watch

import (
	"context"
	"errors"
	"runtime"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// Stores opens snapshots of the local replicas' stores.
type Stores interface {
	// Snapshot answers the state of a local replica's store after everything
	// that the hub was told of the shard before the call. ErrNoReplica, or any
	// other error, if there is none here now.
	Snapshot(shard uint64) (Snapshot, error)
}

// Snapshot is what the hub reads of a store; *mvcc.Snapshot is one.
type Snapshot interface {
	Events(ctx context.Context, span keyspace.Span, from, to int64, maxBytes int, fn mvcc.VisitEvent) (next int64, err error)
	GetAt(key []byte, rev int64) (*mvccpb.KeyValue, error)
	LastRevision() int64
	Close()
}

// ErrNoReplica says that this member holds no replica of a shard.
var ErrNoReplica = errors.New("watch: no replica of the shard here")

// Resolver asks the owners of shards how far their shards are resolved.
type Resolver interface {
	// Resolve asks for at least revision, which is allotted already, of every
	// shard named, with one message per member. It calls answer, from any
	// goroutine, for each shard whose owner can tell, and returns when no more
	// answers will come or ctx ends. An owner that answers less than revision
	// is asked again.
	Resolve(ctx context.Context, revision int64, shards []uint64, answer func(shard.Resolved))
}

// TryResolver is a Resolver that can tell at once what needs no message and no
// waiting, which is so for idle shards that this member owns.
type TryResolver interface {
	Resolver
	// TryResolve calls answer, before it returns, for those of the shards of which
	// it knows that they are resolved up to revision. It never blocks.
	TryResolve(revision int64, shards []uint64, answer func(shard.Resolved))
}

// Revisions tells the current revision; every shard.Sequencer does.
type Revisions interface {
	Current(ctx context.Context) (shard.Grant, error)
	TryCurrent() (shard.Grant, bool)
}

// RangeMap says which shard holds which keys; *placement.Map is one.
type RangeMap interface {
	// Overlapping returns the descriptors of the shards that hold a part of the
	// span, in key order.
	Overlapping(span keyspace.Span) []*kvdpb.Descriptor
}

// Peers reaches the other members' peer ports.
type Peers interface {
	Conn(member uint64) (*grpc.ClientConn, error)
}

// Config is what a Hub is made of. Stores, Resolver and Revisions are required.
type Config struct {
	// MemberID is this member: feeds are never opened to it.
	MemberID  uint64
	Stores    Stores
	Resolver  Resolver
	Revisions Revisions
	// Map answers the range map that this member has followed to. Nil: keys
	// without a local replica are not served.
	Map func() RangeMap
	// Peers carries feeds. Nil: keys without a local replica are not served.
	Peers  Peers
	Logger *zap.Logger

	// RingBytes bounds the memory of recent events of all shards together, by
	// keys and values and a flat amount per event. Default 64 MiB.
	RingBytes int
	// StreamBytes bounds what waits to be sent on one stream, before its watches
	// fall back to reading from disk. Default 4 MiB.
	StreamBytes int
	// WindowBytes bounds one step of a catch-up, by keys and values. A revision
	// is never cut, so it may be exceeded by one transaction. Default 512 KiB.
	WindowBytes int
	// Workers run live delivery, CatchUpWorkers the reading of history. Defaults:
	// GOMAXPROCS, and 2 to 4.
	Workers, CatchUpWorkers int
	// ProgressInterval is etcd's --watch-progress-notify-interval: how long a
	// watch that asked for it is idle before it is told its progress. Default 10
	// minutes, at least 100 ms.
	ProgressInterval time.Duration
	// MaxResponseBytes is where a response is cut into fragments for a client
	// that asked for it. Default etcd's 1.5 MiB + 512 KiB.
	MaxResponseBytes int

	// manual leaves all work to the test's own drain, goroutines to its spawn, and
	// sets no timers.
	manual bool
	spawn  func(f func())
}

const (
	minProgressInterval = 100 * time.Millisecond
	// currentTimeout is how long the creation of a watch waits for the sequencer
	// before it makes do with the largest revision known here.
	currentTimeout = time.Second
)

func (c *Config) setDefaults() {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.RingBytes <= 0 {
		c.RingBytes = 64 << 20
	}
	if c.StreamBytes <= 0 {
		c.StreamBytes = 4 << 20
	}
	if c.WindowBytes <= 0 {
		c.WindowBytes = 512 << 10
	}
	if c.Workers <= 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.CatchUpWorkers <= 0 {
		c.CatchUpWorkers = min(max(runtime.GOMAXPROCS(0), 2), 4)
	}
	if c.ProgressInterval <= 0 {
		c.ProgressInterval = 10 * time.Minute
	}
	c.ProgressInterval = max(c.ProgressInterval, minProgressInterval)
	if c.MaxResponseBytes <= 0 {
		c.MaxResponseBytes = 1572864 + 512<<10
	}
}
