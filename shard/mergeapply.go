package shard

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// What a left shard has copied so far lies in local records of its store, one for
// each chunk: part of its snapshots, and seen by nobody.

// chunkRecords begins the names of chunks.
var chunkRecords = []byte("absorb/")

func chunkRecord(index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, len(chunkRecords)+8), chunkRecords...), index)
}

// stageChunk adds a chunk to the store's batch. The first of another copy drops
// the one before.
func (m *machine) stageChunk(staged *mvcc.Batch, c *kvdpb.ShardAbsorbChunk) error {
	if c.GetIndex() == 0 {
		if err := m.dropChunks(staged); err != nil {
			return err
		}
	}
	return m.setLocal(staged, chunkRecord(c.GetIndex()), c)
}

// dropChunks removes what was copied.
func (m *machine) dropChunks(staged *mvcc.Batch) error {
	return m.r.store.Load().ScanLocal(chunkRecords, func(name, _ []byte) error {
		staged.DeleteLocal(name)
		return nil
	})
}

// stageAbsorb makes the copy part of the shard.
func (m *machine) stageAbsorb(staged *mvcc.Batch) error {
	a := m.absorbing
	span := keyspace.Span{Start: a.Begin.GetStart(), End: a.Begin.GetEnd()}
	staged.Absorb(span, a.Seal.GetCompactRevision(), a.Seal.GetRevision())
	chunks := uint64(0)
	err := m.r.store.Load().ScanLocal(chunkRecords, func(name, value []byte) error {
		c := &kvdpb.ShardAbsorbChunk{}
		if err := proto.Unmarshal(value, c); err != nil {
			return fmt.Errorf("decode chunk %x: %w", name, err)
		}
		if c.GetIndex() != chunks || c.GetCopy() != a.Copy || c.GetAttempt() != a.Begin.GetAttempt() {
			return fmt.Errorf("chunk %d of copy %d of attempt %d where chunk %d of copy %d of attempt %d belongs",
				c.GetIndex(), c.GetCopy(), c.GetAttempt(), chunks, a.Copy, a.Begin.GetAttempt())
		}
		chunks++
		for _, v := range c.GetVersions() {
			staged.AbsorbVersion(&mvcc.Version{
				Key: v.GetKey(), Value: v.GetValue(), Revision: v.GetRevision(), Sub: v.GetSub(),
				Create: v.GetCreate(), Version: v.GetVersion(), Lease: v.GetLease(), Tombstone: v.GetTombstone(),
			}, v.GetNewest())
		}
		staged.DeleteLocal(name)
		return stageLeases(staged, &kvdpb.ShardLeases{Set: c.GetLeases()})
	})
	if err == nil && chunks != a.Next {
		err = fmt.Errorf("%d chunks of %d", chunks, a.Next)
	}
	if err != nil {
		return fmt.Errorf("absorb shard %d: %w", a.Begin.GetRight(), err)
	}
	return nil
}

// announceMerge tells tenure, sink and manager of a step of a merge.
func (m *machine) announceMerge(c *kvdpb.ShardCommand, index uint64) {
	r := m.r
	switch cmd := c.GetCommand().(type) {
	case *kvdpb.ShardCommand_Freeze, *kvdpb.ShardCommand_Surrender, *kvdpb.ShardCommand_AbsorbBegin,
		*kvdpb.ShardCommand_AbsorbChunk, *kvdpb.ShardCommand_AbsorbDiscard:
	case *kvdpb.ShardCommand_Unfreeze:
		// The owner begins anew: what it stopped serving stays stopped in its epoch.
		if t := r.tenure.Load(); t != nil {
			t.end()
		}
	case *kvdpb.ShardCommand_Absorb:
		// Everything that an owner knows in memory was made for the keys that it had.
		// A new tenure makes it anew from the state.
		m.tellAbsorb(cmd.Absorb, Accepted, index)
		if t := r.tenure.Load(); t != nil {
			t.end()
		}
		r.cfg.Sink.Absorbed(m.desc, index, m.lastRevision)
	default:
		return
	}
	r.cfg.OnMerge(r.cfg.Shard)
}

// tellAbsorb tells the tenure what became of an Absorb of its epoch.
func (m *machine) tellAbsorb(c *kvdpb.ShardAbsorb, rejection Rejection, index uint64) {
	if t := m.r.tenure.Load(); t != nil && t.epoch == c.GetEpoch() {
		t.pipeline.applied(c.GetSeq(), rejection, index)
	}
}
