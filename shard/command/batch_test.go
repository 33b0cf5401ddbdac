package command

import (
	"bytes"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

func sample() *Batch {
	return &Batch{Epoch: 7, Seq: 3, Txns: []Txn{
		{Revision: 100, Effects: []mvcc.Effect{
			{Key: []byte("\x01a"), Value: []byte("v"), Version: 1},
			{Key: []byte("\x01b"), Value: []byte{}, Create: 12, Version: 5, Lease: math.MinInt64},
		}},
		{Revision: 101, Effects: []mvcc.Effect{{Key: []byte("\x01c"), Tombstone: true}}},
		{Revision: math.MaxInt64},
	}}
}

func TestBatchSurvivesEncoding(t *testing.T) {
	b := sample()
	cmd := b.Encode()
	require.True(t, IsBatch(cmd))
	var got Batch
	require.NoError(t, got.Decode(cmd))
	require.Equal(t, b.Epoch, got.Epoch)
	require.Equal(t, b.Seq, got.Seq)
	require.Len(t, got.Txns, 3)
	require.Equal(t, b.Txns[0], got.Txns[0])
	require.Equal(t, b.Txns[1].Effects, got.Txns[1].Effects)
	require.Equal(t, int64(math.MaxInt64), got.Txns[2].Revision)
	require.Empty(t, got.Txns[2].Effects)
}

func TestCommitSurvivesEncoding(t *testing.T) {
	b := sample()
	b.Txns[1].Record, b.Txns[1].Subs = []byte("record"), []int64{7}
	b.Txns[2].Record = []byte("no effects")
	cmd := b.Encode()
	require.True(t, IsBatch(cmd))
	var got Batch
	require.NoError(t, got.Decode(cmd))
	require.Len(t, got.Txns, 3)
	require.Nil(t, got.Txns[0].Record)
	require.Equal(t, b.Txns[0].Effects, got.Txns[0].Effects)
	require.Equal(t, int64(1), got.Txns[0].Sub(1))
	require.Equal(t, b.Txns[1], got.Txns[1])
	require.Equal(t, int64(7), got.Txns[1].Sub(0))
	require.Equal(t, []byte("no effects"), got.Txns[2].Record)
	for n := range cmd {
		require.ErrorIs(t, got.Decode(cmd[:n]), ErrMalformed, "cut at %d", n)
	}
}

func TestBatchIsNoShardCommand(t *testing.T) {
	for _, c := range []*kvdpb.ShardCommand{
		{},
		{Command: &kvdpb.ShardCommand_Init{Init: &kvdpb.ShardInit{}}},
		{Command: &kvdpb.ShardCommand_Compact{Compact: &kvdpb.ShardCompact{Revision: 1}}},
	} {
		b, err := proto.Marshal(c)
		require.NoError(t, err)
		require.False(t, IsBatch(b))
	}
	require.Error(t, proto.Unmarshal(sample().Encode(), &kvdpb.ShardCommand{}))
}

func TestDecodeRefuses(t *testing.T) {
	good := sample().Encode()
	var b Batch
	for n := range good {
		require.ErrorIs(t, b.Decode(good[:n]), ErrMalformed, "cut at %d", n)
	}
	require.ErrorIs(t, b.Decode(append(bytes.Clone(good), 0)), ErrMalformed, "bytes left over")
	for name, cmd := range map[string][]byte{
		"version":            {3, 0, 0, 0},
		"revision repeated":  {1, 1, 1, 2, 5, 0, 0, 0},
		"revision overflow":  append([]byte{1, 1, 1, 2, 5, 0}, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0),
		"too many txns":      {1, 1, 1, 100, 5, 0},
		"too many effects":   {1, 1, 1, 1, 5, 100, 0, 1, 1},
		"empty key":          {1, 1, 1, 1, 5, 1, flagTombstone, 0, 0},
		"unknown flag":       {1, 1, 1, 1, 5, 1, 0x80, 1, 1},
		"tombstone of lease": {1, 1, 1, 1, 5, 1, flagTombstone | flagLease, 1, 1},
		"long key":           {1, 1, 1, 1, 5, 1, flagTombstone, 9, 1},
	} {
		require.ErrorIs(t, b.Decode(cmd), ErrMalformed, name)
	}
}

// Decoding into a used batch gives what decoding into a fresh one gives.
func TestDecodeUsesSlicesAgain(t *testing.T) {
	effect := rapid.Custom(func(t *rapid.T) mvcc.Effect {
		key := append([]byte{1}, rapid.SliceOf(rapid.Byte()).Draw(t, "key")...)
		if rapid.Bool().Draw(t, "tombstone") {
			return mvcc.Effect{Key: key, Tombstone: true}
		}
		return mvcc.Effect{
			Key: key, Value: append([]byte{}, rapid.SliceOf(rapid.Byte()).Draw(t, "value")...),
			Create:  rapid.Int64Range(0, math.MaxInt64).Draw(t, "create"),
			Version: rapid.Int64Range(1, 9).Draw(t, "version"),
			Lease:   rapid.Int64().Draw(t, "lease"),
		}
	})
	var used Batch
	rapid.Check(t, func(t *rapid.T) {
		b := &Batch{Epoch: rapid.Uint64().Draw(t, "epoch"), Seq: rapid.Uint64().Draw(t, "seq")}
		rev := int64(0)
		for range rapid.IntRange(0, 5).Draw(t, "txns") {
			rev += rapid.Int64Range(1, math.MaxInt32).Draw(t, "step")
			b.Txns = append(b.Txns, Txn{Revision: rev, Effects: rapid.SliceOfN(effect, 0, 5).Draw(t, "effects")})
		}
		require.NoError(t, used.Decode(b.Encode()))
		require.Equal(t, b.Epoch, used.Epoch)
		require.Equal(t, b.Seq, used.Seq)
		require.Len(t, used.Txns, len(b.Txns))
		for i := range b.Txns {
			require.Equal(t, b.Txns[i].Revision, used.Txns[i].Revision)
			require.Len(t, used.Txns[i].Effects, len(b.Txns[i].Effects))
			for j := range b.Txns[i].Effects {
				require.Equal(t, b.Txns[i].Effects[j], used.Txns[i].Effects[j])
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(sample().Encode())
	f.Add([]byte{1, 1, 1, 1, 5, 1, flagTombstone, 1, 1})
	commit := sample()
	commit.Txns[1].Record, commit.Txns[1].Subs = []byte("record"), []int64{7}
	f.Add(commit.Encode())
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, cmd []byte) {
		var b, again Batch
		if b.Decode(cmd) != nil {
			return
		}
		last := int64(0)
		for _, txn := range b.Txns {
			if txn.Revision <= last {
				t.Fatalf("revision %d after %d", txn.Revision, last)
			}
			last = txn.Revision
			for _, e := range txn.Effects {
				if len(e.Key) == 0 {
					t.Fatal("empty key")
				}
			}
		}
		canonical := b.Encode()
		if err := again.Decode(canonical); err != nil {
			t.Fatalf("encoding of what was decoded: %v", err)
		}
		if !bytes.Equal(canonical, again.Encode()) {
			t.Fatal("encoding is not stable")
		}
	})
}
