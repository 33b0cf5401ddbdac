package shard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Config is what a Replica is made of.
type Config struct {
	// Member is this process's member, Incarnation its run: no two processes of
	// a member ever have the same.
	Member, Incarnation uint64
	// Shard and Replica name this replica.
	Shard, Replica uint64
	// Descriptor is what a group's first Init says. It is needed only where the
	// store may be empty and the replica is one of the group's first members.
	Descriptor *kvdpb.Descriptor
	// Joined says that the replica was added to a running group: it gets its data
	// from others.
	Joined bool

	// Engine opens the store in Dir.
	Engine *mvcc.Engine
	Dir    string

	Raft      Raft
	Sequencer Sequencer
	// Sink takes in what is applied; nil for none.
	Sink Sink
	// Workers runs what may take long.
	Workers *Workers
	// Txns finishes transactions over several shards whose coordinator does not;
	// nil for nobody.
	Txns TxnResolver
	// OnPending is called when a split applied here and after every start or
	// snapshot that finds one pending, and OnSplitDone when it is no more. They
	// are called from the apply goroutine and must not block.
	OnPending   func(parent uint64, child *kvdpb.Descriptor)
	OnSplitDone func(parent, child uint64)
	// OnMerge is called when a step of a merge applied here, from the apply
	// goroutine. It must not block.
	OnMerge func(shard uint64)

	// Leases is the rest of the cluster as client leases need it; nil where there
	// are none.
	Leases Leases

	// OnOwner is called when the replica begins or ends to serve. It must not
	// block.
	OnOwner func(shard uint64)

	Limits Limits
	Logger *zap.Logger

	// now is the clock that leases end by, and gates close by; stories move one by hand.
	now func() time.Time
	// waits bounds what is tried again or given up after a while; stories wait as long as
	// it takes, and say when something is given up.
	waits waits
}

// waits bounds waits. Zero values mean the defaults.
type waits struct {
	// propose is the wait for one proposal, freeze and quiet are those of Freeze.
	propose, freeze, quiet time.Duration
}

func (w *waits) fill() {
	w.propose = cmp.Or(w.propose, proposePatience)
	w.freeze = cmp.Or(w.freeze, freezePatience)
	w.quiet = cmp.Or(w.quiet, quietPatience)
}

// Limits bound what a replica holds. Zero values mean the defaults.
type Limits struct {
	// Writes and WriteBytes bound the writes that are between arrival and apply,
	// by number and by the size of their requests; Reads the linearizable reads
	// that wait.
	Writes     int
	WriteBytes int
	Reads      int
	// BatchWrites and BatchBytes bound one raft command. A batch that reaches
	// either is full.
	BatchWrites int
	BatchBytes  int
	// Depth is how many full batches may be in flight.
	Depth int
	// Heads is how many keys' heads an owner remembers.
	Heads int
}

func (l *Limits) fill() {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Writes, 16384)
	def(&l.WriteBytes, 128<<20)
	def(&l.Reads, 16384)
	def(&l.BatchWrites, 512)
	def(&l.BatchBytes, 1<<20)
	def(&l.Depth, 3)
	def(&l.Heads, 8192)
}

func (c *Config) fill() error {
	c.Limits.fill()
	c.waits.fill()
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.Sink == nil {
		c.Sink = noSink{}
	}
	if c.Leases == nil {
		c.Leases = noLeases{}
	}
	if c.OnPending == nil {
		c.OnPending = func(uint64, *kvdpb.Descriptor) {}
	}
	if c.OnSplitDone == nil {
		c.OnSplitDone = func(uint64, uint64) {}
	}
	if c.OnMerge == nil {
		c.OnMerge = func(uint64) {}
	}
	if c.OnOwner == nil {
		c.OnOwner = func(uint64) {}
	}
	var errs []error
	for what, missing := range map[string]bool{
		"member":      c.Member == 0,
		"incarnation": c.Incarnation == 0,
		"shard":       c.Shard == 0,
		"replica":     c.Replica == 0,
		"engine":      c.Engine == nil,
		"directory":   c.Dir == "",
		"raft group":  c.Raft == nil,
		"sequencer":   c.Sequencer == nil,
		"workers":     c.Workers == nil,
	} {
		if missing {
			errs = append(errs, fmt.Errorf("no %s", what))
		}
	}
	if c.Descriptor != nil && c.Descriptor.GetShard() != c.Shard {
		errs = append(errs, fmt.Errorf("descriptor of shard %d", c.Descriptor.GetShard()))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("shard %d: configuration: %w", c.Shard, err)
	}
	return nil
}

func cloneDescriptor(d *kvdpb.Descriptor) *kvdpb.Descriptor {
	return proto.Clone(d).(*kvdpb.Descriptor)
}

// noLeases knows no lease.
type noLeases struct{}

func (noLeases) Register(context.Context, int64, keyspace.Span) error {
	return rpctypes.ErrGRPCLeaseNotFound
}
func (noLeases) Revoke(int64) {}
func (noLeases) Expired()     {}

// noSink drops everything.
type noSink struct{}

func (noSink) Opened(uint64, *kvdpb.Descriptor, uint64, int64)                   {}
func (noSink) Applied(uint64, uint64, []Event)                                   {}
func (noSink) Restored(uint64, *kvdpb.Descriptor, uint64, int64)                 {}
func (noSink) Split(_ *kvdpb.Descriptor, _ *kvdpb.Descriptor, _ uint64, _ int64) {}
func (noSink) Absorbed(*kvdpb.Descriptor, uint64, int64)                         {}
func (noSink) Closed(uint64)                                                     {}
