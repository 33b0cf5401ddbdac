package shard

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/internal/tracing"
	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/command"
)

// machine is the working state of the apply goroutine.
//
// Apply works in groups: consecutive batches of writes share one batch of the
// store, any other command has one of its own. For each group, in this order:
//
//  1. every command is checked (state.check, state.checkWrites) and either
//     rejected, with its rejection as the entry's result, or staged;
//  2. the store commits effects, state and applied index as a whole;
//  3. state, applied index and revision are published to readers;
//  4. the tenure is told, which completes the waiting writes;
//  5. the sink is told.
//
// Nothing here depends on a clock, on chance, or on who owns the shard. A
// rejection is part of the replicated history; every error is a failure of this
// replica alone and stops the process.
type machine struct {
	r *Replica
	state
	// published is lastRevision as readers may see it.
	published atomic.Int64

	// Used again from group to group.
	batches  []command.Batch
	progress []byte
	// began is when the present group's apply began, if the process traces.
	began time.Time
}

var _ multiraft.StateMachine = (*Replica)(nil)

// maxGroupBytes bounds the commands that share one batch of the store.
const maxGroupBytes = 4 << 20

// Open implements multiraft.StateMachine.
func (r *Replica) Open(<-chan struct{}) (uint64, error) {
	store, err := r.cfg.Engine.Open(r.cfg.Dir)
	if err != nil {
		return 0, fmt.Errorf("shard %d: open: %w", r.cfg.Shard, err)
	}
	r.store.Store(store)
	if err := r.fsm.reload(); err != nil {
		return 0, fmt.Errorf("shard %d: open: %w", r.cfg.Shard, err)
	}
	if r.fsm.desc != nil {
		r.cfg.Sink.Opened(r.cfg.Shard, r.fsm.desc, r.applied.Load(), r.fsm.lastRevision)
	}
	if r.fsm.pending != nil {
		r.cfg.OnPending(r.cfg.Shard, r.fsm.pending)
	}
	r.notifyChange()
	return r.applied.Load(), nil
}

// Close implements multiraft.StateMachine: it ends the tenure, closes the store
// and waits until nothing of the replica runs any more.
func (r *Replica) Close() error {
	r.mu.Lock()
	r.mu.closed = true
	if r.mu.stopDriving != nil {
		r.mu.stopDriving()
	}
	r.mu.leading = false
	r.mu.Unlock()
	if t := r.tenure.Load(); t != nil {
		t.end()
		t.forsake(r.ambiguous(ErrClosed))
		t.wait()
	}
	r.drivers.Wait()
	r.wakeApplied()
	store := r.store.Load()
	if store == nil {
		return nil
	}
	r.cfg.Sink.Closed(r.cfg.Shard)
	if err := store.Close(); err != nil {
		return fmt.Errorf("shard %d: close: %w", r.cfg.Shard, err)
	}
	return nil
}

// reload reads the state that the store holds, and publishes it.
func (m *machine) reload() error {
	store := m.r.store.Load()
	record, err := store.GetLocal(stateRecord)
	if err != nil {
		return err
	}
	progress, err := store.GetLocal(progressRecord)
	if err != nil {
		return err
	}
	if err := m.state.load(record, progress); err != nil {
		return err
	}
	if err := m.txns.load(store); err != nil {
		return err
	}
	m.publish(store.AppliedIndex())
	return nil
}

// publish shows the state to readers; the store has committed it.
func (m *machine) publish(applied uint64) {
	m.r.view.Store(m.state.view(applied))
	m.publishProgress(applied)
}

func (m *machine) publishProgress(applied uint64) {
	m.published.Store(m.lastRevision)
	m.r.applied.Store(applied)
}

// Apply implements multiraft.StateMachine.
func (r *Replica) Apply(entries []multiraft.Entry) error {
	m := &r.fsm
	for len(entries) > 0 {
		n, size := 0, 0
		for n < len(entries) && command.IsBatch(entries[n].Cmd) && (n == 0 || size+len(entries[n].Cmd) <= maxGroupBytes) {
			size += len(entries[n].Cmd)
			n++
		}
		var err error
		if n > 0 {
			err = m.applyWriteGroup(entries[:n])
		} else {
			n = 1
			err = m.applyOther(&entries[0])
		}
		if err != nil {
			return fmt.Errorf("shard %d: apply index %d: %w", r.cfg.Shard, entries[0].Index, err)
		}
		if r.waiters.Load() > 0 {
			r.wakeApplied()
		}
		entries = entries[n:]
	}
	return nil
}

