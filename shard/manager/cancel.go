package manager

import (
	"bytes"
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// split is a call of Split.
type split struct {
	shard uint64
	key   []byte
	// ctx is the call's, until the point of no return also CancelSplits ends it.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// reason is why a split failed with an error: because it was cancelled, if it was.
func (s *split) reason(err error) error {
	if cause := context.Cause(s.ctx); status.Code(cause) == codes.FailedPrecondition {
		return cause
	}
	return err
}

func (m *Manager) beginSplit(ctx context.Context, shard uint64, key []byte) *split {
	s := &split{shard: shard, key: key}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	m.mu.Lock()
	m.mu.splits[s] = true
	m.mu.Unlock()
	return s
}

func (m *Manager) endSplit(s *split) {
	m.mu.Lock()
	delete(m.mu.splits, s)
	m.mu.Unlock()
	s.cancel(nil)
}

// passSplit takes a split past the point from which on it goes forward. It fails if the
// split was cancelled before.
func (m *Manager) passSplit(s *split) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	delete(m.mu.splits, s)
	return nil
}

// CancelSplits ends the splits of a shard that this process has begun, or that wait for
// an earlier one, as long as nothing of them was logged, and returns the encoded
// keys at which the shard is not split any more, in order. What was reserved for them is
// given up as after a crash.
func (m *Manager) CancelSplits(shard uint64) (keys [][]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.mu.splits {
		if s.shard != shard || s.ctx.Err() != nil {
			continue
		}
		s.cancel(status.Errorf(codes.FailedPrecondition, "kvd: the split of shard %d at %s was cancelled", shard, keyspace.Format(s.key)))
		delete(m.mu.splits, s)
		keys = append(keys, s.key)
	}
	slices.SortFunc(keys, bytes.Compare)
	return keys
}
