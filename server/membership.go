package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

const (
	// healthInterval is how long members must have been connected to count as
	// healthy when members change; etcd's.
	healthInterval = 5 * time.Second
	// leaveDelay is how long a removed member goes on, so that what it is asked at
	// this moment is still answered; etcd's.
	leaveDelay = time.Second
)

// membership changes the members as etcd does: first what this member can check
// by itself, then what the replicated state refuses.
type membership struct{ m *Member }

// connections returns who is connected and since when, this member included.
func (s membership) connections() map[uint64]time.Time {
	since := map[uint64]time.Time{s.m.id.member: {}}
	for _, p := range s.m.mesh.Peers() {
		if p.Connected {
			since[p.Member] = p.Since
		}
	}
	return since
}

func (s membership) health() placement.Health {
	return placement.Health{Self: s.m.id.member, Connected: s.connections(), HealthyBefore: time.Now().Add(-healthInterval)}
}

// AddMember implements api.Membership.
func (s membership) AddMember(ctx context.Context, peerURLs []string, learner bool) (*kvdpb.Member, []*kvdpb.Member, error) {
	urls, err := types.NewURLs(peerURLs)
	if err != nil {
		return nil, nil, rpctypes.ErrGRPCMemberBadURLs
	}
	if s.m.cfg.StrictReconfigCheck {
		if err := s.health().MayAdd(s.m.placement.Members(), learner); err != nil {
			return nil, nil, s.refused("add", 0, err)
		}
	}
	added := &kvdpb.Member{Id: placement.MemberID(urls.StringSlice(), time.Now()), PeerUrls: urls.StringSlice(), Learner: learner}
	all, err := s.m.placement.AddMember(ctx, added, uint64(s.m.cfg.MaxLearners))
	return added, all, err
}

// RemoveMember implements api.Membership.
func (s membership) RemoveMember(ctx context.Context, id uint64) ([]*kvdpb.Member, error) {
	if s.m.cfg.StrictReconfigCheck {
		if err := s.health().MayRemove(s.m.placement.Members(), id); err != nil {
			return nil, s.refused("remove", id, err)
		}
	}
	return s.m.placement.RemoveMember(ctx, id)
}

// UpdateMember implements api.Membership.
func (s membership) UpdateMember(ctx context.Context, id uint64, peerURLs []string) ([]*kvdpb.Member, error) {
	urls, err := types.NewURLs(peerURLs)
	if err != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	return s.m.placement.SetPeerURLs(ctx, id, urls.StringSlice())
}

// PromoteMember implements api.Membership.
func (s membership) PromoteMember(ctx context.Context, id uint64) ([]*kvdpb.Member, error) {
	known := s.m.placement.View().Member(id)
	switch {
	case known == nil:
		if err := s.m.placement.Barrier(ctx); err != nil {
			return nil, err
		}
		if known = s.m.placement.View().Member(id); known == nil {
			return nil, rpctypes.ErrGRPCMemberNotFound
		}
	case !known.Learner:
		return nil, rpctypes.ErrGRPCMemberNotLearner
	}
	if known.Learner && !s.m.placement.Ready(ctx, id) {
		return nil, rpctypes.ErrGRPCLearnerNotReady
	}
	if s.m.cfg.StrictReconfigCheck {
		if err := s.health().MayPromote(s.m.placement.Members()); err != nil {
			return nil, s.refused("promote", id, err)
		}
	}
	return s.m.placement.PromoteMember(ctx, id)
}

func (s membership) refused(what string, id uint64, err error) error {
	s.m.log.Warn("rejecting member "+what+" request", zap.String("local-member-id", fmt.Sprintf("%x", s.m.id.member)),
		zap.String("requested-member-"+what+"-id", fmt.Sprintf("%x", id)), zap.Error(err))
	return err
}

// onReplica takes in what happened to a replica.
func (m *Member) onReplica(e multiraft.ReplicaEvent) {
	if e.Shard == placement.Shard && e.Kind == multiraft.ReplicaRemoved {
		m.removed()
	}
}

// removed ends this member's run: it is no part of the cluster any more.
func (m *Member) removed() {
	m.leaveOnce.Do(func() {
		m.log.Warn("this member was removed from the cluster; it stops")
		time.AfterFunc(leaveDelay, func() { m.fail(errRemoved) })
	})
}

// alive tells whether another member is connected in both directions.
func (m *Member) alive(member uint64) bool {
	if member == m.id.member {
		return true
	}
	for _, p := range m.mesh.Peers() {
		if p.Member == member {
			return p.Connected && p.Incoming > 0
		}
	}
	return false
}

// askReplica asks a member what its replica of a shard reports.
func (m *Member) askReplica(ctx context.Context, member, shard uint64) (*kvdpb.ReplicaStatus, error) {
	conn, err := m.mesh.Conn(member)
	if err != nil {
		return nil, err
	}
	resp, err := kvdpb.NewShardsClient(conn).Describe(ctx, &kvdpb.DescribeRequest{Shards: []uint64{shard}})
	if err != nil {
		return nil, err
	}
	if len(resp.Replicas) != 1 {
		return nil, fmt.Errorf("member %016x has no replica of shard %d", member, shard)
	}
	return resp.Replicas[0], nil
}

// forsake breaks the connections with members that have departed, so that they
// connect again and are told.
func (m *Member) forsake(v *placement.View) {
	for _, id := range m.departing {
		if v.Removed(id) {
			m.mesh.Disconnect(id)
		}
	}
	m.departing = m.departing[:0]
	for _, d := range v.Departing {
		m.departing = append(m.departing, d.Id)
	}
}

// Removed tells whether an error of a member says that it was removed from its
// cluster, which is an orderly end.
func Removed(err error) bool { return errors.Is(err, errRemoved) }
