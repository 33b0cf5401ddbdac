package multiraft

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"
	sm "github.com/lni/dragonboat/v4/statemachine"
	"go.uber.org/zap"
)

// ReplicaConfig says which replica to start and how.
type ReplicaConfig struct {
	Shard, Replica uint64
	// Initial maps the group's first replicas to their members. It is given, the same for all of them, when one of them starts for the first time, and
	// ignored afterwards.
	Initial map[uint64]uint64
	// Join is set when a replica that was added to a running group starts for the first time; ignored afterwards.
	Join bool
	// NonVoting is set, with Join, for a replica that was added as non-voting, even if it was promoted before its first start. It is remembered: a
	// promoted replica needs no other configuration.
	NonVoting bool
	// QuickFirstElection makes the replica campaign as soon as it can instead of waiting for an election timeout, until there is a leader. It is for one replica of
	// a group that has none yet.
	QuickFirstElection bool
}

// replica is one local replica.
type replica struct {
	host      *Host
	shard, id uint64
	session   *client.Session
	// leading is what Propose looks at; leader is the last event.
	leading atomic.Bool
	leader  atomic.Pointer[LeaderEvent]
	ready   atomic.Bool
	// flush makes the state machine's Flush, if it has one. It is there once the replica is ready.
	flush func()
	// changed is signalled after each leader event, and when the replica ends.
	changed broadcast
	// closed is closed once the state machine is closed.
	closed    chan struct{}
	closeOnce sync.Once
}

// finished ends the replica's life: its state machine is closed, and another may take its place.
func (r *replica) finished() {
	r.closeOnce.Do(func() {
		r.leading.Store(false)
		r.host.replicas.CompareAndDelete(r.shard, r)
		r.host.transport.forget(r.shard)
		close(r.closed)
		r.changed.signal()
	})
}

// StartReplica starts a replica. It returns before the state machine is open; ReplicaReady tells when it is. It returns ErrExists while another replica of the
// shard runs or is being stopped here, and ErrRemoved for one whose data was removed.
func (h *Host) StartReplica(rc ReplicaConfig, create func() StateMachine) error {
	if rc.Shard == 0 || rc.Replica == 0 {
		return fmt.Errorf("multiraft: start of replica %d of shard %d", rc.Replica, rc.Shard)
	}
	if err := h.enter(); err != nil {
		return err
	}
	defer h.leave()
	known := h.nh.HasNodeInfo(rc.Shard, rc.Replica)
	if !known && rc.Join == (len(rc.Initial) > 0) {
		return fmt.Errorf("multiraft: first start of replica %d of shard %d wants either the initial members or to join", rc.Replica, rc.Shard)
	}
	nonVoting, err := h.nonVoting(rc, known)
	if err != nil {
		return err
	}
	initial := make(map[uint64]dragonboat.Target, len(rc.Initial))
	if !known {
		for replica, member := range rc.Initial {
			initial[replica] = address(member)
		}
		if initial[rc.Replica] != address(h.cfg.MemberID) && !rc.Join {
			return fmt.Errorf("multiraft: replica %d of shard %d is not this member's", rc.Replica, rc.Shard)
		}
	}
	r := &replica{host: h, shard: rc.Shard, id: rc.Replica, session: h.nh.GetNoOPSession(rc.Shard), closed: make(chan struct{})}
	if _, taken := h.replicas.LoadOrStore(rc.Shard, r); taken {
		return ErrExists
	}
	err = h.start(rc, r, initial, rc.Join && !known, nonVoting, create)
	if err != nil {
		r.finished()
		return err
	}
	if rc.QuickFirstElection {
		h.campaignAtStart(r)
	}
	return nil
}

