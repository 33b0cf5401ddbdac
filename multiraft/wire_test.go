package multiraft

import (
	"errors"
	"testing"

	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/multiraft/peer"
)

func goodBatch() raftpb.MessageBatch {
	change := raftpb.ConfigChange{Type: raftpb.AddNode, ReplicaID: 4, Address: address(4)}
	return raftpb.MessageBatch{DeploymentId: testClusterID, BinVer: raftio.TransportBinVersion, SourceAddress: "liar", Requests: []raftpb.Message{
		{Type: raftpb.Replicate, ShardID: 1, From: 2, To: 1, Term: 3, LogIndex: 7, LogTerm: 2, Commit: 7, Entries: []raftpb.Entry{
			{Term: 3, Index: 8},
			{Term: 3, Index: 9, Type: raftpb.EncodedEntry, Key: 1, Cmd: []byte{0, 'x'}},
			{Term: 3, Index: 10, Type: raftpb.ConfigChangeEntry, Key: 2, Cmd: raftpb.MustMarshal(&change)},
		}},
		{Type: raftpb.RequestPreVote, ShardID: 1, From: 2, To: 1, Term: 4, LogIndex: 7, LogTerm: 2},
		{Type: raftpb.HeartbeatResp, ShardID: 1, From: 2, To: 1, Term: 3},
	}}
}

func TestGoodMessagesPass(t *testing.T) {
	b := goodBatch()
	frame, err := b.Marshal()
	require.NoError(t, err)
	got, err := decodeBatch(frame, testClusterID, true)
	require.NoError(t, err)
	require.Len(t, got.Requests, 3)
	require.Equal(t, b.Requests[0].Entries[1].Cmd, got.Requests[0].Entries[1].Cmd)
	// The frame is reused.
	clear(frame)
	require.Equal(t, byte('x'), got.Requests[0].Entries[1].Cmd[1])
	frame, err = b.Marshal()
	require.NoError(t, err)
	got, err = decodeBatch(frame, testClusterID, false)
	require.NoError(t, err)
	require.Len(t, got.Requests, 2)
}

func TestBadMessagesAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*raftpb.MessageBatch){
		"deployment":     func(b *raftpb.MessageBatch) { b.DeploymentId++ },
		"version":        func(b *raftpb.MessageBatch) { b.BinVer++ },
		"no receiver":    func(b *raftpb.MessageBatch) { b.Requests[0].To = 0 },
		"no sender":      func(b *raftpb.MessageBatch) { b.Requests[1].From = 0 },
		"no shard":       func(b *raftpb.MessageBatch) { b.Requests[1].ShardID = 0 },
		"local type":     func(b *raftpb.MessageBatch) { b.Requests[2].Type = raftpb.LocalTick },
		"election":       func(b *raftpb.MessageBatch) { b.Requests[2].Type = raftpb.Election },
		"status":         func(b *raftpb.MessageBatch) { b.Requests[2].Type = raftpb.SnapshotStatus },
		"unknown type":   func(b *raftpb.MessageBatch) { b.Requests[2].Type = 1000 },
		"negative type":  func(b *raftpb.MessageBatch) { b.Requests[2].Type = -1 },
		"log query":      func(b *raftpb.MessageBatch) { b.Requests[2].Type = raftpb.LogQuery },
		"snapshot":       func(b *raftpb.MessageBatch) { b.Requests[2].Type = raftpb.InstallSnapshot },
		"with snapshot":  func(b *raftpb.MessageBatch) { b.Requests[0].Snapshot.Index = 7 },
		"vote, entries":  func(b *raftpb.MessageBatch) { b.Requests[1].Entries = b.Requests[0].Entries },
		"no term":        func(b *raftpb.MessageBatch) { b.Requests[0].Term = 0 },
		"gap":            func(b *raftpb.MessageBatch) { b.Requests[0].Entries[1].Index++ },
		"future entry":   func(b *raftpb.MessageBatch) { b.Requests[0].Entries[1].Term = 9 },
		"compressed":     func(b *raftpb.MessageBatch) { b.Requests[0].Entries[1].Cmd[0] = 2 },
		"empty command":  func(b *raftpb.MessageBatch) { b.Requests[0].Entries[1].Cmd = nil },
		"session":        func(b *raftpb.MessageBatch) { b.Requests[0].Entries[1].SeriesID = 5 },
		"no key":         func(b *raftpb.MessageBatch) { b.Requests[0].Entries[1].Key = 0 },
		"plain command":  func(b *raftpb.MessageBatch) { b.Requests[0].Entries[0].Cmd = []byte("x") },
		"metadata entry": func(b *raftpb.MessageBatch) { b.Requests[0].Entries[0].Type = raftpb.MetadataEntry },
		"change":         func(b *raftpb.MessageBatch) { b.Requests[0].Entries[2].Cmd = []byte{1, 2, 3} },
		"bad address": func(b *raftpb.MessageBatch) {
			b.Requests[0].Entries[2].Cmd = raftpb.MustMarshal(&raftpb.ConfigChange{ReplicaID: 4, Address: "member-4"})
		},
		"witness": func(b *raftpb.MessageBatch) {
			b.Requests[0].Entries[2].Cmd = raftpb.MustMarshal(&raftpb.ConfigChange{Type: raftpb.AddWitness, ReplicaID: 4, Address: address(4)})
		},
		"transfer": func(b *raftpb.MessageBatch) {
			b.Requests[2] = raftpb.Message{Type: raftpb.LeaderTransfer, ShardID: 1, From: 2, To: 1}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := goodBatch()
			spoil(&b)
			frame, err := b.Marshal()
			require.NoError(t, err)
			_, err = decodeBatch(frame, testClusterID, true)
			require.ErrorIs(t, err, errBatch)
		})
	}
}

