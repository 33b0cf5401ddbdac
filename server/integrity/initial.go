package integrity

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/shard"
)

// initialPatience bounds the look at one shard when the member starts.
const initialPatience = 20 * time.Second

// Verify compares all of this member's replicas with those of the members that can
// be reached, before the member serves clients. It fails if a replica differs from
// others and no other one agrees with it: serving it would spread what is wrong.
func (c *Checker) Verify(ctx context.Context) error {
	var ids []uint64
	c.cfg.Replicas.Each(func(r *shard.Replica) bool {
		if d := r.Descriptor(); d != nil {
			ids = append(ids, d.GetShard())
		}
		return true
	})
	for _, id := range ids {
		bounded, cancel := context.WithTimeout(ctx, initialPatience)
		found := c.compare(bounded, id)
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

// alone tells whether no other member has the hash of this one.
func (c *comparison) alone() bool {
	for member, hash := range c.hashes {
		if member != c.own && hash == c.hashes[c.own] {
			return false
		}
	}
	return true
}
