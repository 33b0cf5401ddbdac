package shard

import (
	"math"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/command"
)

// txnStep is one step of a transaction on its way into the log. Exactly one field
// is set.
type txnStep struct {
	prepare *part
	decide  *decision
	abort   *inquiry
	forget  string
}

// decision is an outcome on its way to a participant's log; part is nil where
// the transaction is not known in this tenure.
type decision struct {
	txn      string
	revision int64
	part     *part
	waiting  []*Request
}

// inquiry is a question to the anchor about a transaction that it does not know.
type inquiry struct {
	record *kvdpb.TxnRecord
	req    *Request
}

// maxStepBytes bounds the Prepares of one raft command.
const maxStepBytes = 1 << 20

func (x *parts) doPrepare(req *Request, prepared *kvdpb.Prepared) {
	x.mu.Lock()
	p := x.mu.byID[string(req.Part.GetTxn())]
	if p != nil && p.phase == partPrepared && req.Part.GetEpoch() == x.t.epoch {
		x.mu.Unlock()
		x.t.replyPart(req, &kvdpb.PartReply{})
		return
	}
	if p = x.latchedLocked(req); p == nil {
		x.mu.Unlock()
		req.Done(nil, ErrLatchLost)
		return
	}
	if err := p.admits(prepared.GetEffects()); err != nil {
		x.mu.Unlock()
		req.Done(nil, err)
		return
	}
	p.prepared = &kvdpb.Prepared{
		Txn: req.Part.GetTxn(), Anchor: prepared.GetAnchor(), Spans: p.latch.GetSpans(),
		Effects: prepared.GetEffects(), Participants: prepared.GetParticipants(), Leases: p.latch.GetLeases(),
	}
	p.phase, p.req, p.since = partPreparing, req, time.Now()
	p.timer.Stop()
	x.mu.Unlock()
	x.send(txnStep{prepare: p})
}

