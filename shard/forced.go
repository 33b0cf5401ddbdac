package shard

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/command"
)

// Survey is what store and log of a replica that does not run tell of the shard,
// for a member that is to go on with it alone.
type Survey struct {
	// Begun: the store holds the shard's state. Where it does not, that is still to
	// be read from the log.
	Begun bool
	// Revision is at least the largest revision that the replica holds or will hold
	// once it has applied its log, Compacted the largest compaction revision.
	Revision, Compacted int64
	// Children are the shards that splits cut off, as far as store and log tell.
	Children []uint64
	// Surrendered: the shard has given its keys up to its left neighbour.
	Surrendered bool

	batch command.Batch
}

// SurveyStore begins a survey with what a store holds.
func SurveyStore(store *mvcc.Store) (*Survey, error) {
	record, err := store.GetLocal(stateRecord)
	if err != nil {
		return nil, fmt.Errorf("read state of shard: %w", err)
	}
	progress, err := store.GetLocal(progressRecord)
	if err != nil {
		return nil, fmt.Errorf("read progress of shard: %w", err)
	}
	var st state
	if err := st.load(record, progress); err != nil {
		return nil, err
	}
	s := &Survey{Begun: st.desc != nil, Revision: max(st.lastRevision, store.LastRevision()), Compacted: store.CompactRevision()}
	if st.pending != nil {
		s.Children = append(s.Children, st.pending.Shard)
	}
	s.Revision = max(s.Revision, st.absorbing.GetNewest(), st.absorbing.GetSeal().GetRevision())
	s.Surrendered = st.frozen.GetSurrenderedIn() != 0
	return s, nil
}

// Add takes in a command of the log that the store has not applied, whether or
// not it will be rejected when it applies.
func (s *Survey) Add(cmd []byte) error {
	if command.IsBatch(cmd) {
		if err := s.batch.Decode(cmd); err != nil {
			return err
		}
		if n := len(s.batch.Txns); n > 0 {
			s.Revision = max(s.Revision, s.batch.Txns[n-1].Revision)
		}
		s.batch.Forget()
		return nil
	}
	c := &kvdpb.ShardCommand{}
	if err := proto.Unmarshal(cmd, c); err != nil {
		return fmt.Errorf("decode command: %w", err)
	}
	for _, d := range c.GetTransactions().GetDecisions() {
		s.Revision = max(s.Revision, d.GetRevision())
	}
	for _, v := range c.GetAbsorbChunk().GetVersions() {
		s.Revision = max(s.Revision, v.GetRevision())
	}
	seal := c.GetAbsorbChunk().GetSeal()
	s.Revision = max(s.Revision, seal.GetRevision())
	s.Compacted = max(s.Compacted, c.GetCompact().GetRevision(), seal.GetCompactRevision())
	s.Surrendered = s.Surrendered || c.GetSurrender() != nil
	if split := c.GetSplit(); split != nil {
		s.Children = append(s.Children, split.GetChild().GetShard())
	}
	return nil
}
