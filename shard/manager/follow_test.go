package manager

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// A compaction that waits for the collection of history meets a replica that has no store yet, as while a move brings one.
func TestCollectedRevisionWhileAReplicaStarts(t *testing.T) {
	m := &Manager{}
	m.replicas.Store(&map[uint64]*local{2: {Replica: &shard.Replica{}}})
	require.Zero(t, m.CollectedRevision())
}

// TestCorruptReplicasOwnNothing, if there is a sound one that can, whatever is preferred.
func TestCorruptReplicasOwnNothing(t *testing.T) {
	p := &fakePlacement{sequencer: 10, corrupt: map[place]bool{}}
	dead := map[uint64]bool{}
	m := &Manager{cfg: Config{Member: 10, Placement: p, Alive: func(member uint64) bool { return !dead[member] }}}
	d := &kvdpb.Descriptor{Shard: 2, Replicas: replicas(10, 20, 30), PreferredOwner: 10}
	home := func() uint64 {
		member, _ := m.home(d)
		return member
	}
	require.EqualValues(t, 10, home())
	p.corrupt[place{2, 10}] = true
	require.EqualValues(t, 20, home())
	dead[20] = true
	require.EqualValues(t, 30, home())
	p.sequencer = 20
	require.EqualValues(t, 30, home(), "the sequencer's member cannot be reached")
	dead[20] = false
	require.EqualValues(t, 20, home())
	p.corrupt[place{2, 20}], p.corrupt[place{2, 30}] = true, true
	require.Zero(t, home(), "it stays where it is")
	delete(p.corrupt, place{2, 10})
	require.EqualValues(t, 10, home())
	m.cfg.Member, p.sequencer, d.PreferredOwner = 30, 10, 20
	require.EqualValues(t, 10, home())
}