// admits refuses effects that could not be applied: whatever a coordinator sends,
// what goes into the log is sound.
func (p *part) admits(es []*kvdpb.KeyEffect) error {
	size := 0
	seen := make(map[string]bool, len(es))
	subs := make(map[int64]bool, len(es))
	for _, e := range es {
		ke := effectOf(e)
		size += command.EffectSize(&ke)
		switch {
		case !p.writes(e.GetKey()) || !keyspace.Valid(e.GetKey()):
			return ErrLatchLost
		case seen[string(e.GetKey())] || subs[e.GetSub()] || e.GetSub() < 0:
			return rpctypes.ErrGRPCDuplicateKey
		case !e.GetTombstone() && (e.GetVersion() < 1 || e.GetCreate() < 0):
			return rpctypes.ErrGRPCInvalidClientAPIVersion
		}
		seen[string(e.GetKey())], subs[e.GetSub()] = true, true
	}
	if size > maxEffectBytes {
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}

// doCommit sends the anchor's part into the pipeline like any write.
func (x *parts) doCommit(req *Request, c *kvdpb.PartCommit) {
	txn := &kvdpb.TxnRecord{Txn: req.Part.GetTxn(), Anchor: c.GetRecord().GetAnchor(), Participants: c.GetRecord().GetParticipants()}
	record, err := proto.Marshal(txn)
	x.mu.Lock()
	p := x.latchedLocked(req)
	switch {
	case err != nil:
	case p == nil || !p.covers(keyspace.Key(txn.GetAnchor())):
		err = ErrLatchLost
	default:
		err = p.admits(c.GetEffects())
	}
	if err != nil {
		x.mu.Unlock()
		req.Done(nil, err)
		return
	}
	p.phase = partCommitting
	p.timer.Stop()
	w := &p.w
	w.req = req
	w.commit = &commit{part: p, txn: txn, record: record}
	w.result, w.commit.subs = commitResult(c.GetEffects())
	w.effectBytes = command.TxnOverhead + len(record)
	for i := range w.result.Effects {
		w.effectBytes += command.EffectSize(&w.result.Effects[i])
	}
	x.mu.Unlock()
	if !x.t.pipeline.enqueue(w) {
		w.abandon(x.t.r.notOwner())
	}
}

// doDecide takes in an outcome. The answer says that this shard's log has it.
func (x *parts) doDecide(req *Request, revision int64) {
	txn := string(req.Part.GetTxn())
	x.mu.Lock()
	p := x.mu.byID[txn]
	switch {
	case x.mu.closed:
		x.mu.Unlock()
		req.Done(nil, x.t.r.notOwner())
	case p != nil && p.phase == partPrepared:
		p.waiting = append(p.waiting, req)
		x.decideLocked(p, revision)
		x.sendDueLocked()
		x.mu.Unlock()
	case p != nil && revision != 0:
		// All parts of a committed transaction are prepared; this tenure is about
		// to see that it is.
		x.mu.Unlock()
		req.Done(nil, x.t.r.notOwner())
	default:
		// Nothing of it may be prepared here later: its latches are given up.
		latched := p != nil && p.phase == partLatched
		if latched {
			x.removeLocked(p)
		}
		x.mu.Unlock()
		if latched {
			p.letGo()
		}
		x.send(txnStep{decide: &decision{txn: txn, revision: revision, waiting: []*Request{req}}})
	}
}

// decideLocked notes the outcome of a prepared part.
func (x *parts) decideLocked(p *part, revision int64) {
	if p.decided {
		if p.revision != revision {
			x.t.r.log.DPanic("a transaction has two outcomes", zap.Int64("first", p.revision), zap.Int64("second", revision))
		}
		return
	}
	p.decided, p.revision = true, revision
	x.mu.learned = max(x.mu.learned, revision)
}

// sendDueLocked puts the decisions that may be applied now into the pipeline.
// They must get there before the lock is given up: whoever finds later that the
// next one is due would overtake them.
func (x *parts) sendDueLocked() {
	due := x.dueLocked()
	if len(due) == 0 {
		return
	}
	if err := x.t.pipeline.enqueueDecisions(due); err != nil {
		// It takes the lock.
		go failSteps(due, err)
	}
}

// dueLocked returns the decisions that may be applied now (invariant 4).
func (x *parts) dueLocked() []txnStep {
	var due []txnStep
	var commits []*part
	for _, p := range x.mu.byID {
		switch {
		case p.phase != partPrepared || !p.decided || p.sent:
		case p.revision == 0:
			due = append(due, p.dueLocked())
		default:
			commits = append(commits, p)
		}
	}
	slices.SortFunc(commits, func(a, b *part) int { return int(min(max(a.revision-b.revision, -1), 1)) })
	floor := int64(math.MaxInt64)
	for _, p := range x.mu.byID {
		if p.phase == partPrepared && !p.decided {
			floor = min(floor, p.floor)
		}
	}
	for _, c := range commits {
		if c.revision > floor {
			break
		}
		due = append(due, c.dueLocked())
	}
	return due
}

func (p *part) dueLocked() txnStep {
	p.sent = true
	return txnStep{decide: &decision{txn: p.id, revision: p.revision, part: p}}
}

// send puts a step that is no prepared part's decision into the pipeline.
func (x *parts) send(s txnStep) {
	if err := x.t.pipeline.enqueueStep(s); err != nil {
		failSteps([]txnStep{s}, err)
	}
}

// doInquire tells the outcome of a transaction that is anchored here. One that
// has none, and is not about to commit, gets one: it is aborted.
func (x *parts) doInquire(req *Request, q *kvdpb.PartInquire) {
	record := &kvdpb.TxnRecord{Txn: req.Part.GetTxn(), Anchor: q.GetRecord().GetAnchor(), Participants: q.GetRecord().GetParticipants()}
	if err := x.t.serveable([]keyspace.Span{keyspace.Key(record.GetAnchor())}); err != nil {
		req.Done(nil, err)
		return
	}
	x.mu.Lock()
	if s := x.mu.records[string(record.GetTxn())]; s != nil {
		x.mu.Unlock()
		x.t.replyPart(req, outcomeOf(s.record))
		return
	}
	p := x.mu.byID[string(record.GetTxn())]
	pending := p != nil && (p.phase == partCommitting || !q.GetForce())
	mine := p != nil && !pending && p.phase == partLatched
	if mine {
		x.removeLocked(p)
	}
	x.mu.Unlock()
	if pending {
		x.t.replyPart(req, &kvdpb.PartReply{Outcome: kvdpb.PartReply_PENDING})
		return
	}
	if mine {
		p.letGo()
	}
	x.send(txnStep{abort: &inquiry{record: record, req: req}})
}

func outcomeOf(r *kvdpb.TxnRecord) *kvdpb.PartReply {
	if r.GetRevision() == 0 {
		return &kvdpb.PartReply{Outcome: kvdpb.PartReply_ABORTED}
	}
	return &kvdpb.PartReply{Outcome: kvdpb.PartReply_COMMITTED, Revision: r.GetRevision()}
}

// forget has the record of a transaction removed, whose participants have all
// applied the outcome.
func (x *parts) forget(id string) {
	x.mu.Lock()
	known := x.mu.records[id] != nil && !x.mu.closed
	x.mu.Unlock()
	if known {
		x.send(txnStep{forget: id})
	}
}
