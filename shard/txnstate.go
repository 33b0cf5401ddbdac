package shard

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Local records of transactions over several shards, by transaction id: parts
// that are prepared and not decided here, and outcomes of those anchored here.
var (
	preparedPrefix  = []byte("txn-prepared/")
	txnRecordPrefix = []byte("txn-record/")
)

// txnTable is the replicated state of transactions over several shards. It is a
// function of the log, and only the apply goroutine uses it.
type txnTable struct {
	prepared map[string]*kvdpb.Prepared
	records  map[string]*kvdpb.TxnRecord
}

func preparedName(txn []byte) []byte {
	return append(append([]byte(nil), preparedPrefix...), txn...)
}

func txnRecordName(txn []byte) []byte {
	return append(append([]byte(nil), txnRecordPrefix...), txn...)
}

// localScanner reads local records by prefix. *mvcc.Store is one.
type localScanner interface {
	ScanLocal(prefix []byte, fn func(name, value []byte) error) error
}

// load reads what the store holds.
func (x *txnTable) load(store localScanner) error {
	*x = txnTable{prepared: map[string]*kvdpb.Prepared{}, records: map[string]*kvdpb.TxnRecord{}}
	err := store.ScanLocal(preparedPrefix, func(name, value []byte) error {
		p := &kvdpb.Prepared{}
		if err := proto.Unmarshal(value, p); err != nil {
			return fmt.Errorf("decode prepared transaction: %w", err)
		}
		x.prepared[string(p.GetTxn())] = p
		return nil
	})
	if err != nil {
		return err
	}
	return store.ScanLocal(txnRecordPrefix, func(name, value []byte) error {
		r := &kvdpb.TxnRecord{}
		if err := proto.Unmarshal(value, r); err != nil {
			return fmt.Errorf("decode transaction record: %w", err)
		}
		x.records[string(r.GetTxn())] = r
		return nil
	})
}

// records that a seed of span begins with: those anchored in it. After the Split
// entry the parent changes them no more, so they are the same on every replica,
// whenever it makes its seed.
func seedRecords(store localScanner, span keyspace.Span, into map[string][]byte) error {
	return store.ScanLocal(txnRecordPrefix, func(name, value []byte) error {
		r := &kvdpb.TxnRecord{}
		if err := proto.Unmarshal(value, r); err != nil {
			return fmt.Errorf("decode transaction record: %w", err)
		}
		if span.Contains(r.GetAnchor()) {
			into[string(name)] = append([]byte(nil), value...)
		}
		return nil
	})
}

// checkTransactions rejects steps of another epoch or out of sequence, and what
// does not lie inside the shard. A step for a transaction that the shard does
// not know is not rejected but passed over when it is applied.
func (s *state) checkTransactions(c *kvdpb.ShardTransactions) Rejection {
	if r := Rejection(s.ownership.CheckWrite(c.GetEpoch(), c.GetSeq())); r != Accepted {
		return r
	}
	for _, p := range c.GetPrepares() {
		for _, sp := range p.GetSpans() {
			if !s.span.ContainsSpan(keyspace.Span{Start: sp.GetStart(), End: sp.GetEnd()}) {
				return OutsideSpan
			}
		}
		for _, e := range p.GetEffects() {
			if !s.span.Contains(e.GetKey()) {
				return OutsideSpan
			}
		}
	}
	for _, a := range c.GetAborts() {
		if !s.span.Contains(a.GetAnchor()) {
			return OutsideSpan
		}
	}
	last := s.lastRevision
	for _, d := range c.GetDecisions() {
		if d.GetRevision() == 0 || s.txns.prepared[string(d.GetTxn())] == nil {
			continue
		}
		if d.GetRevision() <= last {
			return RevisionNotIncreasing
		}
		last = d.GetRevision()
	}
	return Accepted
}

// effectOf turns an effect from its message.
func effectOf(e *kvdpb.KeyEffect) mvcc.Effect {
	return mvcc.Effect{
		Key: e.GetKey(), Value: e.GetValue(), Create: e.GetCreate(), Version: e.GetVersion(),
		Lease: e.GetLease(), Detach: e.GetDetach(), Tombstone: e.GetTombstone(),
	}
}

func effectsOf(es []*kvdpb.KeyEffect) (effects []mvcc.Effect, subs []int64) {
	effects, subs = make([]mvcc.Effect, len(es)), make([]int64, len(es))
	for i, e := range es {
		effects[i], subs[i] = effectOf(e), e.GetSub()
	}
	return effects, subs
}

func spansOf(ss []*kvdpb.KeySpan) []keyspace.Span {
	spans := make([]keyspace.Span, len(ss))
	for i, s := range ss {
		spans[i] = keyspace.Span{Start: s.GetStart(), End: s.GetEnd()}
	}
	return spans
}
