package router

import (
	"context"
	"errors"
	"time"

	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/eval"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Replica is what the router needs of a local replica.
type Replica interface {
	// Do hands a request to the owner; see shard.Replica. It never blocks for long.
	Do(req *shard.Request)
	// Descriptor is immutable.
	Descriptor() *kvdpb.Descriptor
	// Owner is the owner as this replica's log says; member 0 if there is none.
	Owner() (member, epoch uint64)
	// Resolve answers, at the owner, the resolved revision of the shard once it
	// is at least rev.
	Resolve(ctx context.Context, rev int64) (shard.Resolved, error)
	// View opens this replica's copy for reading at revision rev (0: at the
	// snapshot's own revision), once it has applied raft index applied. It fails
	// with ErrStaleView where, in the very snapshot that it opens, the generation
	// is not the given one (0: any) or history that rev needs has been collected.
	View(ctx context.Context, generation, applied uint64, rev int64) (View, error)
	// Lease carries out a step about a client lease at the owner.
	Lease(ctx context.Context, call *kvdpb.LeaseCall) (*kvdpb.LeaseAnswer, error)
	// Status is what the replica reports of itself.
	Status() *kvdpb.ReplicaStatus
}

// View is an open snapshot of one replica.
type View interface {
	eval.Reader
	// Revision is the largest revision that is applied in the snapshot.
	Revision() int64
	// CompactRevision is the cluster's compaction revision as the snapshot knows it.
	CompactRevision() int64
	Applied() uint64
	Generation() uint64
	// StateHash is that of the state of span at rev; see mvcc.
	StateHash(ctx context.Context, span keyspace.Span, rev int64) (uint32, error)
	Span() keyspace.Span
	Close()
}

// ErrStaleView says that a replica cannot stand in for the owner now. Another
// replica may.
var ErrStaleView = errors.New("the replica's copy cannot vouch for the read")

// Replicas are the replicas on this member.
type Replicas interface {
	// Replica returns the running replica of a shard; ok is false if there is none.
	Replica(shard uint64) (r Replica, ok bool)
	// Split cuts the shard that holds an encoded key, which this member must own,
	// and returns when both halves serve.
	Split(ctx context.Context, key []byte) (left, right *kvdpb.Descriptor, err error)
	// CancelSplits ends the splits of a shard that this member has begun and that are
	// not past their point of no return, and returns their keys.
	CancelSplits(shard uint64) (keys [][]byte)
	// CollectedRevision is the smallest revision to which every local replica has
	// removed compacted history.
	CollectedRevision() int64
}

// Placement is what the router needs of this member's placement node.
type Placement interface {
	// Current is the sequencer's; see shard.Sequencer.
	Current(ctx context.Context) (shard.Grant, error)
	// TryCurrent is Current where it needs no message.
	TryCurrent() (shard.Grant, bool)
	// Map is the range map as this member follows it.
	Map() *placement.Map
	// Compact raises the compaction revision and answers the current one. It fails
	// with rpctypes' ErrGRPCCompacted and ErrGRPCFutureRev.
	Compact(ctx context.Context, rev int64) (current int64, err error)
}

// Mesh is what the router needs of the member's connections. *peer.Mesh is one.
type Mesh interface {
	Send(to uint64, ch peer.Channel, frame []byte) error
	WaitConnected(ctx context.Context, to uint64, ch peer.Channel) error
	Conn(to uint64) (*grpc.ClientConn, error)
}

// Config is what a Router is made of.
type Config struct {
	// Member is this member's id.
	Member    uint64
	Replicas  Replicas
	Placement Placement
	Mesh      Mesh
	Logger    *zap.Logger
	// RequestTimeout bounds every request but streams, whatever its deadline. etcd:
	// 5 s and twice the election timeout, which is the default with 1 s.
	RequestTimeout time.Duration
	// ResolveInterval is how often the resolved revisions of local replicas are
	// refreshed for serializable reads: 1 s by default, negative is never.
	ResolveInterval time.Duration
	// AuthOff tells whether auth is off, as far as this member knows; nil is
	// always. Otherwise requests go on with the auth version of their contexts.
	AuthOff func() bool
	// Fenced tells whether this member's replica of a shard must not be read in place of
	// the owner's, because it was found to differ from the others; nil is never.
	Fenced func(shard uint64) bool
}

func (c *Config) fill() error {
	var errs []error
	if c.Member == 0 {
		errs = append(errs, errors.New("router: member id is zero"))
	}
	if c.Replicas == nil || c.Placement == nil || c.Mesh == nil {
		errs = append(errs, errors.New("router: Replicas, Placement and Mesh are needed"))
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = 7 * time.Second
	}
	if c.RequestTimeout < 0 {
		errs = append(errs, errors.New("router: negative request timeout"))
	}
	if c.ResolveInterval == 0 {
		c.ResolveInterval = time.Second
	}
	if c.Fenced == nil {
		c.Fenced = func(uint64) bool { return false }
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return errors.Join(errs...)
}
