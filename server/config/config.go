package config

import (
	"math"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.uber.org/zap"
)

// The values of Config.InitialClusterState.
const (
	StateNew      = "new"
	StateExisting = "existing"
)

// The values of Config.ReadMode.
const (
	// ReadModeLease lets the sequencer answer inside its read lease, on its own monotonic clock.
	ReadModeLease = "lease"
	// ReadModeQuorum makes the sequencer confirm its ownership with a majority for each batch. It leans on no clock:
	// the mode for machines whose clocks stop while they are paused.
	ReadModeQuorum = "quorum"
)

const (
	defaultName             = "default"
	defaultPeerURL          = "http://localhost:2380"
	defaultClientURL        = "http://localhost:2379"
	defaultInitialCluster   = defaultName + "=" + defaultPeerURL
	defaultLogRotation      = `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`
	defaultSnapshotCount    = 10000
	defaultCatchUpEntries   = 5000
	defaultBlockCacheBytes  = 256 << 20
	defaultMemtableBytes    = 128 << 20
	defaultMaxRequestBytes  = 1536 << 10
	defaultProgressInterval = 10 * time.Minute
)

// Config is all that one member can be told from outside. A Config comes from Parse, or from Default and assignments
// followed by Complete and Validate. It is not changed once the member has started.
type Config struct {
	// Name is the member's human-readable name, and its key in InitialCluster.
	Name string
	// DataDir holds everything that the member keeps. Complete sets "<name>.etcd" where it is empty.
	DataDir string
	// WALDir holds the raft log, if it shall lie on a disk of its own. Empty: inside DataDir.
	WALDir string

	// SnapshotCount is the number of raft entries of a shard after which its log is cut.
	SnapshotCount uint64
	// SnapshotCatchUpEntries is the number of entries that are kept behind a cut for slow replicas.
	SnapshotCatchUpEntries uint64
	// HeartbeatInterval is the raft tick; ElectionTimeout is a multiple of it, at least five.
	HeartbeatInterval, ElectionTimeout time.Duration
	// InitialElectionTickAdvance lets the first election of a start happen early.
	InitialElectionTickAdvance bool
	// PreVote makes a replica ask whether it could win before it disturbs a leader with an election.
	PreVote bool

	// ListenPeerURLs and ListenClientURLs are bound; their hosts are IP addresses or "localhost".
	ListenPeerURLs, ListenClientURLs types.URLs
	// ListenClientHTTPURLs, if any, take the HTTP services away from ListenClientURLs.
	ListenClientHTTPURLs types.URLs
	// ListenMetricsURLs are bound for /metrics and health alone.
	ListenMetricsURLs types.URLs
	// AdvertisePeerURLs and AdvertiseClientURLs are told to members and clients.
	AdvertisePeerURLs, AdvertiseClientURLs types.URLs
	// Socket holds SO_REUSEPORT and SO_REUSEADDR for all listeners.
	Socket transport.SocketOpts

	// InitialCluster lists the members of a cluster at its birth, "name=url,name=url". Read it with Bootstrap.
	InitialCluster string
	// InitialClusterState is StateNew or StateExisting. It counts only while DataDir is fresh.
	InitialClusterState string
	// InitialClusterToken tells clusters apart that were born with equal names and URLs.
	InitialClusterToken string
	// InitialSplitKeys are the user keys at which the key space of a new cluster is cut into shards, ascending.
	InitialSplitKeys [][]byte
	// DiscoverySRV is a DNS domain whose SRV records take the place of InitialCluster; DiscoverySRVName is a suffix of
	// the service name that is asked for.
	DiscoverySRV, DiscoverySRVName string
	// StrictReconfigCheck rejects member changes that would cost the quorum.
	StrictReconfigCheck bool
	// MaxLearners limits the learners of the cluster.
	MaxLearners int
	// ForceNewCluster makes a one-member cluster of the data directory.
	ForceNewCluster bool

	// MaxTxnOps limits the operations of one transaction, MaxRequestBytes the size of one request.
	MaxTxnOps       uint
	MaxRequestBytes uint
	// MaxConcurrentStreams limits the streams of one client connection.
	MaxConcurrentStreams uint32
	// GRPCKeepAliveMinTime is the shortest interval at which clients may ping. GRPCKeepAliveInterval and
	// GRPCKeepAliveTimeout are the server's own pings; 0 turns them off.
	GRPCKeepAliveMinTime, GRPCKeepAliveInterval, GRPCKeepAliveTimeout time.Duration
	// WatchProgressNotifyInterval is the period of progress notifications of quiet watches that asked for them.
	WatchProgressNotifyInterval time.Duration
	// WarningUnaryRequestDuration is how long a unary request may take before the log mentions it.
	WarningUnaryRequestDuration time.Duration

	// ReadMode is ReadModeLease or ReadModeQuorum.
	ReadMode string
	// BlockCacheBytes is the size of the block cache that all shards of the member share.
	BlockCacheBytes int64
	// MemtableBytes is the budget of all memtables of the member's shards together.
	MemtableBytes int64
	// UnsafeNoFsync gives durability away for speed; for tests.
	UnsafeNoFsync bool
	// MemoryLock keeps the process out of swap.
	MemoryLock bool

	// QuotaBackendBytes is the size of the store above which writes stop; 0 or less is none.
	QuotaBackendBytes int64
	// DiskReserveBytes is the room on each disk below which writes stop; 0 is a gigabyte or a twentieth of the disk, what
	// is less; negative is none.
	DiskReserveBytes int64
	// AutoCompactionMode is "periodic" or "revision"; AutoCompactionRetention is a duration, a number of hours, or a
	// number of revisions. "0": off.
	AutoCompactionMode, AutoCompactionRetention string

	// ClientTLS and PeerTLS are the certificates of the two ports. They are complete once SetupTLS has returned.
	ClientTLS, PeerTLS transport.TLSInfo
	// ClientAutoTLS and PeerAutoTLS make certificates, good for SelfSignedCertValidity years, where none are given.
	ClientAutoTLS, PeerAutoTLS bool
	SelfSignedCertValidity     uint
	// CipherSuites are names as in crypto/tls. Empty: Go's choice.
	CipherSuites []string
	// TLSMinVersion and TLSMaxVersion are "TLS1.2", "TLS1.3" or, for the maximum, empty.
	TLSMinVersion, TLSMaxVersion string

	// AuthToken is "simple" or "jwt" with options; AuthTokenTTL is in seconds; BcryptCost is 4 to 31.
	AuthToken    string
	AuthTokenTTL uint
	BcryptCost   uint

	// EnableGRPCGateway serves the JSON API; CORS and HostWhitelist guard it. EnablePprof serves profiles.
	EnableGRPCGateway bool
	CORS              []string
	HostWhitelist     []string
	EnablePprof       bool
	// Metrics is "basic" or "extensive".
	Metrics string

	// Tracing sends spans of requests to a collector.
	Tracing Tracing

	// LogLevel is debug, info, warn, error, panic or fatal; LogFormat is json or console. LogOutputs are "default"
	// and "stderr" (the same), "stdout", "systemd/journal", or paths of files.
	LogLevel, LogFormat string
	LogOutputs          []string

	// CorruptCheckTime and CompactHashCheckTime are etcd's; CorruptCheckPeriod says what comes of them.
	CorruptCheckTime, CompactHashCheckTime time.Duration

	// Features are etcd's feature gates by name; FeatureEnabled reads them.
	Features featuregate.MutableFeatureGate

	// File is the path of the configuration file that was read, empty if there was none.
	File string
	// Warnings say which settings are without effect or unwise. Whoever starts the member logs them.
	Warnings []Warning
	// Logger is used by everything in the member. Nil: nothing is logged. LogLevelNow, if not nil, is the level that the
	// logger obeys, and may be changed at any time.
	Logger      *zap.Logger
	LogLevelNow *zap.AtomicLevel

	// explicit holds the flags that were set in some way, by name.
	explicit map[string]bool
	// Settings that only Validate or the warnings look at.
	discoveryURL, discoveryToken, discoveryFallback string
	discoveryEndpoints                              []string
	logger                                          string
	enableLogRotation                               bool
	logRotation                                     string
}

