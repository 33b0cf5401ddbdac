package shard

import (
	"errors"
	"fmt"
	"io"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/mvcc"
)

// Sync implements multiraft.StateMachine.
func (r *Replica) Sync() error {
	if err := r.store.Load().Flush(); err != nil {
		return fmt.Errorf("shard %d: sync: %w", r.cfg.Shard, err)
	}
	return nil
}

// Flush implements multiraft.Flusher.
func (r *Replica) Flush() {
	if err := r.store.Load().Flush(); err != nil {
		r.log.Debug("flush ahead of a snapshot", zap.Error(err))
	}
}

// PrepareSnapshot implements multiraft.StateMachine.
func (r *Replica) PrepareSnapshot() (any, error) {
	sn := r.store.Load().NewSnapshot()
	if err := sn.Err(); err != nil {
		sn.Close()
		return nil, fmt.Errorf("shard %d: prepare snapshot: %w", r.cfg.Shard, err)
	}
	return sn, nil
}

// SaveSnapshot implements multiraft.StateMachine.
func (r *Replica) SaveSnapshot(captured any, w io.Writer, stop <-chan struct{}) error {
	sn := captured.(*mvcc.Snapshot)
	defer sn.Close()
	if err := r.store.Load().WriteSnapshot(sn, w, stop); err != nil {
		return snapshotError(fmt.Errorf("shard %d: save snapshot: %w", r.cfg.Shard, err))
	}
	return nil
}

// RecoverFromSnapshot implements multiraft.StateMachine.
func (r *Replica) RecoverFromSnapshot(src io.Reader, stop <-chan struct{}) error {
	if err := r.store.Load().ReadSnapshot(src, stop); err != nil {
		return snapshotError(fmt.Errorf("shard %d: recover from snapshot: %w", r.cfg.Shard, err))
	}
	had := r.fsm.pending
	if err := r.fsm.reload(); err != nil {
		return fmt.Errorf("shard %d: recover from snapshot: %w", r.cfg.Shard, err)
	}
	r.restored()
	if r.fsm.desc != nil {
		r.cfg.Sink.Restored(r.cfg.Shard, r.fsm.desc, r.applied.Load(), r.fsm.lastRevision)
	}
	if had != nil && (r.fsm.pending == nil || r.fsm.pending.GetShard() != had.GetShard()) {
		r.cfg.OnSplitDone(r.cfg.Shard, had.GetShard())
	}
	if r.fsm.pending != nil {
		r.cfg.OnPending(r.cfg.Shard, r.fsm.pending)
	}
	r.wakeApplied()
	r.notifyChange()
	return nil
}

// restored follows a snapshot that replaced the state.
func (r *Replica) restored() {
	t := r.tenure.Load()
	if t == nil {
		return
	}
	t.end()
	if o := r.fsm.ownership; o.Epoch == t.epoch {
		t.settle(o.NextSeq, r.applied.Load())
		return
	}
	// They may be part of the snapshot.
	t.forsake(r.ambiguous(fmt.Errorf("ownership ended within a snapshot")))
}

// snapshotError marks a snapshot that was given up because the replica stops.
func snapshotError(err error) error {
	if errors.Is(err, mvcc.ErrStopped) {
		return fmt.Errorf("%w: %w", multiraft.ErrStopped, err)
	}
	return err
}
