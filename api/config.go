package api

import (
	"context"
	"crypto/tls"
	"errors"
	"math"
	"net"
	"time"

	"github.com/kvd-io/kvd/auth"
	"github.com/kvd-io/kvd/backup"
	"github.com/kvd-io/kvd/lease"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/router"
	"github.com/kvd-io/kvd/watch"
	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/proto"
)

// Router is what the services need of the router. *router.Router is one.
type Router interface {
	Do(ctx context.Context, req proto.Message, raw []byte) (router.Response, error)
	Range(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error)
	RangeStream(ctx context.Context, req *pb.RangeRequest, send func(*pb.RangeResponse) error) error
	Compact(ctx context.Context, req *pb.CompactionRequest) (*pb.CompactionResponse, error)
	HashKV(ctx context.Context, rev int64) (router.Hash, error)
	Shards(ctx context.Context) (infos []router.ShardInfo, version uint64, err error)
	Shard(ctx context.Context, id uint64) (router.ShardInfo, error)
	Split(ctx context.Context, key []byte) (left, right *kvdpb.Descriptor, err error)
}

// Leases is the member's part in the cluster's leases. *lease.Manager is one.
type Leases interface {
	Grant(ctx context.Context, id, ttl int64) (lease.Info, error)
	KeepAlive(ctx context.Context, id int64) (lease.Info, error)
	Describe(ctx context.Context, id int64) (lease.Info, error)
	Keys(ctx context.Context, id int64) ([][]byte, error)
	List(ctx context.Context) (all []lease.Info, revision int64, err error)
	Revoke(ctx context.Context, id int64) (revision int64, err error)
}

// Watcher is the watch hub. *watch.Hub is one.
type Watcher interface {
	NewStream() *watch.Stream
}

// Cluster is what the services need to know of the cluster.
type Cluster interface {
	ClusterID() uint64
	Members() []*kvdpb.Member
	// SequencerMember is the member that clients are told to be the leader; 0
	// while there is none.
	SequencerMember() uint64
	// Term never falls.
	Term() uint64
	// Learner tells whether this member is a learner, which serves little.
	Learner() bool
	// Barrier is a linearizable read of the members and of all else that the
	// methods here answer.
	Barrier(ctx context.Context) error
	// MoveSequencer makes another member the leader that clients are told of, from
	// this one. It returns once that is so.
	MoveSequencer(ctx context.Context, to uint64) error
	// StandingAlarms must not be changed.
	StandingAlarms() []*kvdpb.Alarm
	RaiseAlarm(ctx context.Context, a *kvdpb.Alarm) error
	ClearAlarm(ctx context.Context, a *kvdpb.Alarm, anyCause bool) error
	// Downgrade is the version that the cluster was told to go back to.
	Downgrade() string
	SetDowngrade(ctx context.Context, target string) error
}

// Snapshots saves snapshots of the whole store. *backup.Saver is one.
type Snapshots interface {
	Save(ctx context.Context) (*backup.File, error)
}

// Membership changes the members of the cluster. Errors are etcd's. all are the
// members after the change.
type Membership interface {
	AddMember(ctx context.Context, peerURLs []string, learner bool) (added *kvdpb.Member, all []*kvdpb.Member, err error)
	RemoveMember(ctx context.Context, id uint64) (all []*kvdpb.Member, err error)
	UpdateMember(ctx context.Context, id uint64, peerURLs []string) (all []*kvdpb.Member, err error)
	PromoteMember(ctx context.Context, id uint64) (all []*kvdpb.Member, err error)
}

// Operations changes where shards live, and the settings of the cluster. Errors are
// statuses of gRPC.
type Operations interface {
	// Transfer makes a member the owner of a shard and returns once it serves; member
	// 0 lets any own it.
	Transfer(ctx context.Context, shard, member uint64) error
	// Move replaces the replica on one member by one on another.
	Move(ctx context.Context, shard, from, to uint64, wait bool) (replica uint64, err error)
	// Merge gives a shard the keys of its right neighbour, which has to be right unless
	// that is 0, and names that.
	Merge(ctx context.Context, shard, right uint64, wait bool) (absorbed uint64, err error)
	// Rebuild makes the replica on a member anew from the others; member 0 is the one whose
	// replica was found to differ. replica is the new one, if it was waited for.
	Rebuild(ctx context.Context, shard, member uint64, wait bool) (rebuilt, replica uint64, err error)
	// Cancel takes back what is under way with a shard, and says what it was.
	Cancel(ctx context.Context, shard uint64) (what string, err error)
	// Rebalance has the cluster look at itself now, and tells what it decided.
	Rebalance(ctx context.Context) (decisions []string, err error)
	Settings(ctx context.Context) ([]placement.Setting, error)
	ChangeSetting(ctx context.Context, name, value string, reset bool) (placement.Setting, error)
}

