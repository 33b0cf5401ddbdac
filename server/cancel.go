package server

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// cancelPatience bounds the question whether a member has a split to cancel.
const cancelPatience = 2 * time.Second

// cancelSplits ends the splits of a shard that can still be ended, wherever they were begun, and says which; empty for
// none. That is where an owner was: any member with a replica.
func (o operations) cancelSplits(ctx context.Context, d *kvdpb.Descriptor) string {
	ctx, cancel := context.WithTimeout(ctx, cancelPatience)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var keys [][]byte
	for _, r := range d.Replicas {
		wg.Go(func() {
			found := o.cancelSplitsOn(ctx, r.Member, d.Shard)
			mu.Lock()
			defer mu.Unlock()
			keys = append(keys, found...)
		})
	}
	wg.Wait()
	if len(keys) == 0 {
		return ""
	}
	shown := make([]string, len(keys))
	for i, key := range keys {
		shown[i] = keyspace.Format(key)
	}
	return "split at " + strings.Join(shown, ", ")
}

func (o operations) cancelSplitsOn(ctx context.Context, member, shard uint64) [][]byte {
	if member == o.m.id.member {
		return o.m.manager.CancelSplits(shard)
	}
	conn, err := o.m.mesh.Conn(member)
	if err == nil {
		var resp *kvdpb.CancelSplitsResponse
		if resp, err = kvdpb.NewShardsClient(conn).CancelSplits(ctx, &kvdpb.CancelSplitsRequest{Shard: shard}); err == nil {
			return resp.Keys
		}
	}
	// A member that cannot be reached ends its splits, or goes through with them, by itself.
	o.m.log.Info("could not ask a member for splits to cancel", zap.Uint64("shard", shard), zap.Error(err))
	return nil
}
