package multiraft

import (
	"errors"
	"fmt"

	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// Bytes from other members are checked here, because Dragonboat panics on much that a well-behaved sender never sends.

var errBatch = errors.New("multiraft: malformed raft messages")

// decodeBatch decodes the messages of one frame and checks what can be checked without knowing a group's state. The result shares no
// memory with the frame.
func decodeBatch(frame []byte, deployment uint64, preVote bool) (batch raftpb.MessageBatch, err error) {
	// The generated decoders check most lengths; what they miss must not end the process.
	defer func() {
		if r := recover(); r != nil {
			batch, err = raftpb.MessageBatch{}, fmt.Errorf("%w: %v", errBatch, r)
		}
	}()
	if err := batch.Unmarshal(frame); err != nil {
		return raftpb.MessageBatch{}, fmt.Errorf("%w: %w", errBatch, err)
	}
	if batch.DeploymentId != deployment || batch.BinVer != raftio.TransportBinVersion {
		return raftpb.MessageBatch{}, fmt.Errorf("%w: deployment %016x, version %d", errBatch, batch.DeploymentId, batch.BinVer)
	}
	for i := range batch.Requests {
		if err := checkMessage(&batch.Requests[i]); err != nil {
			return raftpb.MessageBatch{}, err
		}
	}
	if !preVote {
		batch.Requests = withoutPreVotes(batch.Requests)
	}
	return batch, nil
}

// withoutPreVotes drops pre-vote messages, on which a replica that does not take part in them would panic. Members should agree on the
// option; while they do not, those with it are elected only by those with it.
func withoutPreVotes(all []raftpb.Message) []raftpb.Message {
	kept := all[:0]
	for _, m := range all {
		if m.Type != raftpb.RequestPreVote && m.Type != raftpb.RequestPreVoteResp {
			kept = append(kept, m)
		}
	}
	return kept
}

func checkMessage(m *raftpb.Message) error {
	if m.To == 0 || m.From == 0 || m.ShardID == 0 {
		return fmt.Errorf("%w: %v from replica %d to %d of shard %d", errBatch, m.Type, m.From, m.To, m.ShardID)
	}
	entries := false
	switch m.Type {
	case raftpb.Replicate, raftpb.Propose:
		entries = true
	case raftpb.NoOP, raftpb.Ping, raftpb.Pong, raftpb.ReplicateResp, raftpb.RequestVote, raftpb.RequestVoteResp, raftpb.Heartbeat,
		raftpb.HeartbeatResp, raftpb.ReadIndex, raftpb.ReadIndexResp, raftpb.SnapshotReceived, raftpb.LeaderTransfer, raftpb.TimeoutNow,
		raftpb.RateLimit, raftpb.RequestPreVote, raftpb.RequestPreVoteResp:
	default:
		// Local types, quiescence (never used), and snapshots, which come as chunks.
		return fmt.Errorf("%w: type %d", errBatch, m.Type)
	}
	if !raftpb.IsEmptySnapshot(m.Snapshot) {
		return fmt.Errorf("%w: %v with a snapshot", errBatch, m.Type)
	}
	if !entries && len(m.Entries) > 0 {
		return fmt.Errorf("%w: %v with %d entries", errBatch, m.Type, len(m.Entries))
	}
	switch m.Type {
	case raftpb.RequestVote, raftpb.RequestPreVote, raftpb.Replicate, raftpb.Heartbeat, raftpb.ReplicateResp:
		if m.Term == 0 {
			return fmt.Errorf("%w: %v without a term", errBatch, m.Type)
		}
	case raftpb.LeaderTransfer:
		if m.Hint == 0 {
			return fmt.Errorf("%w: leader transfer to nobody", errBatch)
		}
	}
	for i := range m.Entries {
		e := &m.Entries[i]
		if m.Type == raftpb.Replicate && (e.Index != m.LogIndex+1+uint64(i) || e.Term == 0 || e.Term > m.Term) {
			return fmt.Errorf("%w: entry %d of term %d after %d in term %d", errBatch, e.Index, e.Term, m.LogIndex, m.Term)
		}
		if err := checkEntry(e); err != nil {
			return err
		}
	}
	return nil
}

func checkEntry(e *raftpb.Entry) error {
	switch e.Type {
	case raftpb.ApplicationEntry:
		// Only the empty entry of a new leader: sessions are not used, and every command is an encoded entry.
		if len(e.Cmd) > 0 || e.ClientID != 0 || e.SeriesID != 0 {
			return fmt.Errorf("%w: plain entry with a command", errBatch)
		}
	case raftpb.EncodedEntry:
		// The header byte: version 0, no compression, no session.
		if len(e.Cmd) < 2 || e.Cmd[0] != 0 {
			return fmt.Errorf("%w: encoded entry with a bad header", errBatch)
		}
		if !e.IsNoOPSession() || e.Key == 0 {
			return fmt.Errorf("%w: entry of a session", errBatch)
		}
	case raftpb.ConfigChangeEntry:
		var cc raftpb.ConfigChange
		if err := cc.Unmarshal(e.Cmd); err != nil {
			return fmt.Errorf("%w: membership change: %w", errBatch, err)
		}
		return checkConfigChange(&cc)
	default:
		return fmt.Errorf("%w: entry of type %d", errBatch, e.Type)
	}
	return nil
}

func checkConfigChange(cc *raftpb.ConfigChange) error {
	if cc.ReplicaID == 0 {
		return fmt.Errorf("%w: membership change of replica 0", errBatch)
	}
	switch cc.Type {
	case raftpb.AddNode, raftpb.AddNonVoting:
		if _, ok := parseAddress(cc.Address); !ok {
			return fmt.Errorf("%w: membership change with address %q", errBatch, cc.Address)
		}
	case raftpb.RemoveNode:
	default:
		return fmt.Errorf("%w: membership change of type %d", errBatch, cc.Type)
	}
	return nil
}

// decodeChunk decodes and checks one piece of a snapshot. The result shares no memory with b.
func decodeChunk(b []byte, deployment uint64) (c raftpb.Chunk, err error) {
	defer func() {
		if r := recover(); r != nil {
			c, err = raftpb.Chunk{}, fmt.Errorf("%w: %v", errBatch, r)
		}
	}()
	if err := c.Unmarshal(b); err != nil {
		return raftpb.Chunk{}, fmt.Errorf("%w: %w", errBatch, err)
	}
	if err := checkChunk(&c, deployment); err != nil {
		return raftpb.Chunk{}, err
	}
	return c, nil
}

func checkChunk(c *raftpb.Chunk, deployment uint64) error {
	switch {
	case c.DeploymentId != deployment || c.BinVer != raftio.TransportBinVersion:
		return fmt.Errorf("%w: chunk of deployment %016x, version %d", errBatch, c.DeploymentId, c.BinVer)
	case c.ShardID == 0 || c.ReplicaID == 0 || c.From == 0:
		return fmt.Errorf("%w: chunk from replica %d to %d of shard %d", errBatch, c.From, c.ReplicaID, c.ShardID)
	case c.Index == 0 || c.Term == 0:
		return fmt.Errorf("%w: chunk of a snapshot at index %d, term %d", errBatch, c.Index, c.Term)
	case c.HasFileInfo || c.Witness:
		return fmt.Errorf("%w: chunk of a kind that is not used", errBatch)
	case c.ChunkSize != uint64(len(c.Data)):
		return fmt.Errorf("%w: chunk of %d bytes with %d", errBatch, c.ChunkSize, len(c.Data))
	case c.FileChunkId != c.ChunkId || (c.ChunkId == 0 && len(c.Data) == 0):
		return fmt.Errorf("%w: chunk %d, %d of its file", errBatch, c.ChunkId, c.FileChunkId)
	case c.Filepath != snapshotName(c.Index):
		return fmt.Errorf("%w: chunk of file %q", errBatch, c.Filepath)
	}
	return checkMembership(&c.Membership)
}

// snapshotName is the file name that Dragonboat gives to the snapshot at an index.
func snapshotName(index uint64) string { return fmt.Sprintf("snapshot-%016X.gbsnap", index) }

func checkMembership(m *raftpb.Membership) error {
	if m.ConfigChangeId == 0 || len(m.Addresses) == 0 || len(m.Witnesses) > 0 {
		return fmt.Errorf("%w: incomplete membership", errBatch)
	}
	for _, group := range []map[uint64]string{m.Addresses, m.NonVotings} {
		for replica, addr := range group {
			if _, ok := parseAddress(addr); !ok || replica == 0 {
				return fmt.Errorf("%w: membership with replica %d at %q", errBatch, replica, addr)
			}
		}
	}
	return nil
}
