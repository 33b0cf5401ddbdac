package placement

import (
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Health is what one member sees of the others' connections. It decides whether
// a change of members is safe (--strict-reconfig-check), as etcd does.
type Health struct {
	Self uint64
	// Connected holds the members that are connected, and since when.
	Connected map[uint64]time.Time
	// HealthyBefore is the latest beginning of a connection that counts as healthy.
	HealthyBefore time.Time
}

// started counts the voting members and those of them that were ever started,
// which is when a member has a name. except is left out.
func started(members []*kvdpb.Member, except uint64) (voters, begun int) {
	for _, m := range members {
		if m.Learner || m.Id == except {
			continue
		}
		voters++
		if m.Name != "" {
			begun++
		}
	}
	return voters, begun
}

// healthy counts the voting members that have been connected for long enough.
func (h Health) healthy(members []*kvdpb.Member) int {
	n := 0
	for _, m := range members {
		since, connected := h.Connected[m.Id]
		if !m.Learner && (m.Id == h.Self || (connected && since.Before(h.HealthyBefore))) {
			n++
		}
	}
	return n
}

// MayAdd refuses a member whose coming would leave too few that run.
func (h Health) MayAdd(members []*kvdpb.Member, learner bool) error {
	voters, begun := started(members, 0)
	// A second member beside the only one is always let in.
	if alone := begun == 1 && voters == 1; !learner && !alone && begun < (voters+1)/2+1 {
		return rpctypes.ErrGRPCMemberNotEnoughStarted
	}
	if voters > 1 && h.healthy(members) < (voters+1)/2+1 {
		return rpctypes.ErrGRPCUnhealthy
	}
	return nil
}

// MayRemove refuses a removal after which too few would run.
func (h Health) MayRemove(members []*kvdpb.Member, id uint64) error {
	for _, m := range members {
		if m.Id == id && m.Learner {
			return nil
		}
	}
	left, begun := started(members, id)
	if begun < left/2+1 {
		return rpctypes.ErrGRPCMemberNotEnoughStarted
	}
	// A member that is down is part of no quorum.
	if _, connected := h.Connected[id]; !connected && id != h.Self {
		return nil
	}
	voters, _ := started(members, 0)
	if h.healthy(members)-1 < 1+(voters-1)/2 {
		return rpctypes.ErrGRPCUnhealthy
	}
	return nil
}

// MayPromote refuses a promotion that would leave too few voters that run.
func (h Health) MayPromote(members []*kvdpb.Member) error {
	voters, begun := started(members, 0)
	if begun+1 < (voters+1)/2+1 {
		return rpctypes.ErrGRPCMemberNotEnoughStarted
	}
	return nil
}
