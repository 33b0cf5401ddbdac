package placement

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// MemberID is the id of a member that is added at a time, as etcd computes it.
func MemberID(peerURLs []string, now time.Time) uint64 {
	return memberID(peerURLs, fmt.Sprint(now.Unix()))
}

// AddMember takes a process into the cluster and returns the members after it.
// Errors are etcd's.
func (n *Node) AddMember(ctx context.Context, m *kvdpb.Member, maxLearners uint64) ([]*kvdpb.Member, error) {
	return n.changeMembers(ctx, kvdpb.PlacementResult_MEMBER_EXISTS, &kvdpb.PlacementCommand{
		Command: &kvdpb.PlacementCommand_AddMember{AddMember: &kvdpb.AddMember{Member: m, MaxLearners: maxLearners}}})
}

// PromoteMember makes a voter of a learner. Whether it is ready is not asked
// here; see Ready.
func (n *Node) PromoteMember(ctx context.Context, id uint64) ([]*kvdpb.Member, error) {
	return n.changeMembers(ctx, kvdpb.PlacementResult_NOT_LEARNER, &kvdpb.PlacementCommand{
		Command: &kvdpb.PlacementCommand_PromoteMember{PromoteMember: &kvdpb.PromoteMember{Id: id}}})
}

// SetPeerURLs replaces where a member is reached by the others.
func (n *Node) SetPeerURLs(ctx context.Context, id uint64, urls []string) ([]*kvdpb.Member, error) {
	return n.changeMembers(ctx, kvdpb.PlacementResult_NONE, &kvdpb.PlacementCommand{
		Command: &kvdpb.PlacementCommand_SetPeerUrls{SetPeerUrls: &kvdpb.SetPeerURLs{Id: id, PeerUrls: urls}}})
}

// RemoveMember takes a member out of the cluster and returns once the cluster no
// longer needs it: its process may be stopped then. Its replicas may still be
// moving off it. If ctx ends before, the member has been removed all the same,
// or may be.
func (n *Node) RemoveMember(ctx context.Context, id uint64) ([]*kvdpb.Member, error) {
	members, err := n.changeMembers(ctx, kvdpb.PlacementResult_NOT_FOUND, &kvdpb.PlacementCommand{
		Command: &kvdpb.PlacementCommand_RemoveMember{RemoveMember: &kvdpb.RemoveMember{Id: id}}})
	if err != nil {
		return nil, err
	}
	for {
		changed := n.next()
		if !n.View().needs(id) {
			return members, nil
		}
		select {
		case <-changed:
		case <-n.ctx.Done():
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// changeMembers has a change of members applied. satisfied is the rejection that
// a repeated command meets whose first try has applied.
func (n *Node) changeMembers(ctx context.Context, satisfied kvdpb.PlacementResult_Rejection, cmd *kvdpb.PlacementCommand) ([]*kvdpb.Member, error) {
	res, repeated, err := n.update(ctx, cmd)
	var rejected *RejectedError
	if errors.As(err, &rejected) && !(repeated && rejected.Rejection == satisfied) {
		return nil, memberError(rejected)
	}
	if err != nil && rejected == nil {
		return nil, err
	}
	// The caller may look at this member's own view next.
	if err := n.Barrier(ctx); err != nil {
		return nil, err
	}
	if len(res.GetMembers()) == 0 {
		return n.Members(), nil
	}
	return res.Members, nil
}

// memberError turns a rejection into etcd's error.
func memberError(e *RejectedError) error {
	switch e.Rejection {
	case kvdpb.PlacementResult_NOT_FOUND:
		return rpctypes.ErrGRPCMemberNotFound
	case kvdpb.PlacementResult_MEMBER_EXISTS:
		return rpctypes.ErrGRPCMemberExist
	case kvdpb.PlacementResult_PEER_URL_EXISTS:
		return rpctypes.ErrGRPCPeerURLExist
	case kvdpb.PlacementResult_NOT_LEARNER:
		return rpctypes.ErrGRPCMemberNotLearner
	case kvdpb.PlacementResult_TOO_MANY_LEARNERS:
		return rpctypes.ErrGRPCTooManyLearners
	}
	return status.Error(codes.FailedPrecondition, "kvd: "+e.Reason)
}

// needs tells whether the cluster could lose a quorum, or data, if a departing
// member stopped now.
func (v *View) needs(member uint64) bool {
	if v.Member(member) != nil {
		return true // the removal has not been applied here
	}
	for _, m := range v.Departing {
		if m.Id != member {
			continue
		}
		// With two others the placement group goes on without it; with one it goes
		// on only once this replica has been taken out of the group.
		votes := 0
		for _, o := range v.Members {
			if o.Votes {
				votes++
			}
		}
		if m.Votes && votes <= (votes+1)/2 {
			return true
		}
	}
	for _, d := range v.Map.byID {
		others, here := 0, false
		for _, r := range d.Replicas {
			switch {
			case r.NonVoting:
			case r.Member == member:
				here = true
			default:
				others++
			}
		}
		if here && others <= (others+1)/2 {
			return true
		}
	}
	return false
}

// Ready tells whether a member is running and its replica of the placement group
// has caught up.
func (n *Node) Ready(ctx context.Context, member uint64) bool {
	m := n.View().Member(member)
	return m != nil && n.ready(ctx, m)
}

// membershipService answers processes that are about to join, and members.
type membershipService struct {
	kvdpb.UnimplementedMembershipServer
	n *Node
}

// DescribeMethod is the method of the membership service that a process may call
// before it is a member.
const DescribeMethod = kvdpb.Membership_Describe_FullMethodName

// MembershipService is the gRPC service to register on the peer port.
func (n *Node) MembershipService() kvdpb.MembershipServer { return &membershipService{n: n} }

// Describe implements kvdpb.MembershipServer.
func (s *membershipService) Describe(ctx context.Context, req *kvdpb.MembershipRequest) (*kvdpb.MembershipResponse, error) {
	if !req.Local {
		// Whoever joins was added a moment ago, perhaps through another member.
		short, cancel := context.WithTimeout(ctx, 2*s.n.cfg.Election)
		defer cancel()
		if err := s.n.Barrier(short); err != nil {
			return nil, status.Errorf(codes.Unavailable, "kvd: the cluster's members are not known: %v", err)
		}
	}
	v := s.n.View()
	if !v.Initialized() {
		return nil, status.Error(codes.Unavailable, "kvd: the cluster has not begun yet")
	}
	return &kvdpb.MembershipResponse{ClusterId: v.ClusterID, Members: v.Members, Removed: v.RemovedMembers()}, nil
}

// CaughtUp implements kvdpb.PlacementServer.
func (s *service) CaughtUp(ctx context.Context, _ *kvdpb.CaughtUpRequest) (*kvdpb.CaughtUpResponse, error) {
	if err := s.n.Barrier(ctx); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &kvdpb.CaughtUpResponse{}, nil
}
