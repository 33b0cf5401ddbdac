package shard

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/command"
)

// A survey takes the largest revisions of all that the log holds.
func TestSurveyOfALog(t *testing.T) {
	s := &Survey{Revision: 5, Compacted: 2}
	encoded := func(c *kvdpb.ShardCommand) []byte {
		b, err := proto.Marshal(c)
		require.NoError(t, err)
		return b
	}
	batch := &command.Batch{Epoch: 1, Txns: []command.Txn{
		{Revision: 7, Effects: []mvcc.Effect{{Key: []byte("\x01k"), Value: []byte("v"), Version: 1}}},
		{Revision: 9, Effects: []mvcc.Effect{{Key: []byte("\x01k"), Value: []byte("w"), Version: 2}}},
	}}
	for _, cmd := range [][]byte{
		batch.Encode(),
		encoded(&kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Transactions{Transactions: &kvdpb.ShardTransactions{
			Decisions: []*kvdpb.TxnDecision{{Txn: []byte("t"), Revision: 11}, {Txn: []byte("u")}},
		}}}),
		encoded(&kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Compact{Compact: &kvdpb.ShardCompact{Revision: 6}}}),
		encoded(&kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Split{Split: &kvdpb.ShardSplit{Child: &kvdpb.Descriptor{Shard: 8}}}}),
	} {
		require.NoError(t, s.Add(cmd))
	}
	require.EqualValues(t, 11, s.Revision)
	require.EqualValues(t, 6, s.Compacted)
	require.Equal(t, []uint64{8}, s.Children)
	require.False(t, s.Surrendered)
	require.NoError(t, s.Add(encoded(&kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_AbsorbChunk{AbsorbChunk: &kvdpb.ShardAbsorbChunk{
		Versions: []*kvdpb.AbsorbedVersion{{Key: []byte("\x01k"), Revision: 12}}, Seal: &kvdpb.AbsorbSeal{Revision: 13, CompactRevision: 7},
	}}})))
	require.NoError(t, s.Add(encoded(&kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Surrender{Surrender: &kvdpb.ShardSurrender{Epoch: 2, Attempt: 1}}})))
	require.EqualValues(t, 13, s.Revision)
	require.EqualValues(t, 7, s.Compacted)
	require.True(t, s.Surrendered)
	require.Error(t, s.Add([]byte{command.Version1}))
	require.Error(t, s.Add([]byte{0xff}))
}
