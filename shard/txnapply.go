package shard

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/command"
)

// commitRecord reads the record that a commit carries, and tells whether the
// commit is void: the transaction has an outcome already, which can only be an
// abort. Then its effects are dropped, on all replicas alike.
func (m *machine) commitRecord(t *command.Txn) (r *kvdpb.TxnRecord, void bool, err error) {
	r = &kvdpb.TxnRecord{}
	if err := proto.Unmarshal(t.Record, r); err != nil {
		return nil, false, fmt.Errorf("decode transaction record: %w", err)
	}
	if m.txns.records[string(r.GetTxn())] != nil {
		return r, true, nil
	}
	r.Revision = t.Revision
	return r, false, nil
}

// stageCommit writes a commit's record.
func (m *machine) stageCommit(staged *mvcc.Batch, r *kvdpb.TxnRecord) error {
	return m.setLocal(staged, txnRecordName(r.GetTxn()), r)
}

func (m *machine) setLocal(staged *mvcc.Batch, name []byte, msg proto.Message) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	staged.SetLocal(name, b)
	return nil
}

// applyTransactions applies a command that checkTransactions let pass.
func (m *machine) applyTransactions(staged *mvcc.Batch, c *kvdpb.ShardTransactions, index uint64) error {
	x := &m.txns
	for _, p := range c.GetPrepares() {
		id := string(p.GetTxn())
		if x.prepared[id] != nil {
			continue
		}
		x.prepared[id] = p
		if err := m.setLocal(staged, preparedName(p.GetTxn()), p); err != nil {
			return err
		}
	}
	var applied []command.Txn
	for _, d := range c.GetDecisions() {
		id := string(d.GetTxn())
		p := x.prepared[id]
		if p == nil {
			continue
		}
		delete(x.prepared, id)
		staged.DeleteLocal(preparedName(d.GetTxn()))
		if d.GetRevision() == 0 {
			continue
		}
		effects, subs := effectsOf(p.GetEffects())
		for i := range effects {
			staged.Put(d.GetRevision(), subs[i], &effects[i])
		}
		applied = append(applied, command.Txn{Revision: d.GetRevision(), Effects: effects, Subs: subs})
		m.lastRevision = d.GetRevision()
	}
	for _, a := range c.GetAborts() {
		id := string(a.GetTxn())
		if x.records[id] != nil {
			continue
		}
		x.records[id] = a
		if err := m.setLocal(staged, txnRecordName(a.GetTxn()), a); err != nil {
			return err
		}
	}
	for _, txn := range c.GetForgets() {
		// A record that went to a child with its anchor is the child's.
		if r := x.records[string(txn)]; r != nil && m.span.Contains(r.GetAnchor()) {
			delete(x.records, string(txn))
			staged.DeleteLocal(txnRecordName(txn))
		}
	}
	m.ownership.ApplyWrite()
	m.progress = m.appendProgress(m.progress[:0])
	staged.SetLocal(progressRecord, m.progress)
	if err := staged.Commit(); err != nil {
		return err
	}
	m.publishProgress(index)
	m.tellTransactions(c, Accepted, index)
	count := 0
	for i := range applied {
		count += len(applied[i].Effects)
	}
	m.r.cfg.Sink.Applied(m.r.cfg.Shard, index, eventsOf(count, applied))
	return nil
}

// tellTransactions tells the tenure what became of a command of its epoch.
func (m *machine) tellTransactions(c *kvdpb.ShardTransactions, rejection Rejection, index uint64) {
	if t := m.r.tenure.Load(); t != nil && t.epoch == c.GetEpoch() {
		t.pipeline.applied(c.GetSeq(), rejection, index)
	}
}

// dropSeeded removes the records that went to the child of a split that is done.
func (m *machine) dropSeeded(staged *mvcc.Batch) {
	child := spanOf(m.pending)
	for id, r := range m.txns.records {
		if child.Contains(r.GetAnchor()) {
			delete(m.txns.records, id)
			staged.DeleteLocal(txnRecordName(r.GetTxn()))
		}
	}
}

// overlapsPrepared tells whether an undecided part lies in the child of a split.
// The split's latch should have waited for it.
func (s *state) overlapsPrepared(child *kvdpb.Descriptor) bool {
	right := spanOf(child)
	for _, p := range s.txns.prepared {
		for _, span := range spansOf(p.GetSpans()) {
			if span.Overlaps(right) {
				return true
			}
		}
	}
	return false
}
