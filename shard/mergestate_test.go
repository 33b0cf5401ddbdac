package shard

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/command"
)

func beginCommand(attempt, generation uint64, right *kvdpb.Descriptor) *kvdpb.ShardCommand {
	return &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_AbsorbBegin{AbsorbBegin: &kvdpb.ShardAbsorbBegin{
		Attempt: attempt, Right: right.Shard, Start: right.Start, End: right.End, Generation: generation}}}
}

func chunkCommand(attempt, number, index uint64, seal *kvdpb.AbsorbSeal, versions ...*kvdpb.AbsorbedVersion) *kvdpb.ShardCommand {
	return &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_AbsorbChunk{AbsorbChunk: &kvdpb.ShardAbsorbChunk{
		Attempt: attempt, Copy: number, Index: index, Seal: seal, Versions: versions}}}
}

func absorbCommand(epoch, seq, attempt uint64) *kvdpb.ShardCommand {
	return &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Absorb{Absorb: &kvdpb.ShardAbsorb{Epoch: epoch, Seq: seq, Attempt: attempt}}}
}

func discardCommand(attempt uint64) *kvdpb.ShardCommand {
	return &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_AbsorbDiscard{AbsorbDiscard: &kvdpb.ShardAbsorbDiscard{Attempt: attempt}}}
}

func freezeCommand(epoch, attempt uint64, d *kvdpb.Descriptor) *kvdpb.ShardCommand {
	return &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Freeze{Freeze: &kvdpb.ShardFreeze{
		Epoch: epoch, Attempt: attempt, Left: fakeShard, Start: d.Start, End: d.End}}}
}

func unfreezeCommand(attempt uint64) *kvdpb.ShardCommand {
	return &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Unfreeze{Unfreeze: &kvdpb.ShardUnfreeze{Attempt: attempt}}}
}

func surrenderCommand(epoch, attempt uint64) *kvdpb.ShardCommand {
	return &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Surrender{Surrender: &kvdpb.ShardSurrender{Epoch: epoch, Attempt: attempt}}}
}

// owned is the state of a shard whose first epoch serves.
func owned(t require.TestingT, d *kvdpb.Descriptor) *state {
	s := &state{txns: txnTable{prepared: map[string]*kvdpb.Prepared{}, records: map[string]*kvdpb.TxnRecord{}}}
	require.Equal(t, Accepted, step(s, &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Init{Init: &kvdpb.ShardInit{Descriptor_: d}}}))
	require.Equal(t, Accepted, step(s, claimCommand(0, 1)))
	require.Equal(t, Accepted, step(s, servingCommand(1)))
	return s
}

func TestFrozenShardChangesNothing(t *testing.T) {
	d := rightShard()
	s := owned(t, d)
	require.Equal(t, WrongEpoch, step(s, freezeCommand(2, 1, d)))
	require.Equal(t, BadMerge, step(s, freezeCommand(1, 1, leftShard())))
	s.txns.records["t"] = &kvdpb.TxnRecord{}
	require.Equal(t, Unsettled, step(s, freezeCommand(1, 1, d)))
	delete(s.txns.records, "t")
	s.txns.prepared["t"] = &kvdpb.Prepared{}
	require.Equal(t, Unsettled, step(s, freezeCommand(1, 1, d)))
	delete(s.txns.prepared, "t")
	require.Equal(t, Accepted, step(s, freezeCommand(1, 1, d)))
	require.Equal(t, MergePending, step(s, freezeCommand(1, 2, d)))
	require.Equal(t, Frozen, s.checkWrites(&command.Batch{Epoch: 1, Txns: []command.Txn{
		{Revision: 9, Effects: []mvcc.Effect{{Key: keyspace.User([]byte("z")), Version: 1}}}}}))
	for _, c := range []*kvdpb.ShardCommand{
		splitCommand(1, 9, "t", keyspace.Max(), 2),
		{Command: &kvdpb.ShardCommand_Compact{Compact: &kvdpb.ShardCompact{Revision: 5}}},
		{Command: &kvdpb.ShardCommand_Transactions{Transactions: &kvdpb.ShardTransactions{Epoch: 1}}},
		{Command: &kvdpb.ShardCommand_Leases{Leases: &kvdpb.ShardLeases{Epoch: 1}}},
	} {
		require.Equal(t, Frozen, step(s, c), "%v", c)
	}
	require.Equal(t, MergePending, step(s, beginCommand(2, 3, &kvdpb.Descriptor{Shard: 9, Start: d.End, End: append(d.End, 1)})))
	// Ownership goes on.
	require.Equal(t, Accepted, step(s, claimCommand(1, 2)))
	require.Equal(t, NotServing, step(s, surrenderCommand(2, 1)))
	require.Equal(t, Accepted, step(s, servingCommand(2)))
	require.Equal(t, NoSuchMerge, step(s, surrenderCommand(2, 2)))
	require.Equal(t, Accepted, step(s, surrenderCommand(2, 1)))
	require.Equal(t, Surrendered, step(s, surrenderCommand(2, 1)))
	require.Equal(t, Surrendered, step(s, unfreezeCommand(1)))
	require.Equal(t, Surrendered, step(s, unfreezeCommand(7)))
	require.NotEqual(t, s.frozen.Epoch, s.frozen.SurrenderedIn)
}