// applyWriteGroup applies entries that are batches of writes.
func (m *machine) applyWriteGroup(entries []multiraft.Entry) error {
	for len(m.batches) < len(entries) {
		m.batches = append(m.batches, command.Batch{})
	}
	if tracing.On() {
		m.began = time.Now()
	}
	staged := m.r.store.Load().NewBatch()
	defer staged.Close()
	count := 0
	for i := range entries {
		b := &m.batches[i]
		if err := b.Decode(entries[i].Cmd); err != nil {
			return err
		}
		rejection := m.checkWrites(b)
		entries[i].Result = uint64(rejection)
		if rejection != Accepted {
			m.r.counters.rejected.Add(1)
			m.noteRejection(rejection, b.Epoch)
			continue
		}
		for j := range b.Txns {
			t := &b.Txns[j]
			if t.Record != nil {
				record, void, err := m.commitRecord(t)
				if err != nil {
					return err
				}
				if void {
					t.Effects = nil
					continue
				}
				m.txns.records[string(record.GetTxn())] = record
				if err := m.stageCommit(staged, record); err != nil {
					return err
				}
			}
			for sub := range t.Effects {
				staged.Put(t.Revision, t.Sub(sub), &t.Effects[sub])
			}
			count += len(t.Effects)
		}
		m.state.applyWrites(b)
	}
	last := entries[len(entries)-1].Index
	m.progress = m.appendProgress(m.progress[:0])
	staged.SetLocal(progressRecord, m.progress)
	staged.SetAppliedIndex(last)
	if err := staged.Commit(); err != nil {
		return err
	}
	m.publishProgress(last)
	if t := m.r.tenure.Load(); t != nil {
		for i := range entries {
			t.applied(&m.batches[i], Rejection(entries[i].Result), entries[i].Index)
		}
	}
	m.r.cfg.Sink.Applied(m.r.cfg.Shard, last, m.events(entries, count))
	for i := range entries {
		m.batches[i].Forget()
	}
	return nil
}

// noteRejection logs what should not happen. Writes of a deposed
// owner and repeated batches are ordinary.
func (m *machine) noteRejection(rejection Rejection, epoch uint64) {
	switch rejection {
	case RevisionNotIncreasing:
		m.r.counters.revisionAlarms.Add(1)
		m.r.log.Error("a write was rejected because its revision is not above the shard's last one",
			zap.Uint64("epoch", epoch), zap.Int64("last-revision", m.lastRevision))
	case OutsideSpan, NotInitialized:
		m.r.log.Error("a write was rejected", zap.Stringer("reason", rejection), zap.Uint64("epoch", epoch))
	}
}

// events makes the sink's events of the batches that applied.
func (m *machine) events(entries []multiraft.Entry, count int) []Event {
	if count == 0 {
		return nil
	}
	sets := make([][]command.Txn, 0, len(entries))
	for i := range entries {
		if Rejection(entries[i].Result) == Accepted {
			sets = append(sets, m.batches[i].Txns)
		}
	}
	return eventsOf(count, sets...)
}

// eventsOf makes the sink's events of transactions with count effects.
func eventsOf(count int, sets ...[]command.Txn) []Event {
	if count == 0 {
		return nil
	}
	events := make([]Event, 0, count)
	kvs := make([]mvccpb.KeyValue, count)
	for _, txns := range sets {
		for i := range txns {
			t := &txns[i]
			for j := range t.Effects {
				e, kv := &t.Effects[j], &kvs[len(events)]
				kv.Key = e.Key
				kv.ModRevision = t.Revision
				if !e.Tombstone {
					kv.Value = e.Value
					kv.CreateRevision = e.Create
					if e.Create == 0 {
						kv.CreateRevision = t.Revision
					}
					kv.Version = e.Version
					kv.Lease = e.Lease
				}
				events = append(events, Event{Revision: t.Revision, Sub: t.Sub(j), KV: kv, Tombstone: e.Tombstone})
			}
		}
	}
	return events
}

// applyOther applies a command other than a batch of writes.
func (m *machine) applyOther(e *multiraft.Entry) error {
	var c kvdpb.ShardCommand
	if err := proto.Unmarshal(e.Cmd, &c); err != nil {
		return fmt.Errorf("decode command: %w", err)
	}
	if c.GetCommand() == nil {
		return fmt.Errorf("command of %d bytes that this version does not know", len(e.Cmd))
	}
	staged := m.r.store.Load().NewBatch()
	defer staged.Close()
	staged.SetAppliedIndex(e.Index)
	rejection := m.check(&c)
	e.Result = uint64(rejection)
	if rejection != Accepted {
		m.r.counters.rejected.Add(1)
		if err := staged.Commit(); err != nil {
			return err
		}
		m.publishProgress(e.Index)
		if x := c.GetTransactions(); x != nil {
			m.noteRejection(rejection, x.GetEpoch())
			m.tellTransactions(x, rejection, e.Index)
		}
		if x := c.GetAbsorb(); x != nil {
			m.tellAbsorb(x, rejection, e.Index)
		}
		m.r.cfg.Sink.Applied(m.r.cfg.Shard, e.Index, nil)
		return nil
	}
	if x := c.GetTransactions(); x != nil {
		return m.applyTransactions(staged, x, e.Index)
	}
	before := m.state
	if err := m.stage(staged, &c); errors.Is(err, errUnfed) {
		return m.skip(staged, e.Index)
	} else if err != nil {
		return err
	}
	direct := m.state.apply(&c)
	record, err := m.state.record()
	if err != nil {
		return err
	}
	staged.SetLocal(stateRecord, record)
	staged.SetLocal(progressRecord, m.appendProgress(nil))
	if err := staged.Commit(); err != nil {
		return err
	}
	m.publish(e.Index)
	m.announce(&c, &before, direct, e.Index)
	m.r.notifyChange()
	return nil
}

