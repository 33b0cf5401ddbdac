package manager

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/shard"
)

// A compaction that waits for the collection of history meets a replica that has no store yet, as while a move brings one.
func TestCollectedRevisionWhileAReplicaStarts(t *testing.T) {
	m := &Manager{}
	m.replicas.Store(&map[uint64]*local{2: {Replica: &shard.Replica{}}})
	require.Zero(t, m.CollectedRevision())
}
