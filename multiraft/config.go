package multiraft

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/multiraft/peer"
)

// The engine's shape.
const (
	// stepWorkers is for new directories; one that exists keeps what its stamp says, because Dragonboat wants it so. A worker's sync serves
	// every group of it that is ready, so that one worker needs the fewest syncs: as etcd, whose one group has one. Measured on two cores
	// with 100 clients that put into 8 shards: a sixth less CPU per put than two workers, which beat Dragonboat's sixteen about twofold.
	stepWorkers = 1
	// mostStepWorkers is the most that a stamp may ask for, Dragonboat's own number.
	mostStepWorkers = 16

	applyWorkers    = 16
	snapshotWorkers = 16
	closeWorkers    = 8

	maxQueueBytes = 128 << 20
	// maxLogInMemory bounds what one replica keeps of entries that are not yet applied; beyond it proposals are refused.
	maxLogInMemory = 128 << 20

	defaultHeartbeat          = 100 * time.Millisecond
	defaultElection           = time.Second
	defaultSnapshotEntries    = 20000
	defaultCompactionOverhead = 5000
	// defaultSnapshotBytes takes about half a second to read and skip.
	defaultSnapshotBytes = 32 << 20

	addressPrefix = "member-"
)

// MaxCommand is the largest command that Propose takes, in bytes; well below what a transport batch may carry.
const MaxCommand = 48 << 20

// Config is what a Host is made of.
type Config struct {
	// Dir holds raft logs and snapshots, WALDir the log store's write-ahead log if it shall lie elsewhere.
	Dir, WALDir string
	// MemberID names this member; its raft address is derived from it.
	MemberID uint64
	// DeploymentID is the cluster's id. Messages of another one are dropped.
	DeploymentID uint64
	// Mesh carries the messages. It must not be started yet.
	Mesh *peer.Mesh
	// Heartbeat and Election are etcd's intervals (100 ms and 1 s when zero), in whole milliseconds. Every replica elects after a random one to two
	// Elections without a heartbeat.
	Heartbeat, Election time.Duration
	PreVote             bool
	// UnsafeNoFsync leaves durability to the operating system: a crash of the machine may lose acknowledged writes.
	UnsafeNoFsync bool
	// SnapshotEntries is after how many applied entries the log is compacted, with a jitter per replica, and CompactionOverhead how many entries
	// before that stay for followers that lag; 20000 and 5000 when zero.
	SnapshotEntries, CompactionOverhead uint64
	// SnapshotBytes bounds what all replicas together have applied since their last snapshots, in bytes of commands: the part of the logs that the next start
	// reads again. 32 MiB when zero. Each replica may have 1 MiB.
	SnapshotBytes int64
	// OnLeader is told the leader of each local replica when it or the term changes, one call at a time, in order. While it runs, newer
	// states of a shard replace older ones that were not yet delivered; a change of term tells that something was left out.
	OnLeader func(LeaderEvent)
	// OnReplica is told what happened to replicas, one call at a time, in order. It must not block.
	OnReplica func(ReplicaEvent)
	// OnFatal is called, with the error already logged, when a state machine fails. The process ends afterwards: a replica that cannot
	// apply an entry must not go on.
	OnFatal func(error)
	Logger  *zap.Logger

	// stepWorkers is how many step workers a new directory gets; 0 means the constant of that name.
	stepWorkers uint64
	// idleAfter is after how long without news a group counts as idle; 0 means Election.
	idleAfter time.Duration
}

// LeaderEvent tells who leads a shard in the eyes of the local replica.
type LeaderEvent struct {
	Shard, Replica uint64
	Term           uint64
	// Leader is the leading replica, 0 if none is known.
	Leader uint64
}

// ReplicaEventKind says what happened to a local replica.
type ReplicaEventKind uint8

const (
	// ReplicaReady: the state machine is open and the log replayed as far as it was snapshotted; requests are served.
	ReplicaReady ReplicaEventKind = iota + 1
	// ReplicaRemoved: the replica applied its own removal from the group. It stops by itself.
	ReplicaRemoved
	// ReplicaMembership: the replica applied a change of membership.
	ReplicaMembership
	// ReplicaRestored: the state machine was replaced by a snapshot from another replica.
	ReplicaRestored
)

