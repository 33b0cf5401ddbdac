package manager

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestSplitsAreCancelled until they pass the point from which on they go forward, those of one shard alone.
func TestSplitsAreCancelled(t *testing.T) {
	m, err := New(Config{Member: 99, Incarnation: 1, Dir: t.TempDir(), Raft: noRaft{}, Placement: &fakePlacement{}})
	require.NoError(t, err)
	passed := m.beginSplit(t.Context(), 2, []byte("a"))
	waiting := m.beginSplit(t.Context(), 2, []byte("b"))
	elsewhere := m.beginSplit(t.Context(), 3, []byte("c"))
	require.NoError(t, m.passSplit(passed))
	require.Equal(t, [][]byte{[]byte("b")}, m.CancelSplits(2))
	require.Empty(t, m.CancelSplits(2))
	require.NoError(t, passed.ctx.Err())
	require.NoError(t, elsewhere.ctx.Err())

	failure := errors.New("context canceled")
	require.ErrorContains(t, m.passSplit(waiting), "was cancelled")
	require.Equal(t, codes.FailedPrecondition, status.Code(waiting.reason(failure)))
	require.Equal(t, failure, elsewhere.reason(failure))
	for _, s := range []*split{passed, waiting, elsewhere} {
		m.endSplit(s)
	}
	require.Empty(t, m.CancelSplits(3))
	require.Equal(t, failure, elsewhere.reason(failure))
	require.NoError(t, m.Close(t.Context()))
}
