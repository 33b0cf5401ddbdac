package integrity

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// initialPatience bounds the look at one shard when the member starts.
const initialPatience = 20 * time.Second

// openPace is how often it is looked whether a replica is open.
const openPace = 20 * time.Millisecond

// Verify compares all of this member's replicas with those of the members that can
// be reached, before the member serves clients. It fails if a replica differs from
// others and no other one agrees with it: serving it would spread what is wrong.
func (c *Checker) Verify(ctx context.Context) error {
	for _, d := range c.cfg.Live() {
		if !slices.ContainsFunc(d.Replicas, func(r *kvdpb.Replica) bool { return r.Member == c.cfg.Member && !r.Joining }) {
			continue
		}
		id := d.Shard
		bounded, cancel := context.WithTimeout(ctx, initialPatience)
		found := c.compareOpen(bounded, id)
		cancel()
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("compare shard %d with other members: %w", id, err)
		}
		if found == nil {
			c.log.Info("a shard could not be compared with other members at start", zap.Uint64("shard", id))
			continue
		}
		if found.alone() {
			return fmt.Errorf("the data of shard %d at revision %d differs from that of all other members that were asked: %v",
				id, found.revision, found.show())
		}
	}
	return nil
}

// compareOpen compares a shard once its replica, which may still be opening, is there.
func (c *Checker) compareOpen(ctx context.Context, id uint64) *comparison {
	tick := time.NewTicker(openPace)
	defer tick.Stop()
	for {
		if r, ok := c.cfg.Replicas.Replica(id); ok && r.Descriptor() != nil {
			return c.compare(ctx, id)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// alone tells whether no other member has this one's hash of some kind.
func (c *comparison) alone() bool {
	return c.hashes.alone(c.own) || c.leases.alone(c.own)
}

func (h hashes) alone(own uint64) bool {
	for member, hash := range h {
		if member != own && hash == h[own] {
			return false
		}
	}
	return len(h) > 1
}