// ReplicaEvent is something that happened to a local replica.
type ReplicaEvent struct {
	Kind           ReplicaEventKind
	Shard, Replica uint64
}

func (c *Config) fill() error {
	if c.Heartbeat == 0 {
		c.Heartbeat = defaultHeartbeat
	}
	if c.Election == 0 {
		c.Election = max(defaultElection, 10*c.Heartbeat)
	}
	if c.SnapshotEntries == 0 {
		c.SnapshotEntries = defaultSnapshotEntries
	}
	if c.CompactionOverhead == 0 {
		c.CompactionOverhead = defaultCompactionOverhead
	}
	if c.SnapshotBytes == 0 {
		c.SnapshotBytes = defaultSnapshotBytes
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.idleAfter == 0 {
		c.idleAfter = c.Election
	}
	if c.stepWorkers == 0 {
		c.stepWorkers = stepWorkers
	}
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("no directory"))
	}
	if c.MemberID == 0 {
		errs = append(errs, errors.New("member id is zero"))
	}
	if c.DeploymentID == 0 {
		errs = append(errs, errors.New("deployment id is zero"))
	}
	if c.Mesh == nil {
		errs = append(errs, errors.New("no mesh"))
	}
	if c.SnapshotBytes < 0 {
		errs = append(errs, fmt.Errorf("%d bytes of log before a snapshot", c.SnapshotBytes))
	}
	if c.Heartbeat < time.Millisecond || c.Heartbeat%time.Millisecond != 0 {
		errs = append(errs, fmt.Errorf("heartbeat interval %v is not a number of milliseconds", c.Heartbeat))
	} else if c.Election < 3*c.Heartbeat {
		errs = append(errs, fmt.Errorf("election timeout %v is below three heartbeats of %v", c.Election, c.Heartbeat))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("multiraft: configuration: %w", err)
	}
	return nil
}

// electionTicks is the election timeout in ticks.
func (c *Config) electionTicks() uint64 { return uint64(c.Election / c.tick()) }

// tick is the step of raft's clock, at which leaders send heartbeats and election timers count: the heartbeat interval, or twice as much where
// that leaves five ticks in an election timeout, enough for replicas to draw different ones. Each tick takes each group once through its queues,
// and that is most of what a group costs that nobody uses.
func (c *Config) tick() time.Duration {
	if c.Election >= 10*c.Heartbeat {
		return 2 * c.Heartbeat
	}
	return c.Heartbeat
}

// replicaConfig is Dragonboat's configuration of one replica.
func (c *Config) replicaConfig(shard, replica uint64, nonVoting bool) config.Config {
	return config.Config{
		ShardID:      shard,
		ReplicaID:    replica,
		CheckQuorum:  true,
		PreVote:      c.PreVote,
		ElectionRTT:  c.electionTicks(),
		HeartbeatRTT: 1,
		// Without the jitter the replicas of all shards would flush their stores at the same moment.
		SnapshotEntries:     c.SnapshotEntries + mix(shard*31+replica)%(c.SnapshotEntries/4+1),
		CompactionOverhead:  c.CompactionOverhead,
		OrderedConfigChange: true,
		MaxInMemLogSize:     maxLogInMemory,
		IsNonVoting:         nonVoting,
	}
}

// mix spreads small numbers over 64 bits.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// address is a member's raft address: the one spelling of it there is.
func address(member uint64) string { return fmt.Sprintf("%s%016x", addressPrefix, member) }

// parseAddress accepts exactly what address makes of a member id other than zero.
func parseAddress(s string) (member uint64, ok bool) {
	hex, found := strings.CutPrefix(s, addressPrefix)
	if !found || len(hex) != 16 {
		return 0, false
	}
	member, err := strconv.ParseUint(hex, 16, 64)
	return member, err == nil && member != 0 && address(member) == s
}