// skip takes note of an entry without effect.
func (m *machine) skip(staged *mvcc.Batch, index uint64) error {
	if err := staged.Commit(); err != nil {
		return err
	}
	m.publishProgress(index)
	m.r.cfg.Sink.Applied(m.r.cfg.Shard, index, nil)
	return nil
}

// errUnfed says that a replica which joined was fed from the log of a group that
// began with seeds.
var errUnfed = errors.New("a replica that joined has no seed")

// stage adds to the store's batch what a command does beside the state.
func (m *machine) stage(staged *mvcc.Batch, c *kvdpb.ShardCommand) error {
	switch cmd := c.GetCommand().(type) {
	case *kvdpb.ShardCommand_Init:
		d := cmd.Init.GetDescriptor_()
		if d.GetShard() != m.r.cfg.Shard {
			return fmt.Errorf("init of shard %d in the log of shard %d", d.GetShard(), m.r.cfg.Shard)
		}
		if (d.GetParent() != 0 || d.GetRestored()) && m.desc == nil {
			if m.r.cfg.Joined {
				// It was fed from the log where it needed a snapshot. It never becomes
				// initialized, so that it applies nothing, and is replaced.
				return errUnfed
			}
			// Going on would silently miss the data of before the split, or of the
			// snapshot file.
			return fmt.Errorf("replica %d of split-born or restored shard %d has no seed", m.r.cfg.Replica, m.r.cfg.Shard)
		}
		if s := spanOf(d); s.Empty() || !keyspace.All().ContainsSpan(s) {
			return fmt.Errorf("init with span %v", s)
		}
	case *kvdpb.ShardCommand_SplitDone:
		staged.DropSpan(spanOf(m.pending))
		m.dropSeeded(staged)
		return dropLeases(staged, m.r.store.Load(), spanOf(m.pending))
	case *kvdpb.ShardCommand_Leases:
		return stageLeases(staged, cmd.Leases)
	case *kvdpb.ShardCommand_Compact:
		staged.SetCompactRevision(cmd.Compact.GetRevision())
	case *kvdpb.ShardCommand_AbsorbChunk:
		return m.stageChunk(staged, cmd.AbsorbChunk)
	case *kvdpb.ShardCommand_AbsorbDiscard:
		return m.dropChunks(staged)
	case *kvdpb.ShardCommand_Absorb:
		return m.stageAbsorb(staged)
	}
	return nil
}

// announce tells tenure, sink and manager what a command changed.
func (m *machine) announce(c *kvdpb.ShardCommand, before *state, direct bool, index uint64) {
	r := m.r
	switch c.GetCommand().(type) {
	case *kvdpb.ShardCommand_Init:
		if before.desc == nil {
			r.cfg.Sink.Opened(r.cfg.Shard, m.desc, index, m.lastRevision)
		}
	case *kvdpb.ShardCommand_Claim:
		r.claimed(m.ownership, direct)
	case *kvdpb.ShardCommand_Serving:
		if t := r.tenure.Load(); t != nil && t.epoch == m.ownership.Epoch {
			t.serve()
		}
	case *kvdpb.ShardCommand_Release:
		if t := r.tenure.Load(); t != nil && t.epoch == m.ownership.Epoch {
			t.end()
		}
	case *kvdpb.ShardCommand_Split:
		if t := r.tenure.Load(); t != nil && t.epoch == m.ownership.Epoch {
			t.narrow(m.span)
			t.moving.Store(false)
		}
		r.cfg.Sink.Split(m.desc, m.pending, index, m.lastRevision)
		r.cfg.OnPending(r.cfg.Shard, m.pending)
	case *kvdpb.ShardCommand_SplitDone:
		r.cfg.OnSplitDone(r.cfg.Shard, before.pending.GetShard())
	default:
		m.announceMerge(c, index)
	}
	r.cfg.Sink.Applied(r.cfg.Shard, index, nil)
}
