package mvcc

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

var (
	// ErrCompacted tells that the revision asked for lies below the compaction
	// revision. Errors of this kind are *CompactedError.
	ErrCompacted = errors.New("mvcc: required revision has been compacted")
	// ErrFutureRevision tells that the revision asked for has not been reached.
	// The store never returns it, because a store that is behind the cluster's
	// revision is still exact at it; it is here for the callers that know the
	// current revision.
	ErrFutureRevision = errors.New("mvcc: required revision is a future revision")
	// ErrClosed tells that the store was closed before or during the call.
	ErrClosed = errors.New("mvcc: store is closed")
	// ErrCorrupt tells that bytes on disk, or of a snapshot stream, are not what
	// this package wrote. A caller that reads it from its own disk must stop
	// the member.
	ErrCorrupt = errors.New("mvcc: corrupt data")
	// ErrStopped tells that the caller's stop channel ended the operation.
	ErrStopped = errors.New("mvcc: stopped")
)

// CompactedError is an ErrCompacted that names the compaction revision.
type CompactedError struct {
	// CompactRevision is the lowest revision that can still be read.
	CompactRevision int64
}

// Error implements error.
func (e *CompactedError) Error() string {
	return fmt.Sprintf("%v (compacted up to %d)", ErrCompacted, e.CompactRevision)
}

// Is makes errors.Is(err, ErrCompacted) hold.
func (e *CompactedError) Is(target error) bool { return target == ErrCompacted }

// diskError wraps an error of the storage layer with what was being done, and
// marks corruption as such.
func diskError(doing string, err error) error {
	if err == nil {
		return nil
	}
	if pebble.IsCorruptionError(err) && !errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("mvcc: %s: %w: %w", doing, ErrCorrupt, err)
	}
	return fmt.Errorf("mvcc: %s: %w", doing, err)
}

func corruptf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}
