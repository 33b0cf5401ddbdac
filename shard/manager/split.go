package manager

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// Split cuts the shard that holds an encoded key, so that key begins the right
// half. This member must own the shard; *shard.NotOwnerError names who does. It
// returns the two halves once the range map shows them.
//
// Splits of one shard queue: a second one waits until the first is done on every
// replica, or until ctx ends. CancelSplits ends the wait as well.
func (m *Manager) Split(ctx context.Context, key []byte) (left, right *kvdpb.Descriptor, err error) {
	parent := m.holder(key)
	if parent == nil {
		return nil, nil, status.Errorf(codes.NotFound, "kvd: no shard holds %s", keyspace.Format(key))
	}
	if bytes.Equal(parent.Start, key) {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "kvd: shard %d begins at %s already", parent.Shard, keyspace.Format(key))
	}
	r, ok := m.Replica(parent.Shard)
	if !ok || !r.Serving() {
		return nil, nil, m.notOwner(parent.Shard, r)
	}
	s := m.beginSplit(ctx, parent.Shard, key)
	defer m.endSplit(s)
	release, err := m.reserve(s.ctx, parent.Shard, r)
	if err != nil {
		return nil, nil, s.reason(err)
	}
	child, err := m.split(s, r)
	release()
	if err != nil {
		return nil, nil, s.reason(err)
	}
	return m.awaitLive(ctx, parent.Shard, child.Shard)
}

func (m *Manager) notOwner(id uint64, r *shard.Replica) error {
	if r == nil {
		return &shard.NotOwnerError{Shard: id}
	}
	owner, epoch := r.Owner()
	if owner == m.cfg.Member {
		owner = 0
	}
	return &shard.NotOwnerError{Shard: id, Owner: owner, Epoch: epoch}
}

// holder returns the live descriptor that holds a key.
func (m *Manager) holder(key []byte) *kvdpb.Descriptor {
	for _, d := range m.cfg.Placement.Shards() {
		if d.Phase == kvdpb.Descriptor_LIVE && (keyspace.Span{Start: d.Start, End: d.End}).Contains(key) {
			return d
		}
	}
	return nil
}

// described returns the descriptor of a shard; nil if placement has none.
func (m *Manager) described(id uint64) *kvdpb.Descriptor {
	for _, d := range m.cfg.Placement.Shards() {
		if d.Shard == id {
			return d
		}
	}
	return nil
}

// reserve waits until no step and no split of the shard is under way, and keeps
// others out until the returned function is called.
func (m *Manager) reserve(ctx context.Context, id uint64, r *shard.Replica) (release func(), err error) {
	for {
		changed := m.next()
		m.mu.Lock()
		if m.mu.closed {
			m.mu.Unlock()
			return nil, shard.ErrClosed
		}
		if !m.mu.busy[id] && r.Pending() == nil && !m.reshaped(id) {
			m.mu.busy[id] = true
			m.mu.Unlock()
			return func() { m.free(id) }, nil
		}
		m.mu.Unlock()
		select {
		case <-changed:
		case <-m.ctx.Done():
			return nil, shard.ErrClosed
		case <-ctx.Done():
			if m.reshaped(id) {
				return nil, status.Errorf(codes.Unavailable, "kvd: replicas of shard %d are being added or removed", id)
			}
			if p := r.Pending(); p != nil {
				return nil, status.Errorf(codes.Unavailable,
					"kvd: shard %d is still being split into shard %d: not every replica of that holds its data yet (is a member down?)", id, p.GetShard())
			}
			return nil, ctx.Err()
		}
	}
}

// reshaped tells whether replicas of a shard are being added or removed.
func (m *Manager) reshaped(id uint64) bool {
	d := m.described(id)
	return d != nil && changing(d)
}

// split reserves the child in placement and lets the owner log the split.
func (m *Manager) split(s *split, r *shard.Replica) (*kvdpb.Descriptor, error) {
	ctx := s.ctx
	generation := r.Descriptor().GetGeneration()
	_, epoch := r.Owner()
	res, err := m.cfg.Placement.Update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_BeginSplit{
		BeginSplit: &kvdpb.BeginSplit{Parent: r.Shard(), Generation: generation, Key: s.key},
	}})
	if err != nil {
		return nil, fmt.Errorf("reserve the new shard: %w", err)
	}
	child := res.GetDescriptor_()
	m.mu.Lock()
	m.mu.proposed[r.Shard()] = proposal{child: child.Shard, epoch: epoch}
	m.mu.Unlock()
	err = r.Split(ctx, child, child.Generation, func() error { return m.passSplit(s) })
	if errors.Is(err, shard.ErrSplitAborted) {
		// It was not proposed and this process will not propose it again: the
		// next look aborts the reservation.
		m.mu.Lock()
		delete(m.mu.proposed, r.Shard())
		m.mu.Unlock()
	}
	if err != nil {
		return nil, fmt.Errorf("split shard %d: %w", r.Shard(), err)
	}
	return child, nil
}

// awaitLive waits until the range map shows the child and its owner serves.
func (m *Manager) awaitLive(ctx context.Context, parent, child uint64) (left, right *kvdpb.Descriptor, err error) {
	for {
		changed := m.next()
		left, right = nil, nil
		for _, d := range m.cfg.Placement.Shards() {
			switch {
			case d.Shard == parent:
				left = d
			case d.Shard == child && d.Phase == kvdpb.Descriptor_LIVE:
				right = d
			}
		}
		if right != nil && left != nil && m.owned(child) {
			return left, right, nil
		}
		select {
		case <-changed:
		case <-m.ctx.Done():
			return nil, nil, shard.ErrClosed
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("shard %d was split into shard %d, which does not serve yet: %w", parent, child, ctx.Err())
		}
	}
}

// owned tells whether the shard has a serving owner as far as this member knows.
func (m *Manager) owned(id uint64) bool {
	r, ok := m.Replica(id)
	if !ok {
		return false
	}
	if r.Serving() {
		return true
	}
	owner, _ := r.Owner()
	return owner != 0 && owner != m.cfg.Member
}
