package router

import (
	"context"
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/shard"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Hash is a checksum of the state of the whole key space at a revision.
type Hash struct {
	Sum uint32
	// Revision is what was hashed, CompactRevision the lowest that can be.
	Revision, CompactRevision int64
	// Current is the cluster's revision.
	Current int64
}

// HashKV computes the checksum of this member's copies at a revision, 0 being
// the current one. All members give the same, however the key space is cut and
// whatever each has collected; a compaction up to the revision does not change it. It fails where a shard has no replica here.
func (r *Router) HashKV(ctx context.Context, rev int64) (Hash, error) {
	h, err := r.hash(ctx, rev)
	return h, clientError(err)
}

func (r *Router) hash(ctx context.Context, rev int64) (Hash, error) {
	for attempt := 0; ; attempt++ {
		at, g, err := r.readAt(ctx, rev)
		if err != nil {
			return Hash{}, err
		}
		h := Hash{Revision: at, CompactRevision: g.Stamp.CompactRevision, Current: g.First}
		err = r.hashAt(ctx, &h)
		if err == nil {
			return h, nil
		}
		// A split, a change of owners or a compaction came in between.
		if !errors.Is(err, ErrStaleView) || attempt == compactedRetries {
			return Hash{}, err
		}
	}
}

func (r *Router) hashAt(ctx context.Context, h *Hash) error {
	live := r.cfg.Placement.Map().Live()
	ids := make([]uint64, len(live))
	for i, d := range live {
		ids[i] = d.Shard
	}
	got, err := r.resolveAll(ctx, h.Revision, ids)
	if err != nil {
		return errors.Join(ErrStaleView, err)
	}
	for _, res := range got {
		sum, err := r.hashShard(ctx, res, h)
		if err != nil {
			return err
		}
		h.Sum += sum
	}
	return nil
}

func (r *Router) hashShard(ctx context.Context, res shard.Resolved, h *Hash) (uint32, error) {
	rep, ok := r.cfg.Replicas.Replica(res.Shard)
	if !ok {
		return 0, status.Errorf(codes.Unavailable, "kvd: this member has no replica of shard %d", res.Shard)
	}
	view, err := rep.View(ctx, res.Generation, res.Applied, h.Revision)
	if err != nil {
		return 0, fmt.Errorf("hash of shard %d: %w", res.Shard, err)
	}
	defer view.Close()
	return view.StateHash(ctx, view.Span(), h.Revision)
}
