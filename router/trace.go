package router

import (
	"context"

	"go.opentelemetry.io/otel/attribute"

	"github.com/kvd-io/kvd/internal/tracing"
)

// tryTraced is try for a request whose spans are wanted: one for each try, that
// says where the request went.
func (r *Router) tryTraced(ctx context.Context, f *flight, q *op, shardID uint64, local Replica, member uint64) (res result, err error) {
	at := attribute.Int64("kvd.shard", int64(shardID))
	if local != nil {
		ctx, span := tracing.Start(ctx, "router.local", at)
		res, err = r.tryLocal(ctx, f, q, local)
		tracing.End(span, err)
		return res, err
	}
	ctx, span := tracing.Start(ctx, "router.forward", at, attribute.Int64("kvd.member", int64(member)))
	res, err = r.tryRemote(ctx, f, q, shardID, member)
	tracing.End(span, err)
	return res, err
}
