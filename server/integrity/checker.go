package integrity

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

const (
	// DefaultPeriod is how often each shard is compared where nothing else is asked
	// for.
	DefaultPeriod = 10 * time.Minute
	// restShare is how many times as long as a comparison the pause after it is at
	// least, without a period that was asked for.
	restShare = 50
	// patience bounds one comparison: a replica may lag, and a large shard takes
	// seconds to read.
	patience = 2 * time.Minute
	// raiseTimeout bounds the raising of an alarm.
	raiseTimeout = 10 * time.Second
)

// Replicas are this member's replicas.
type Replicas interface {
	// Replica returns the replica of a shard.
	Replica(shard uint64) (*shard.Replica, bool)
	// Each calls fn with each replica until it returns false.
	Each(fn func(*shard.Replica) bool)
}

// Alarms raise alarms of the cluster.
type Alarms interface {
	RaiseAlarm(ctx context.Context, a *kvdpb.Alarm) error
	StandingAlarms() []*kvdpb.Alarm
}

// Config is what a Checker is made of.
type Config struct {
	Member   uint64
	Replicas Replicas
	// Descriptor is the newest descriptor of a shard, nil if it has none.
	Descriptor func(shard uint64) *kvdpb.Descriptor
	// Live are the newest descriptors of all shards that live.
	Live func() []*kvdpb.Descriptor
	// Conn connects to a member's peer port.
	Conn   func(member uint64) (grpc.ClientConnInterface, error)
	Alarms Alarms
	// Period is how often each shard is compared; 0 stands for DefaultPeriod and
	// pauses by the time that comparing takes.
	Period time.Duration
	Logger *zap.Logger
}

// Checker compares the shards that this member owns until it is closed.
type Checker struct {
	cfg    Config
	log    *zap.Logger
	paced  bool
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	compared, differed atomic.Uint64
}

// New makes a checker that does nothing until Start.
func New(cfg Config) *Checker {
	c := &Checker{cfg: cfg, log: cfg.Logger, paced: cfg.Period <= 0}
	if c.log == nil {
		c.log = zap.NewNop()
	}
	if c.paced {
		c.cfg.Period = DefaultPeriod
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Start begins to compare.
func (c *Checker) Start() { c.wg.Go(c.run) }

// Close ends comparing.
func (c *Checker) Close() {
	c.cancel()
	c.wg.Wait()
}

// Stats are counts since the member started.
type Stats struct {
	// Compared counts comparisons of a shard with at least one other replica,
	// Differed those that found a difference.
	Compared, Differed uint64
}

// Stats returns the checker's counts.
func (c *Checker) Stats() Stats {
	return Stats{Compared: c.compared.Load(), Differed: c.differed.Load()}
}

func (c *Checker) run() {
	// A member that has just started has other things to do, and so have those
	// that it would ask.
	if !c.rest(c.cfg.Period / 10) {
		return
	}
	for {
		began := time.Now()
		for _, id := range c.owned() {
			start := time.Now()
			c.check(id)
			if c.paced && !c.rest(restShare*time.Since(start)) {
				return
			}
		}
		if !c.rest(max(c.cfg.Period-time.Since(began), c.cfg.Period/10)) {
			return
		}
	}
}

// rest pauses, and tells whether there is more to do.
func (c *Checker) rest(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// owned lists the shards that this member owns.
func (c *Checker) owned() (ids []uint64) {
	c.cfg.Replicas.Each(func(r *shard.Replica) bool {
		if d := r.Descriptor(); d != nil && r.Serving() {
			ids = append(ids, d.GetShard())
		}
		return true
	})
	return ids
}

// check compares a shard, and raises the alarm for the members whose replicas are
// wrong twice in a row, and are still the ones that were compared.
func (c *Checker) check(id uint64) {
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	first := c.compare(ctx, id)
	if first == nil || len(first.wrong()) == 0 {
		return
	}
	second := c.compare(ctx, id)
	if second == nil {
		return
	}
	again := second.wrong()
	for member := range first.wrong() {
		if again[member] && c.still(id, member, first) {
			c.differed.Add(1)
			c.raise(member, second)
		}
	}
}

// still tells whether a member's replica of a shard is the one that was compared: a
// replica that was rebuilt meanwhile is another.
func (c *Checker) still(id, member uint64, found *comparison) bool {
	for _, r := range c.cfg.Descriptor(id).GetReplicas() {
		if r.Member == member {
			return r.Replica == found.ids[member]
		}
	}
	return false
}

func (c *Checker) raise(member uint64, found *comparison) {
	for _, a := range c.cfg.Alarms.StandingAlarms() {
		if a.Member == member && a.Type == kvdpb.Alarm_CORRUPT && a.Cause == kvdpb.Alarm_CHECK && slices.Contains(a.Shards, found.shard) {
			return // and has been told of
		}
	}
	c.log.Error("the data of a replica differs from that of the others",
		zap.Uint64("shard", found.shard), zap.String("member-id", hex(member)), zap.Int64("revision", found.revision),
		zap.Any("hashes", found.show()))
	ctx, cancel := context.WithTimeout(c.ctx, raiseTimeout)
	defer cancel()
	err := c.cfg.Alarms.RaiseAlarm(ctx, &kvdpb.Alarm{Member: member, Type: kvdpb.Alarm_CORRUPT, Cause: kvdpb.Alarm_CHECK, Shards: []uint64{found.shard}})
	if err != nil {
		// The next round tries again.
		c.log.Warn("could not raise the alarm CORRUPT", zap.Error(err))
	}
}
