package shard

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/command"
)

func initCommand() *kvdpb.ShardCommand {
	return &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Init{Init: &kvdpb.ShardInit{Descriptor_: wholeShard()}}}
}

func claimCommand(previous, member uint64) *kvdpb.ShardCommand {
	return &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Claim{
		Claim: &kvdpb.Claim{PreviousEpoch: previous, Member: member, Replica: member, Incarnation: member}}}
}

func servingCommand(epoch uint64) *kvdpb.ShardCommand {
	return &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Serving{Serving: &kvdpb.Serving{Epoch: epoch}}}
}

func splitCommand(epoch, child uint64, key string, end []byte, generation uint64) *kvdpb.ShardCommand {
	return &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Split{Split: &kvdpb.ShardSplit{Epoch: epoch, Generation: generation,
		Child: &kvdpb.Descriptor{Shard: child, Start: keyspace.User([]byte(key)), End: end}}}}
}

// step applies a command if it is accepted.
func step(s *state, c *kvdpb.ShardCommand) Rejection {
	r := s.check(c)
	if r == Accepted {
		s.apply(c)
	}
	return r
}

func serving(t testing.TB) *state {
	s := &state{}
	require.Equal(t, Accepted, step(s, initCommand()))
	require.Equal(t, Accepted, step(s, claimCommand(0, 1)))
	require.Equal(t, Accepted, step(s, servingCommand(1)))
	return s
}

func TestNothingAppliesBeforeInit(t *testing.T) {
	for _, c := range []*kvdpb.ShardCommand{
		claimCommand(0, 1), servingCommand(0), splitCommand(0, 8, "m", keyspace.Max(), 2),
		{Command: &kvdpb.ShardCommand_Release{Release: &kvdpb.Release{}}},
		{Command: &kvdpb.ShardCommand_SplitDone{SplitDone: &kvdpb.ShardSplitDone{}}},
		{Command: &kvdpb.ShardCommand_Compact{Compact: &kvdpb.ShardCompact{Revision: 5}}},
	} {
		require.Equal(t, NotInitialized, (&state{}).check(c), "%v", c)
	}
	require.Equal(t, NotInitialized, (&state{}).checkWrites(&command.Batch{}))
	require.Equal(t, AlreadyInitialized, step(serving(t), initCommand()))
}

func TestSplitMustFit(t *testing.T) {
	s := serving(t)
	inside := keyspace.User([]byte("z"))
	for _, tc := range []struct {
		name string
		c    *kvdpb.ShardCommand
		want Rejection
	}{
		{"another epoch", splitCommand(2, 8, "m", keyspace.Max(), 2), WrongEpoch},
		{"no child", &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Split{Split: &kvdpb.ShardSplit{Epoch: 1, Generation: 2}}}, BadSplit},
		{"itself", splitCommand(1, fakeShard, "m", keyspace.Max(), 2), BadSplit},
		{"not to the end", splitCommand(1, 8, "m", inside, 2), BadSplit},
		{"same generation", splitCommand(1, 8, "m", keyspace.Max(), 1), BadSplit},
		{"from the start", &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Split{Split: &kvdpb.ShardSplit{Epoch: 1, Generation: 2,
			Child: &kvdpb.Descriptor{Shard: 8, Start: keyspace.Min(), End: keyspace.Max()}}}}, BadSplit},
		{"behind the end", &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Split{Split: &kvdpb.ShardSplit{Epoch: 1, Generation: 2,
			Child: &kvdpb.Descriptor{Shard: 8, Start: keyspace.Max(), End: keyspace.Max()}}}}, BadSplit},
	} {
		require.Equal(t, tc.want, s.check(tc.c), tc.name)
	}
	require.Equal(t, Accepted, step(s, splitCommand(1, 8, "m", keyspace.Max(), 2)))
	require.Equal(t, SplitPending, step(s, splitCommand(1, 9, "c", keyspace.User([]byte("m")), 3)))
	require.Equal(t, NoSuchSplit, step(s, &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_SplitDone{
		SplitDone: &kvdpb.ShardSplitDone{Epoch: 1, Child: 9}}}))
	require.Equal(t, Accepted, step(s, &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_SplitDone{
		SplitDone: &kvdpb.ShardSplitDone{Epoch: 1, Child: 8}}}))
	require.Nil(t, s.pending)
}