func TestCopiesAreTakenInOrder(t *testing.T) {
	right := rightShard()
	s := owned(t, leftShard())
	for name, bad := range map[string]*kvdpb.Descriptor{
		"itself":       {Shard: fakeShard, Start: right.Start, End: right.End},
		"no neighbour": {Shard: 8, Start: keyspace.User([]byte("n")), End: right.End},
		"empty":        {Shard: 8, Start: right.Start, End: right.Start},
		"beyond":       {Shard: 8, Start: right.Start, End: []byte{9}},
		"nobody":       {Start: right.Start, End: right.End},
	} {
		require.Equal(t, BadMerge, step(s, beginCommand(1, 2, bad)), name)
	}
	require.Equal(t, BadMerge, step(s, beginCommand(1, 1, right)), "generations rise")
	require.Equal(t, NoSuchMerge, step(s, chunkCommand(1, 1, 0, nil)))
	require.Equal(t, Accepted, step(s, beginCommand(1, 2, right)))
	require.Equal(t, MergePending, step(s, beginCommand(1, 2, right)))
	require.Equal(t, MergePending, step(s, splitCommand(1, 9, "c", right.Start, 2)))
	require.Equal(t, NoSuchMerge, step(s, absorbCommand(1, 0, 1)), "not sealed")

	v := func(key string, rev int64) *kvdpb.AbsorbedVersion {
		return &kvdpb.AbsorbedVersion{Key: keyspace.User([]byte(key)), Revision: rev, Create: rev, Version: 1}
	}
	require.Equal(t, OutOfSequence, step(s, chunkCommand(1, 2, 0, nil)))
	require.Equal(t, OutOfSequence, step(s, chunkCommand(1, 1, 1, nil)))
	require.Equal(t, BadMerge, step(s, chunkCommand(1, 1, 0, nil, v("a", 3))))
	require.Equal(t, BadMerge, step(s, chunkCommand(1, 1, 0, nil, &kvdpb.AbsorbedVersion{Key: right.Start, Revision: 3})))
	require.Equal(t, Accepted, step(s, chunkCommand(1, 1, 0, nil, v("n", 30))))
	require.Equal(t, OutOfSequence, step(s, chunkCommand(1, 1, 0, nil, v("n", 30))), "once only")
	require.Equal(t, Accepted, step(s, chunkCommand(1, 1, 1, nil, v("o", 4))))
	require.Equal(t, BadMerge, step(s, chunkCommand(1, 1, 2, &kvdpb.AbsorbSeal{Revision: 29})), "a seal covers every chunk")
	require.Equal(t, Accepted, step(s, chunkCommand(1, 2, 0, nil, v("n", 3))), "another copy begins again")
	require.Equal(t, OutOfSequence, step(s, chunkCommand(1, 1, 2, &kvdpb.AbsorbSeal{Revision: 30})), "and ends the one before")
	require.Equal(t, Accepted, step(s, chunkCommand(1, 2, 1, &kvdpb.AbsorbSeal{Revision: 5})))
	require.Equal(t, MergePending, step(s, chunkCommand(1, 3, 0, nil)), "what is sealed stays")
	require.Equal(t, MergePending, step(s, chunkCommand(1, 2, 2, nil)))

	s.txns.prepared["t"] = &kvdpb.Prepared{}
	require.Equal(t, Unsettled, step(s, absorbCommand(1, 0, 1)))
	delete(s.txns.prepared, "t")
	require.Equal(t, OutOfSequence, step(s, absorbCommand(1, 1, 1)))
	require.Equal(t, WrongEpoch, step(s, absorbCommand(2, 0, 1)))
	s.lastRevision = 3
	require.Equal(t, Accepted, step(s, absorbCommand(1, 0, 1)))
	require.Equal(t, int64(5), s.lastRevision)
	require.Equal(t, uint64(2), s.desc.Generation)
	require.Equal(t, keyspace.All(), s.span)
	require.Equal(t, OutOfSequence, step(s, absorbCommand(1, 0, 1)))
	require.Equal(t, MergeOver, step(s, discardCommand(1)))
	require.Equal(t, MergeOver, step(s, beginCommand(1, 3, right)))

	// The state survives being written down.
	record, err := s.record()
	require.NoError(t, err)
	var back state
	require.NoError(t, back.load(record, s.appendProgress(nil)))
	require.Equal(t, s.mergeFloor, back.mergeFloor)
	require.True(t, proto.Equal(s.desc, back.desc))
}