func (h *Host) start(rc ReplicaConfig, r *replica, initial map[uint64]dragonboat.Target, join, nonVoting bool, create func() StateMachine) (err error) {
	defer func() {
		// Dragonboat panics on errors of the log store, which no replica can survive.
		if p := recover(); p != nil {
			err = fmt.Errorf("multiraft: starting replica %d of shard %d: %v", rc.Replica, rc.Shard, p)
			h.log.Error("raft log failed", zap.Error(err))
			if h.cfg.OnFatal != nil {
				h.cfg.OnFatal(err)
			}
		}
	}()
	err = h.nh.StartOnDiskReplica(initial, join, func(uint64, uint64) sm.IOnDiskStateMachine {
		return &machine{sm: create(), r: r}
	}, h.cfg.replicaConfig(rc.Shard, rc.Replica, nonVoting))
	if err != nil {
		return fmt.Errorf("multiraft: starting replica %d of shard %d: %w", rc.Replica, rc.Shard, translate(err))
	}
	return nil
}

// nonVoting tells whether a replica must be configured as non-voting: for ever if it began as such, because its log, or the snapshot that
// replaced it, is what makes it a voter again at each start.
func (h *Host) nonVoting(rc ReplicaConfig, known bool) (bool, error) {
	path := h.markerPath(rc.Shard, rc.Replica)
	_, err := os.Stat(path)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("multiraft: reading the marker of a non-voting replica: %w", err)
	}
	if known || !rc.NonVoting {
		return false, nil
	}
	return true, writeFile(path, nil)
}

func (h *Host) markerPath(shard, replica uint64) string {
	return filepath.Join(h.markers, fmt.Sprintf("%d-%d", shard, replica))
}

// StopReplica stops a replica and waits until its state machine is closed. It returns nil if that replica does not run here.
func (h *Host) StopReplica(ctx context.Context, shard, replica uint64) error {
	r := h.replica(shard)
	if r == nil || r.id != replica {
		return nil
	}
	if err := h.enter(); err != nil {
		return err
	}
	err := h.nh.StopReplica(shard, replica)
	h.leave()
	if err != nil && !errors.Is(err, dragonboat.ErrShardNotFound) {
		return fmt.Errorf("multiraft: stopping replica %d of shard %d: %w", replica, shard, translate(err))
	}
	select {
	case <-r.closed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("multiraft: stopping replica %d of shard %d: %w", replica, shard, ctx.Err())
	}
}

// RemoveReplicaData removes the log and snapshots of a replica that was stopped and that is no longer part of its group. That replica id can never be started here again.
func (h *Host) RemoveReplicaData(ctx context.Context, shard, replica uint64) error {
	if r := h.replica(shard); r != nil && r.id == replica {
		return ErrExists
	}
	err := h.waiting(ctx, func(ctx context.Context) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%v", p)
			}
		}()
		return h.nh.SyncRemoveData(ctx, shard, replica)
	})
	if err != nil {
		return fmt.Errorf("multiraft: removing replica %d of shard %d: %w", replica, shard, err)
	}
	if err := os.Remove(h.markerPath(shard, replica)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("multiraft: removing replica %d of shard %d: %w", replica, shard, err)
	}
	return nil
}

// HasReplica tells whether the replica was ever started here and its data not removed; false once the host is closed.
func (h *Host) HasReplica(shard, replica uint64) bool {
	if h.enter() != nil {
		return false
	}
	defer h.leave()
	return h.nh.HasNodeInfo(shard, replica)
}

// Running tells whether a replica of the shard runs, or is being stopped, here.
func (h *Host) Running(shard uint64) bool { return h.replica(shard) != nil }

// Leader returns the leading replica in the eyes of the local one, and its term. known is false when there is none.
func (h *Host) Leader(shard uint64) (replica, term uint64, known bool) {
	r := h.replica(shard)
	if r == nil {
		return 0, 0, false
	}
	e := r.leader.Load()
	if e == nil || e.Leader == 0 {
		return 0, 0, false
	}
	return e.Leader, e.Term, true
}

// TransferLeader asks the leader to hand over to another replica. There is no guarantee: watch the leader events.
func (h *Host) TransferLeader(shard, toReplica uint64) error {
	if err := h.enter(); err != nil {
		return err
	}
	defer h.leave()
	if err := h.nh.RequestLeaderTransfer(shard, toReplica); err != nil {
		return translate(err)
	}
	return nil
}