// A write that touches the right span after the split is rejected on all
// replicas alike, whatever its owner believes.
func TestWriteOutsideSpanIsRejected(t *testing.T) {
	s := serving(t)
	write := func(seq uint64, rev int64, key string) *command.Batch {
		return &command.Batch{Epoch: 1, Seq: seq, Txns: []command.Txn{
			{Revision: rev, Effects: []mvcc.Effect{{Key: keyspace.User([]byte(key)), Version: 1}}}}}
	}
	require.Equal(t, Accepted, s.checkWrites(write(0, 2, "z")))
	s.applyWrites(write(0, 2, "z"))
	require.Equal(t, Accepted, step(s, splitCommand(1, 8, "m", keyspace.Max(), 2)))
	require.Equal(t, int64(2), s.pendingRevision)
	require.Equal(t, OutsideSpan, s.checkWrites(write(1, 3, "m")))
	require.Equal(t, OutsideSpan, s.checkWrites(write(1, 3, "z")))
	require.Equal(t, Accepted, s.checkWrites(write(1, 3, "l")))
	require.Equal(t, RevisionNotIncreasing, s.checkWrites(write(1, 2, "l")))
	require.Equal(t, OutOfSequence, s.checkWrites(write(2, 3, "l")))
	require.Equal(t, WrongEpoch, s.checkWrites(&command.Batch{Epoch: 2}))
}

// What the child's store begins with depends on the Split entry alone: neither
// what the parent did since nor its ownership shows.
func TestSeedIsAFunctionOfTheSplit(t *testing.T) {
	s := serving(t)
	s.lastRevision = 41
	require.Equal(t, Accepted, step(s, splitCommand(1, 8, "m", keyspace.Max(), 2)))
	first, err := s.seed()
	require.NoError(t, err)
	s.lastRevision = 90
	require.Equal(t, Accepted, step(s, claimCommand(1, 2)))
	later, err := s.seed()
	require.NoError(t, err)
	require.Equal(t, first, later)

	var child state
	require.NoError(t, child.load(first[string(stateRecord)], first[string(progressRecord)]))
	require.Equal(t, int64(41), child.lastRevision)
	require.Equal(t, uint64(2), child.desc.Generation)
	require.False(t, child.initialized)
	require.Zero(t, child.ownership)
	require.Equal(t, Accepted, step(&child, &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Init{
		Init: &kvdpb.ShardInit{Descriptor_: child.desc}}}))
	require.Equal(t, Accepted, step(&child, claimCommand(0, 3)))
	require.False(t, child.ownership.MustWait, "only a serving owner may split, and it stopped serving the span before")
}

func FuzzShardCommand(f *testing.F) {
	for _, c := range []*kvdpb.ShardCommand{
		initCommand(), claimCommand(1, 2), servingCommand(1), splitCommand(1, 8, "m", keyspace.Max(), 2),
		{Command: &kvdpb.ShardCommand_SplitDone{SplitDone: &kvdpb.ShardSplitDone{Epoch: 1, Child: 8}}},
		{Command: &kvdpb.ShardCommand_Compact{Compact: &kvdpb.ShardCompact{Revision: -1}}},
	} {
		b, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c kvdpb.ShardCommand
		if proto.Unmarshal(b, &c) != nil {
			return
		}
		s := serving(t)
		step(s, splitCommand(1, 8, "m", keyspace.Max(), 2))
		epoch, last := s.ownership.Epoch, s.lastRevision
		step(s, &c)
		if s.ownership.Epoch < epoch || s.lastRevision < last || s.desc == nil {
			t.Fatalf("state went back: %+v", s)
		}
		record, err := s.record()
		if err != nil {
			t.Fatal(err)
		}
		var again state
		if err := again.load(record, s.appendProgress(nil)); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(again.desc, s.desc) || again.ownership != s.ownership || again.lastRevision != s.lastRevision {
			t.Fatalf("%+v reads back as %+v", s, again)
		}
	})
}

func FuzzStateRecords(f *testing.F) {
	s := serving(f)
	record, err := s.record()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(record, s.appendProgress(nil))
	f.Add([]byte(nil), []byte{progressFormat})
	f.Fuzz(func(t *testing.T, record, progress []byte) {
		var s state
		if s.load(record, progress) != nil {
			return
		}
		s.check(claimCommand(1, 1))
		s.check(splitCommand(1, 8, "m", keyspace.Max(), 2))
	})
}
