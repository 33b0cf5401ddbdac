package compactor

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc/status"
)

const (
	// maxInterval bounds the time between two periodic compactions; etcd's.
	maxInterval = time.Hour
	// samplesPerInterval is how often in an interval the revision is noted; etcd's.
	samplesPerInterval = 10
	// revisionInterval is the time between two compactions by revision; etcd's.
	revisionInterval = 5 * time.Minute
	// minSample keeps very short retentions, which only tests use, from spinning.
	minSample = 10 * time.Millisecond
)

// Config is what a Compactor is made of.
type Config struct {
	// Period is how long history is kept; 0 is no limit by time.
	Period time.Duration
	// Revisions is how many revisions are kept; 0 is no limit by number.
	Revisions int64
	// Current is the cluster's revision.
	Current func(ctx context.Context) (int64, error)
	// Owner tells whether it is up to this member to compact.
	Owner func() bool
	// Compact raises the compaction revision.
	Compact func(ctx context.Context, revision int64) error
	Logger  *zap.Logger
}

// Compactor compacts until it is closed.
type Compactor struct {
	cfg    Config
	log    *zap.Logger
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New makes a compactor that does nothing until Start.
func New(cfg Config) *Compactor {
	c := &Compactor{cfg: cfg, log: cfg.Logger}
	if c.log == nil {
		c.log = zap.NewNop()
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Start begins to compact, if there is anything to do.
func (c *Compactor) Start() {
	switch {
	case c.cfg.Period > 0:
		w := newWindow(c.cfg.Period)
		c.run(w.sample, func(now time.Time, revision int64) int64 {
			w.note(now, revision)
			return w.due(now)
		}, w.compacted)
	case c.cfg.Revisions > 0:
		c.run(revisionInterval, func(_ time.Time, revision int64) int64 {
			return revision - c.cfg.Revisions
		}, func(time.Time, int64) {})
	}
}

// run asks decide at intervals which revision to compact, and tells done what was compacted.
func (c *Compactor) run(every time.Duration, decide func(now time.Time, revision int64) int64, done func(time.Time, int64)) {
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		tick := time.NewTicker(every)
		defer tick.Stop()
		last := int64(0)
		for {
			if revision, ok := c.current(every); ok {
				now := time.Now()
				if due := decide(now, revision); due > last && c.cfg.Owner() && c.compact(due) {
					last = due
					done(now, due)
				}
			}
			select {
			case <-tick.C:
			case <-c.ctx.Done():
				return
			}
		}
	}()
}

func (c *Compactor) current(limit time.Duration) (revision int64, ok bool) {
	ctx, cancel := context.WithTimeout(c.ctx, max(limit, time.Second))
	defer cancel()
	revision, err := c.cfg.Current(ctx)
	return revision, err == nil // without a sequencer there is nothing to note
}

func (c *Compactor) compact(revision int64) bool {
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	began := time.Now()
	err := c.cfg.Compact(ctx, revision)
	if err != nil && !isCompacted(err) {
		if c.ctx.Err() == nil {
			c.log.Warn("could not compact history", zap.Int64("revision", revision), zap.Error(err))
		}
		return false
	}
	c.log.Info("compacted history", zap.Int64("revision", revision), zap.Duration("took", time.Since(began)))
	return true
}

// isCompacted tells whether somebody else has compacted as much.
func isCompacted(err error) bool {
	var coded interface{ GRPCStatus() *status.Status }
	return errors.As(err, &coded) && coded.GRPCStatus().Message() == status.Convert(rpctypes.ErrGRPCCompacted).Message()
}

// Close ends it.
func (c *Compactor) Close() {
	c.cancel()
	c.wg.Wait()
}