// mergeGame plays merges of two shards whose owners change at any time, see each other
// through replicas that lag, and whose commands arrive late, twice, or never. What is
// in a shard is the set of the writes that it accepted.
type mergeGame struct {
	t           *rapid.T
	left, right *state
	// seenLeft and seenRight are what owners see of the other shard.
	seenLeft, seenRight state
	sentLeft, sentRight []*kvdpb.ShardCommand
	writes              int
	// wrote are the writes that the right shard accepted, copied those of the copy that
	// the left one has, absorbed those that it made its own.
	wrote, copied, absorbed map[string]bool
	// atFreeze is what the right shard held when it froze, by attempt.
	atFreeze map[uint64]map[string]bool
	// stopped are the epochs of the right shard whose owner has stopped serving.
	stopped map[uint64]bool
	// placement
	attempt     uint64
	phase       kvdpb.Merge_Phase
	merging     bool
	surrendered bool
	unfrozen    map[uint64]bool
}

func (g *mergeGame) deliver(left bool, c *kvdpb.ShardCommand) {
	s, other := g.left, g.right
	if !left {
		s, other = g.right, g.left
	}
	r := s.check(c)
	if r != Accepted {
		return
	}
	before := *s
	s.apply(c)
	switch k := c.GetCommand().(type) {
	case *kvdpb.ShardCommand_Freeze:
		g.atFreeze[k.Freeze.Attempt] = map[string]bool{}
		for w := range g.wrote {
			g.atFreeze[k.Freeze.Attempt][w] = true
		}
	case *kvdpb.ShardCommand_Unfreeze:
		require.False(g.t, g.surrendered, "unfrozen after it surrendered")
		g.unfrozen[k.Unfreeze.Attempt] = true
	case *kvdpb.ShardCommand_Surrender:
		require.False(g.t, g.unfrozen[k.Surrender.Attempt], "surrendered after it was unfrozen")
		require.NotNil(g.t, other.absorbing, "surrendered without a copy")
		require.NotNil(g.t, other.absorbing.Seal)
		require.Equal(g.t, k.Surrender.Attempt, other.absorbing.Begin.Attempt)
		require.Equal(g.t, g.wrote, g.copied, "surrendered with a copy that lacks something")
		g.surrendered = true
	case *kvdpb.ShardCommand_AbsorbDiscard:
		require.False(g.t, g.surrendered, "the only copy was discarded")
	case *kvdpb.ShardCommand_AbsorbChunk:
		// It was sent by who saw the shard frozen.
		g.copied = nil
		if k.AbsorbChunk.Seal != nil {
			g.copied = g.atFreeze[k.AbsorbChunk.Attempt]
		}
	case *kvdpb.ShardCommand_Absorb:
		require.True(g.t, g.surrendered, "absorbed what is another's")
		require.Equal(g.t, g.wrote, g.copied)
		require.Equal(g.t, before.absorbing.Begin.Attempt, other.frozen.Attempt)
		g.absorbed = g.copied
	}
}

// send proposes a command: now, later, or both.
func (g *mergeGame) send(left bool, c *kvdpb.ShardCommand) {
	if left {
		g.sentLeft = append(g.sentLeft, c)
	} else {
		g.sentRight = append(g.sentRight, c)
	}
	if rapid.IntRange(0, 3).Draw(g.t, "lost") > 0 {
		g.deliver(left, c)
	}
}

