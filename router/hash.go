package router

import (
	"context"
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/proto/kvdpb"
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
// the current one, and of another member's copy of a shard that has no replica
// here. All members give the same, however the key space is cut and whatever each
// has collected; a compaction up to the revision does not change it.
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
	if rep, ok := r.cfg.Replicas.Replica(res.Shard); ok {
		return hashReplica(ctx, rep, res, h.Revision)
	}
	d := r.cfg.Placement.Map().ByID(res.Shard)
	if d == nil {
		return 0, fmt.Errorf("%w: %w of shard %d", ErrStaleView, errNoRoute, res.Shard)
	}
	rep, member, err := r.target(d, 0)
	if err != nil {
		return 0, fmt.Errorf("hash of shard %d: %w", res.Shard, err)
	}
	if rep != nil { // it has just come
		return hashReplica(ctx, rep, res, h.Revision)
	}
	conn, err := r.cfg.Mesh.Conn(member)
	if err != nil {
		return 0, fmt.Errorf("hash of shard %d: %w: %w", res.Shard, errNoRoute, err)
	}
	resp, err := kvdpb.NewShardsClient(conn).Hash(ctx, &kvdpb.HashRequest{
		Shard: res.Shard, Generation: res.Generation, Applied: res.Applied, Revision: h.Revision,
	})
	if status.Code(err) == codes.Aborted {
		err = errors.Join(ErrStaleView, err)
	}
	if err != nil {
		return 0, fmt.Errorf("hash of shard %d at member %016x: %w", res.Shard, member, err)
	}
	return resp.Sum, nil
}

// hashReplica computes the checksum of a copy that has applied what the owner had.
func hashReplica(ctx context.Context, rep Replica, res shard.Resolved, rev int64) (uint32, error) {
	view, err := rep.View(ctx, res.Generation, res.Applied, rev)
	if err != nil {
		return 0, fmt.Errorf("hash of shard %d: %w", res.Shard, err)
	}
	defer view.Close()
	return view.StateHash(ctx, view.Span(), rev)
}