// Storage is what this member's replicas add up to.
type Storage struct {
	// DiskBytes is the space on disk, LiveBytes what of it is in use.
	DiskBytes, LiveBytes int64
	// Applied is a count of applied raft entries, Revision the largest revision
	// that is applied here.
	Applied  uint64
	Revision int64
}

// Port is a listener of the client side.
type Port struct {
	net.Listener
	// Secure: connections speak TLS, as Config.TLS says.
	Secure bool
	// GRPC and HTTP say what is served. Metrics: only metrics and health are.
	GRPC, HTTP, Metrics bool
}

// Config is what a Server is made of.
type Config struct {
	Member  uint64
	Router  Router
	Watcher Watcher
	Leases  Leases
	Cluster Cluster
	Storage func() Storage
	// Membership changes the members of Cluster.
	Membership Membership
	Operations Operations
	// Snapshots may be nil: then there are none.
	Snapshots Snapshots
	Ports     []Port
	// TLS is needed if a port is secure.
	TLS    *tls.Config
	Logger *zap.Logger

	// MaxRequestBytes bounds writes, MaxTxnOps the operations of a transaction.
	// Defaults are etcd's.
	MaxRequestBytes, MaxTxnOps uint
	MaxConcurrentStreams       uint32
	// The keepalive settings are etcd's flags; 0 turns the server's pings off.
	KeepAliveMinTime, KeepAliveInterval, KeepAliveTimeout time.Duration
	// Guard keeps out what alarms and lack of space rule out; nil admits all.
	Guard Guard
	// ElectionTimeout is the tick of the watch on lost leaders.
	ElectionTimeout time.Duration
	// RequestTimeout bounds health checks.
	RequestTimeout time.Duration
	// SlowRequest is how long a KV request may take before the log mentions it; 0
	// is any time.
	SlowRequest time.Duration
	EnablePprof bool

	// Gateway serves the JSON gateway. CORS are the origins and HostWhitelist the
	// host names that HTTP pages answer to; empty, or with "*", is all.
	Gateway             bool
	CORS, HostWhitelist []string
	// Auth checks permissions; nil is without users.
	Auth *auth.Service
	// Alarms are the alarms that health looks at; nil is those of the cluster.
	Alarms func() []*pb.AlarmMember
	// CertificateNames says whether names of client certificates count as users;
	// nil is never.
	CertificateNames func() bool
	// LogLevel, if set, can be looked at and changed by HTTP.
	LogLevel *zap.AtomicLevel
	// Debug serves traces of requests at /debug/requests and /debug/events.
	Debug bool
	// Histograms adds the durations of all gRPC methods to the metrics.
	Histograms bool
	// Calls, if set, is told of every call of gRPC: what traces them.
	Calls stats.Handler
	// Collectors are the metrics of the other parts of the member.
	Collectors []prometheus.Collector
}

const (
	defaultMaxRequestBytes = 1536 << 10
	defaultMaxTxnOps       = 128
	// overheadBytes is how much larger than a request its message may be, as in
	// etcd.
	overheadBytes = 512 << 10
)

func (c *Config) fill() error {
	var errs []error
	if c.Member == 0 {
		errs = append(errs, errors.New("api: member id is zero"))
	}
	if c.Router == nil || c.Watcher == nil || c.Leases == nil || c.Cluster == nil || c.Membership == nil || c.Operations == nil || c.Storage == nil {
		errs = append(errs, errors.New("api: Router, Watcher, Leases, Cluster, Membership, Operations and Storage are needed"))
	}
	for _, p := range c.Ports {
		if p.Secure && c.TLS == nil {
			errs = append(errs, errors.New("api: a secure port without TLS configuration"))
		}
	}
	if c.MaxRequestBytes == 0 {
		c.MaxRequestBytes = defaultMaxRequestBytes
	}
	if c.MaxTxnOps == 0 {
		c.MaxTxnOps = defaultMaxTxnOps
	}
	if c.MaxConcurrentStreams == 0 {
		c.MaxConcurrentStreams = math.MaxUint32
	}
	if c.Guard == nil {
		c.Guard = openDoor{}
	}
	if c.ElectionTimeout == 0 {
		c.ElectionTimeout = time.Second
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = 5*time.Second + 2*c.ElectionTimeout
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Alarms == nil {
		c.Alarms = func() []*pb.AlarmMember { return AlarmMembers(c.Cluster.StandingAlarms()) }
	}
	if c.CertificateNames == nil {
		c.CertificateNames = func() bool { return false }
	}
	return errors.Join(errs...)
}