func TestMergeGame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &mergeGame{t: t, left: owned(t, leftShard()), right: owned(t, rightShard()),
			wrote: map[string]bool{}, atFreeze: map[uint64]map[string]bool{}, stopped: map[uint64]bool{}, unfrozen: map[uint64]bool{}}
		look := func() { g.seenLeft, g.seenRight = *g.left, *g.right }
		look()
		right := rightShard()
		serving := func(s *state) bool { return s.ownership.Serving && !s.ownership.Released }
		t.Repeat(map[string]func(*rapid.T){
			"look": func(t *rapid.T) { g.t = t; look() },
			"write": func(t *rapid.T) {
				g.t = t
				epoch := g.right.ownership.Epoch
				if g.right.frozen != nil || g.stopped[epoch] || !serving(g.right) {
					return
				}
				g.writes++
				b := &command.Batch{Epoch: epoch, Seq: g.right.ownership.NextSeq, Txns: []command.Txn{{Revision: g.right.lastRevision + 1}}}
				require.Equal(t, Accepted, g.right.checkWrites(b))
				require.Nil(t, g.absorbed, "written in a shard whose keys are another's")
				g.right.applyWrites(b)
				g.wrote[fmt.Sprint(g.writes)] = true
			},
			"claim": func(t *rapid.T) {
				g.t = t
				s := rapid.SampledFrom([]*state{g.left, g.right}).Draw(t, "shard")
				require.Equal(t, Accepted, step(s, claimCommand(s.ownership.Epoch, uint64(rapid.IntRange(1, 2).Draw(t, "member")))))
				if rapid.Bool().Draw(t, "serves") {
					require.Equal(t, Accepted, step(s, servingCommand(s.ownership.Epoch)))
				}
			},
			"serve": func(t *rapid.T) {
				g.t = t
				for _, s := range []*state{g.left, g.right} {
					require.Equal(t, Accepted, step(s, servingCommand(s.ownership.Epoch)))
				}
			},
			"begin": func(t *rapid.T) {
				g.t = t
				if !g.merging && !g.surrendered {
					g.attempt++
					g.merging, g.phase = true, kvdpb.Merge_COPYING
				}
			},
			"abort": func(t *rapid.T) {
				g.t = t
				if g.merging && g.phase == kvdpb.Merge_COPYING && rapid.IntRange(0, 3).Draw(t, "abort") == 0 {
					g.phase = kvdpb.Merge_ABORTING
				}
			},
			"late": func(t *rapid.T) {
				g.t = t
				left := rapid.Bool().Draw(t, "left")
				sent := g.sentLeft
				if !left {
					sent = g.sentRight
				}
				if len(sent) > 0 {
					g.deliver(left, sent[rapid.IntRange(0, len(sent)-1).Draw(t, "which")])
				}
			},
			"left": func(t *rapid.T) {
				g.t = t
				s, a := g.left, g.attempt
				absorbing := s.absorbing.GetBegin().GetAttempt()
				if !serving(s) || !g.merging {
					return
				}
				switch {
				case g.phase == kvdpb.Merge_COPYING && s.absorbing == nil && s.mergeFloor < a:
					g.send(true, beginCommand(a, 2, right))
				case g.phase == kvdpb.Merge_COPYING && absorbing == a && s.absorbing.Seal == nil && g.seenRight.frozen.GetAttempt() == a:
					// Each chunk is sent by an owner that saw the shard frozen, and that may be
					// none any more when the chunk arrives.
					number, index := s.absorbing.Copy, s.absorbing.Next
					if number == 0 || rapid.IntRange(0, 3).Draw(t, "again") == 0 {
						number, index = number+1, 0
					}
					var seal *kvdpb.AbsorbSeal
					if rapid.Bool().Draw(t, "seal") {
						seal = &kvdpb.AbsorbSeal{Revision: g.right.lastRevision}
					}
					g.send(true, chunkCommand(a, number, index, seal))
				case g.phase == kvdpb.Merge_ABORTING && g.seenRight.mergeFloor >= a && s.mergeFloor < a:
					g.send(true, discardCommand(a))
				case g.phase == kvdpb.Merge_SURRENDERED && absorbing == a && s.absorbing.Seal != nil:
					g.send(true, absorbCommand(s.ownership.Epoch, s.ownership.NextSeq, a))
				}
			},
			"right": func(t *rapid.T) {
				g.t = t
				s, a := g.right, g.attempt
				if !serving(s) || !g.merging {
					return
				}
				seen := g.seenLeft.absorbing
				switch {
				case g.phase == kvdpb.Merge_COPYING && s.frozen == nil && s.mergeFloor < a && seen.GetBegin().GetAttempt() == a:
					g.stopped[s.ownership.Epoch] = true
					g.send(false, freezeCommand(s.ownership.Epoch, a, right))
				case g.phase == kvdpb.Merge_COPYING && s.frozen.GetAttempt() == a && seen.GetBegin().GetAttempt() == a && seen.Seal != nil:
					g.send(false, surrenderCommand(s.ownership.Epoch, a))
				case g.phase == kvdpb.Merge_ABORTING && s.mergeFloor < a:
					g.send(false, unfreezeCommand(a))
				}
			},
			"placement": func(t *rapid.T) {
				g.t = t
				a := g.attempt
				switch {
				case !g.merging:
				case g.seenRight.frozen.GetAttempt() == a && g.seenRight.frozen.GetSurrenderedIn() != 0:
					g.phase = kvdpb.Merge_SURRENDERED
				case g.phase == kvdpb.Merge_ABORTING && g.seenLeft.mergeFloor >= a && g.seenRight.mergeFloor >= a:
					g.merging = false
				}
			},
		})
	})
}
