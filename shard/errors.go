package shard

import (
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Errors that a Request may end in, beside etcd's own (package rpctypes) and
// context errors. All but AmbiguousError mean that nothing was written: the
// request may be sent again.

// NotOwnerError says that this replica does not own the shard now.
type NotOwnerError struct {
	Shard uint64
	// Owner is the member that owns the shard as far as this replica knows; it
	// may be this member itself, not serving yet. Zero: unknown.
	Owner uint64
	Epoch uint64
}

func (e *NotOwnerError) Error() string {
	if e.Owner == 0 {
		return fmt.Sprintf("shard %d has no owner here (epoch %d)", e.Shard, e.Epoch)
	}
	return fmt.Sprintf("shard %d is owned by member %016x (epoch %d)", e.Shard, e.Owner, e.Epoch)
}

// WrongRangeError says that the request's keys do not all lie in the shard. It
// teaches the route: Descriptors replace cached ones of a lower generation.
type WrongRangeError struct {
	Shard       uint64
	Descriptors []*kvdpb.Descriptor
}

func (e *WrongRangeError) Error() string {
	return fmt.Sprintf("shard %d does not hold all keys of the request", e.Shard)
}

// AmbiguousError says that the fate of a write is not known: it may be applied
// now, later, or never. The server never retries it.
type AmbiguousError struct {
	Shard uint64
	Cause error
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("the outcome of the write in shard %d is unknown: %v", e.Shard, e.Cause)
}

func (e *AmbiguousError) Unwrap() error { return e.Cause }

// ErrSpanMoving says that the keys lie in a span that is between two shards: its
// split has begun and the child does not serve yet. The router waits for a
// newer range map.
var ErrSpanMoving = errors.New("the keys are moving to another shard")

// ErrOldAuth says that users, roles or permissions have changed since the request
// was checked against them: nothing was written or answered. The gateway checks
// again and sends the request anew. It is etcd's error of that meaning.
var ErrOldAuth = rpctypes.ErrGRPCAuthOldRevision

// ErrLatchLost says that a step of a transaction over several shards came without
// the latches that it needs: they were given up, or belonged to an ownership that
// is over. Nothing was written.
var ErrLatchLost = errors.New("the transaction's latches are not held any more")

// errNotAllotted says that a revision to be resolved does not exist yet.
var errNotAllotted = errors.New("the revision has not been allotted yet")

// ErrClosed says that the replica was closed.
var ErrClosed = errors.New("shard replica is closed")

// ErrSplitAborted wraps the reason why a split was given up before it was
// proposed: the shard is as it was.
var ErrSplitAborted = errors.New("split was given up before it was proposed")