// Tracing is etcd's distributed tracing: spans by OTLP over gRPC.
type Tracing struct {
	Enabled bool
	// Address is the collector's host:port; Service and Instance name the member there, Instance only if it is not empty.
	Address, Service, Instance string
	// PerMillion is how many of a million requests are sampled, of those that come without a decision of their client.
	PerMillion int
}

// Warning says that a setting is accepted but without effect, or unwise.
type Warning struct {
	// Flag is the name of the flag, or of the key of the configuration file.
	Flag string
	// Reason is a phrase for the log.
	Reason string
}

// Default is the configuration of a member that was told nothing: one member named "default", on localhost.
func Default() *Config {
	return &Config{
		Name:                        defaultName,
		SnapshotCount:               defaultSnapshotCount,
		SnapshotCatchUpEntries:      defaultCatchUpEntries,
		HeartbeatInterval:           100 * time.Millisecond,
		ElectionTimeout:             time.Second,
		InitialElectionTickAdvance:  true,
		PreVote:                     true,
		ListenPeerURLs:              types.MustNewURLs([]string{defaultPeerURL}),
		ListenClientURLs:            types.MustNewURLs([]string{defaultClientURL}),
		AdvertisePeerURLs:           types.MustNewURLs([]string{defaultPeerURL}),
		AdvertiseClientURLs:         types.MustNewURLs([]string{defaultClientURL}),
		InitialCluster:              defaultInitialCluster,
		InitialClusterState:         StateNew,
		InitialClusterToken:         "etcd-cluster",
		StrictReconfigCheck:         true,
		MaxLearners:                 1,
		MaxTxnOps:                   128,
		MaxRequestBytes:             defaultMaxRequestBytes,
		MaxConcurrentStreams:        math.MaxUint32,
		GRPCKeepAliveMinTime:        5 * time.Second,
		GRPCKeepAliveInterval:       2 * time.Hour,
		GRPCKeepAliveTimeout:        20 * time.Second,
		WatchProgressNotifyInterval: defaultProgressInterval,
		WarningUnaryRequestDuration: 300 * time.Millisecond,
		ReadMode:                    ReadModeLease,
		BlockCacheBytes:             defaultBlockCacheBytes,
		MemtableBytes:               defaultMemtableBytes,
		AutoCompactionMode:          "periodic",
		AutoCompactionRetention:     "0",
		CompactHashCheckTime:        time.Minute,
		SelfSignedCertValidity:      1,
		TLSMinVersion:               "TLS1.2",
		AuthToken:                   "simple",
		AuthTokenTTL:                300,
		BcryptCost:                  10,
		EnableGRPCGateway:           true,
		CORS:                        []string{"*"},
		HostWhitelist:               []string{"*"},
		Metrics:                     "basic",
		Tracing:                     Tracing{Address: "localhost:4317", Service: "etcd"},
		LogLevel:                    "info",
		LogFormat:                   "json",
		LogOutputs:                  []string{"default"},
		Features:                    newFeatureGate(),
		explicit:                    make(map[string]bool),
		discoveryFallback:           "exit",
		logger:                      "zap",
		logRotation:                 defaultLogRotation,
	}
}

// Explicit says whether a flag, by its name, was set by command line, environment or file.
func (c *Config) Explicit(flag string) bool { return c.explicit[flag] }

// RequestTimeout is how long a request without a deadline of its own may take: room for queues, and for two elections.
func (c *Config) RequestTimeout() time.Duration { return 5*time.Second + 2*c.ElectionTimeout }

// fixtures is where generated certificates of a kind lie, as in etcd.
func (c *Config) fixtures(kind string) string { return filepath.Join(c.DataDir, "fixtures", kind) }

func (c *Config) warn(flag, reason string) {
	c.Warnings = append(c.Warnings, Warning{Flag: flag, Reason: reason})
}