func goodChunk() raftpb.Chunk {
	return raftpb.Chunk{ShardID: 1, ReplicaID: 2, From: 3, Index: 9, Term: 2, DeploymentId: testClusterID, BinVer: raftio.TransportBinVersion,
		Filepath: snapshotName(9), Data: []byte("data"), ChunkSize: 4, Membership: raftpb.Membership{ConfigChangeId: 3,
			Addresses: map[uint64]string{2: address(2), 3: address(3)}}}
}

func TestChunks(t *testing.T) {
	for name, spoil := range map[string]func(*raftpb.Chunk){
		"":               func(*raftpb.Chunk) {},
		"deployment":     func(c *raftpb.Chunk) { c.DeploymentId++ },
		"path":           func(c *raftpb.Chunk) { c.Filepath = "../../" + c.Filepath },
		"dots":           func(c *raftpb.Chunk) { c.Filepath = ".." },
		"other snapshot": func(c *raftpb.Chunk) { c.Index++ },
		"no index":       func(c *raftpb.Chunk) { c.Index, c.Filepath = 0, snapshotName(0) },
		"no receiver":    func(c *raftpb.Chunk) { c.ReplicaID = 0 },
		"length":         func(c *raftpb.Chunk) { c.ChunkSize++ },
		"file":           func(c *raftpb.Chunk) { c.HasFileInfo = true },
		"witness":        func(c *raftpb.Chunk) { c.Witness = true },
		"empty":          func(c *raftpb.Chunk) { c.Data, c.ChunkSize = nil, 0 },
		"number":         func(c *raftpb.Chunk) { c.FileChunkId = 4 },
		"no members":     func(c *raftpb.Chunk) { c.Membership.Addresses = nil },
		"no change id":   func(c *raftpb.Chunk) { c.Membership.ConfigChangeId = 0 },
		"address":        func(c *raftpb.Chunk) { c.Membership.Addresses[3] = "localhost:1" },
	} {
		t.Run(name, func(t *testing.T) {
			c := goodChunk()
			spoil(&c)
			b, err := c.Marshal()
			require.NoError(t, err)
			got, err := decodeChunk(b, testClusterID)
			if name == "" {
				require.NoError(t, err)
				require.Equal(t, c.Data, got.Data)
				return
			}
			require.ErrorIs(t, err, errBatch)
		})
	}
}

func TestAddresses(t *testing.T) {
	m, ok := parseAddress(address(0x1f))
	require.True(t, ok)
	require.Equal(t, uint64(0x1f), m)
	for _, bad := range []string{"", "member-", "member-1f", "member-000000000000001F", "member-0000000000000000", "x", "member-00000000000000-1", address(1) + "0"} {
		_, ok := parseAddress(bad)
		require.False(t, ok, bad)
	}
}

// TestHostilePeer sends what no member should send to a member that serves, which must go on serving.
func TestHostilePeer(t *testing.T) {
	c := newTestCluster(t, 3, nil)
	c.group(1, 3)
	c.propose(1, "before")
	victim := c.leader(1)
	intruder, err := peer.New(peer.Config{ClusterID: testClusterID, MemberID: 9, Addresses: c.address})
	require.NoError(t, err)
	defer intruder.Close()
	require.NoError(t, intruder.Start())
	require.NoError(t, intruder.WaitConnected(c.ctx(), victim.id, peer.ChannelRaft))
	send := func(b []byte) {
		t.Helper()
		require.NoError(t, intruder.Send(victim.id, peer.ChannelRaft, b))
	}
	send(nil)
	send([]byte("garbage"))
	batch := goodBatch()
	batch.Requests = batch.Requests[2:]
	for _, spoil := range []func(m *raftpb.Message){
		func(m *raftpb.Message) { m.Type = raftpb.LocalTick },
		// In the name of the victim, and of a replica that lives on another member.
		func(m *raftpb.Message) { m.From = victim.id },
		func(m *raftpb.Message) { m.From = victim.id%3 + 1 },
		func(m *raftpb.Message) { m.ShardID = 77 },
		func(m *raftpb.Message) { m.To = 77 },
	} {
		batch.Requests[0] = raftpb.Message{Type: raftpb.HeartbeatResp, ShardID: 1, From: 50, To: victim.id, Term: 1}
		spoil(&batch.Requests[0])
		b, err := batch.Marshal()
		require.NoError(t, err)
		send(b)
	}
	stream, err := victim.host.transport.GetSnapshotConnection(c.ctx(), address(victim.id%3+1))
	require.NoError(t, err)
	defer stream.Close()
	bad := goodChunk()
	bad.ReplicaID = 77
	err = stream.SendChunk(bad)
	for err == nil {
		err = stream.SendChunk(bad)
	}
	require.Contains(t, err.Error(), ErrNotFound.Error())
	c.propose(1, "after")
	c.converged(1, []string{"before", "after"}, c.nodes...)
}

func FuzzBatch(f *testing.F) {
	b := goodBatch()
	frame, err := b.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame)
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{0x0a, 0x02, 0x6a, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeBatch(b, testClusterID, true)
		if err != nil {
			if !errors.Is(err, errBatch) {
				t.Fatal(err)
			}
			return
		}
		for i := range got.Requests {
			if err := checkMessage(&got.Requests[i]); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzChunk(f *testing.F) {
	c := goodChunk()
	b, err := c.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := decodeChunk(b, testClusterID); err != nil && !errors.Is(err, errBatch) {
			t.Fatal(err)
		}
	})
}
