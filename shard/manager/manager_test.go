package manager

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// fakePlacement shows descriptors and takes down the commands it is given.
type fakePlacement struct {
	shards   []*kvdpb.Descriptor
	commands chan *kvdpb.PlacementCommand
	// corrupt holds shards and members.
	corrupt   map[place]bool
	sequencer uint64
}

func (p *fakePlacement) Shards() []*kvdpb.Descriptor   { return p.shards }
func (p *fakePlacement) Sequencer() uint64             { return p.sequencer }
func (p *fakePlacement) OwnersFollow() bool            { return true }
func (p *fakePlacement) Corrupt(s, m uint64) bool      { return p.corrupt[place{s, m}] }
func (p *fakePlacement) Compacted() int64              { return 0 }
func (p *fakePlacement) Barrier(context.Context) error { return nil }

func (p *fakePlacement) Update(_ context.Context, c *kvdpb.PlacementCommand) (*kvdpb.PlacementResult, error) {
	p.commands <- c
	return &kvdpb.PlacementResult{}, nil
}

// noRaft knows no replica.
type noRaft struct{ Raft }

func (noRaft) StartReplica(multiraft.ReplicaConfig, func() multiraft.StateMachine) error { return nil }
func (noRaft) StopReplica(context.Context, uint64, uint64) error                         { return nil }
func (noRaft) HasReplica(uint64, uint64) bool                                            { return false }

// A look saw a reserved child whose split was not proposed yet. By the time the
// shard was free, the split had been logged: the reservation must stand.
func TestNothingIsDoneOnTheWordOfAnOldLook(t *testing.T) {
	p := &fakePlacement{
		shards:   []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, seeding)},
		commands: make(chan *kvdpb.PlacementCommand, 2),
	}
	m, err := New(Config{Member: 99, Incarnation: 1, Dir: t.TempDir(), Raft: noRaft{}, Placement: p})
	require.NoError(t, err)
	m.begin(action{kind: abort, shard: 2, child: 3})
	m.begin(action{kind: confirm, shard: 3, replica: 1})
	require.NoError(t, m.Close(t.Context()))
	require.Empty(t, p.commands, "neither step is what a new look decides")
}
