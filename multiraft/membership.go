package multiraft

import (
	"context"
	"errors"
	"fmt"

	"github.com/lni/dragonboat/v4"
)

// Membership is the membership of a group. ConfigChangeID is what the next change has to name.
type Membership struct {
	ConfigChangeID uint64
	// Voters and NonVoting map replicas to members.
	Voters, NonVoting map[uint64]uint64
	// Removed are replicas that can never come back.
	Removed map[uint64]struct{}
}

// Membership returns the membership as of a linearizable read.
func (h *Host) Membership(ctx context.Context, shard uint64) (Membership, error) {
	var m *dragonboat.Membership
	err := h.waiting(ctx, func(ctx context.Context) (err error) {
		m, err = h.readMembership(ctx, shard)
		return err
	})
	if err != nil {
		return Membership{}, err
	}
	out := Membership{ConfigChangeID: m.ConfigChangeID, Removed: m.Removed}
	if out.Voters, err = members(m.Nodes); err != nil {
		return Membership{}, err
	}
	if out.NonVoting, err = members(m.NonVotings); err != nil {
		return Membership{}, err
	}
	return out, nil
}

// readMembership repeats the read, which is lost without a word when the leader changes.
func (h *Host) readMembership(ctx context.Context, shard uint64) (*dragonboat.Membership, error) {
	for {
		once, cancel := context.WithTimeout(ctx, h.cfg.Election)
		m, err := h.nh.SyncGetShardMembership(once, shard)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, dragonboat.ErrTimeout) {
			return m, err
		}
	}
}

func members(addresses map[uint64]string) (map[uint64]uint64, error) {
	all := make(map[uint64]uint64, len(addresses))
	for replica, addr := range addresses {
		member, ok := parseAddress(addr)
		if !ok {
			return nil, fmt.Errorf("multiraft: replica %d has the address %q", replica, addr)
		}
		all[replica] = member
	}
	return all, nil
}

// AddReplica adds a voting replica, or promotes a non-voting one. configChangeID is the current one of Membership; ErrRejected means that it is not current any
// more or that the change makes no sense. On other errors the change may have happened.
func (h *Host) AddReplica(ctx context.Context, shard, replica, member, configChangeID uint64) error {
	return h.waiting(ctx, func(ctx context.Context) error {
		return h.nh.SyncRequestAddReplica(ctx, shard, replica, address(member), configChangeID)
	})
}

// AddNonVoting adds a replica that follows the log but does not vote; otherwise like AddReplica.
func (h *Host) AddNonVoting(ctx context.Context, shard, replica, member, configChangeID uint64) error {
	return h.waiting(ctx, func(ctx context.Context) error {
		return h.nh.SyncRequestAddNonVoting(ctx, shard, replica, address(member), configChangeID)
	})
}

// RemoveReplica removes a replica for ever; otherwise like AddReplica.
func (h *Host) RemoveReplica(ctx context.Context, shard, replica, configChangeID uint64) error {
	return h.waiting(ctx, func(ctx context.Context) error {
		return h.nh.SyncRequestDeleteReplica(ctx, shard, replica, configChangeID)
	})
}

// RequestSnapshot makes the local replica take a snapshot (for a state machine on disk: sync it) and compact its log, leaving overhead entries if override is set
// and Config.CompactionOverhead otherwise. ErrRejected means that there was nothing new since the last one.
func (h *Host) RequestSnapshot(ctx context.Context, shard uint64, override bool, overhead uint64) error {
	return h.waiting(ctx, func(ctx context.Context) error {
		_, err := h.nh.SyncRequestSnapshot(ctx, shard, dragonboat.SnapshotOption{OverrideCompactionOverhead: override, CompactionOverhead: overhead})
		return err
	})
}
