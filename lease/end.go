package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

const (
	// maxWorkers is how many leases a member ends at a time. Each waits for the log
	// about three times, so it takes many to end a thousand in a second where the log
	// is slow; where it is not, the rate at which their owners mark leases limits them.
	maxWorkers = 128
	// endRetryFirst and endRetryMost are the pauses after attempts that failed.
	endRetryFirst = 20 * time.Millisecond
	endRetryMost  = time.Second
)

// revoke ends a lease whose record is marked.
func (m *Manager) revoke(id int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed || m.mu.ending[id] {
		return
	}
	m.mu.ending[id] = true
	m.mu.queue = append(m.mu.queue, id)
	if m.mu.workers < maxWorkers {
		m.mu.workers++
		m.wg.Go(m.work)
	}
}

// Shards is the manager as package shard knows it (shard.Leases).
type Shards struct{ *Manager }

// Revoke is told of a lease whose record was marked at this member.
func (s Shards) Revoke(id int64) { s.revoke(id) }

// Expired counts a lease whose time was over.
func (s Shards) Expired() { s.stats.expired.Add(1) }

// work ends leases until none waits.
func (m *Manager) work() {
	for {
		m.mu.Lock()
		if len(m.mu.queue) == 0 || m.mu.closed {
			m.mu.workers--
			m.mu.queue = nil
			m.mu.Unlock()
			return
		}
		id := m.mu.queue[0]
		m.mu.queue = m.mu.queue[1:]
		m.mu.Unlock()
		m.endSurely(id)
		m.mu.Lock()
		delete(m.mu.ending, id)
		m.mu.Unlock()
	}
}

// endSurely ends a lease, whatever it takes.
func (m *Manager) endSurely(id int64) {
	for delay := endRetryFirst; m.ctx.Err() == nil; delay = min(2*delay, endRetryMost) {
		ctx, cancel := context.WithTimeout(m.ctx, m.cfg.RequestTimeout)
		err := m.end(ctx, id)
		cancel()
		if err == nil {
			return
		}
		m.cfg.Logger.Debug("a lease could not be ended yet", zap.String("lease", fmt.Sprintf("%016x", id)), zap.Error(err))
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-m.ctx.Done():
		}
		timer.Stop()
	}
}

// end deletes the keys and then the record of a lease that is marked.
func (m *Manager) end(ctx context.Context, id int64) error {
	answer, _, err := m.cfg.Router.Lease(ctx, keyspace.Lease(id), &kvdpb.LeaseCall{Step: &kvdpb.LeaseCall_Inspect{Inspect: id}})
	if errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := oneInfo(id, answer)
	if err != nil {
		return err
	}
	if !info.revoking {
		// It was ended and granted again.
		return nil
	}
	keys, err := m.attached(ctx, info, true)
	if err != nil {
		return fmt.Errorf("find attached keys: %w", err)
	}
	if len(keys) > 0 {
		if _, err := m.cfg.Router.Txn(ctx, deleteAttached(id, keys)); err != nil {
			return fmt.Errorf("delete attached keys: %w", err)
		}
	}
	_, _, err = m.cfg.Router.Lease(ctx, keyspace.Lease(id), &kvdpb.LeaseCall{Step: &kvdpb.LeaseCall_Drop{Drop: id}})
	if err != nil {
		return fmt.Errorf("drop record: %w", err)
	}
	return nil
}

// deleteAttached is the transaction that deletes those of the keys that are
// attached to a lease still.
func deleteAttached(id int64, keys [][]byte) *pb.TxnRequest {
	txn := &pb.TxnRequest{Success: make([]*pb.RequestOp, 0, len(keys))}
	for _, encoded := range keys {
		key, ok := keyspace.UserKey(encoded)
		if !ok {
			continue
		}
		txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
			Compare: []*pb.Compare{{
				Result: pb.Compare_EQUAL, Target: pb.Compare_LEASE, Key: key, TargetUnion: &pb.Compare_Lease{Lease: id},
			}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}},
		}}})
	}
	return txn
}
