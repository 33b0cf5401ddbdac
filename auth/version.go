package auth

import (
	"context"

	"github.com/kvd-io/kvd/shard"
	"google.golang.org/grpc/status"
)

type versionKey struct{}

// withVersion marks a request as checked under a version.
func withVersion(ctx context.Context, version uint64) context.Context {
	return context.WithValue(ctx, versionKey{}, version)
}

// Exempt marks a request of kvd itself, which needs no permission.
func Exempt(ctx context.Context) context.Context { return withVersion(ctx, shard.AuthExempt) }

// Version is the auth version under which a request was checked, as
// shard.Request.Auth wants it: zero if auth was off.
func Version(ctx context.Context) uint64 {
	v, _ := ctx.Value(versionKey{}).(uint64)
	return v
}

// IsOld tells whether an error says that a request was checked under another
// version than the present one, and was not carried out.
func IsOld(err error) bool {
	if err == nil {
		return false
	}
	st, ok := status.FromError(err)
	return ok && st.Message() == oldText
}

var oldText = status.Convert(shard.ErrOldAuth).Message()
