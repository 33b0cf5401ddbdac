package placement

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// OnLeader tells that the local replica's view of who leads the group may have
// changed. It does not block.
func (n *Node) OnLeader() {
	if st := n.standing.Load(); st != nil {
		if leader, term := n.cfg.Raft.Leader(); leader != n.cfg.Replica || term != st.term {
			st.cancel()
		}
	}
	n.tend.ring()
}

// standing is a proposal that was made as the leader of a term. When the term is
// over its fate may stay unknown for long, and nobody should wait for that.
type standing struct {
	term   uint64
	cancel context.CancelFunc
}

// runTenure makes this member the owner of the group whenever its replica leads
// it, and takes an ownership from its claim to Serving.
//
// It looks at the applied state and at raft's leader anew at each step, so that
// it does not matter how it came to be where it is: a claim of unknown fate, one
// that a former leader got through late, or one that lost against another.
func (n *Node) runTenure() {
	p := newPause(soon, later)
	defer p.stop()
	var again <-chan time.Time
	last := ""
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.tend:
		case <-again:
		}
		switch wait, err := n.step(); {
		case err != nil:
			if text := err.Error(); text != last {
				n.log.Info("placement: the ownership is not taken yet", zap.Error(err))
				last = text
			}
			again = p.after()
		default:
			last = ""
			p.reset()
			again = p.in(wait)
		}
	}
}

// step does the next thing that the ownership needs. It returns how long to wait
// before the next step; zero means until there is news.
func (n *Node) step() (time.Duration, error) {
	v := n.View()
	own := v.Ownership
	if n.owns(own) {
		remaining, ph := n.seq.waitOut(own.Epoch)
		switch {
		case ph == claimed && remaining > 0:
			return remaining, nil
		case ph == claimed:
			return 0, n.serve(v)
		case ph != closed:
			return 0, nil
		}
		// The epoch was closed for a release that never got through: this process
		// may serve again only in a new one.
	}
	if n.leaving.stage() != staying || n.hold.Load() {
		return 0, nil
	}
	leader, _ := n.cfg.Raft.Leader()
	switch {
	case leader == n.cfg.Replica:
		return 0, n.claim(v)
	case own.Released && own.Epoch != 0 && n.takeOver.Load() == own.Epoch:
		// The one who released asked this member to lead, and its release is
		// applied here. A leader's own hand-over would be lost if it came before.
		if err := n.cfg.Raft.Campaign(); err != nil {
			return 0, fmt.Errorf("campaign: %w", err)
		}
		return n.campaigned(own.Epoch), nil
	}
	return 0, nil
}

const (
	// firstCampaign is how long the first campaign has: raft ignores one that comes
	// before it knows that the state machine has applied all that is committed.
	// Later ones have longer, because a campaign that is repeated before the votes
	// are back defeats itself.
	firstCampaign = 3 * time.Millisecond
	maxCampaigns  = 7
)

// campaigned counts a campaign to succeed an epoch. It returns how long to wait
// for its outcome; zero once this member has tried often enough.
func (n *Node) campaigned(epoch uint64) time.Duration {
	if n.campaigns.epoch != epoch {
		n.campaigns.epoch, n.campaigns.count = epoch, 0
	}
	n.campaigns.count++
	if n.campaigns.count > maxCampaigns {
		n.takeOver.Store(0)
		return 0
	}
	return firstCampaign << (n.campaigns.count - 1)
}

// claim proposes the first entry, if there is none yet, and a claim.
func (n *Node) claim(v *View) error {
	if !v.Initialized() {
		if n.cfg.Init == nil {
			return fmt.Errorf("this member leads a group without a first entry and has none to propose")
		}
		if out := n.stand(command(n.cfg.Init)); !out.ok() {
			return n.failed("first entry", out)
		}
	}
	out := n.stand(command(&kvdpb.Claim{
		PreviousEpoch: v.Ownership.Epoch,
		Member:        n.cfg.Member,
		Replica:       n.cfg.Replica,
		Incarnation:   n.cfg.Incarnation,
	}))
	if !out.ok() {
		return n.failed("claim", out)
	}
	n.stats.Claims.Add(1)
	return nil
}

// serve logs Serving. The window stays closed until a revision is asked for.
func (n *Node) serve(v *View) error {
	begin := n.cfg.Clock()
	out := n.stand(command(&kvdpb.PlacementServing{Epoch: v.Ownership.Epoch, WindowEnd: v.WindowEnd}))
	if !out.ok() {
		return n.failed("serving", out)
	}
	n.seq.proposed(v.Ownership.Epoch, begin)
	n.log.Info("placement: this member is the sequencer",
		zap.Uint64("epoch", v.Ownership.Epoch), zap.Int64("next_revision", v.WindowEnd), zap.Bool("waited", v.Ownership.MustWait))
	return nil
}

func (n *Node) failed(what string, out Proposed) error {
	n.stats.Rejected.Add(1)
	if out.Fate == Applied {
		return fmt.Errorf("%s was rejected: %s", what, out.Result.GetReason())
	}
	return fmt.Errorf("%s did not get through: %w", what, out.Err)
}

// stand proposes a command of the tenure and waits for its fate as long as the
// term lasts.
func (n *Node) stand(cmd *kvdpb.PlacementCommand) Proposed {
	ctx, cancel := context.WithTimeout(n.ctx, 2*n.cfg.Election)
	defer cancel()
	_, term := n.cfg.Raft.Leader()
	n.standing.Store(&standing{term, cancel})
	defer n.standing.Store(nil)
	// The term may have ended before it was noted.
	if leader, now := n.cfg.Raft.Leader(); leader != n.cfg.Replica || now != term {
		return Proposed{Fate: NotAppended, Err: errors.New("the term has ended")}
	}
	return n.proposeIn(ctx, cmd)
}

// propose proposes a command and waits for its fate, but not for ever.
func (n *Node) propose(cmd *kvdpb.PlacementCommand) Proposed {
	ctx, cancel := context.WithTimeout(n.ctx, 2*n.cfg.Election)
	defer cancel()
	return n.proposeIn(ctx, cmd)
}

func (n *Node) proposeIn(ctx context.Context, cmd *kvdpb.PlacementCommand) Proposed {
	b, err := proto.Marshal(cmd)
	if err != nil {
		return Proposed{Fate: NotAppended, Err: fmt.Errorf("encode command: %w", err)}
	}
	return n.cfg.Raft.Propose(ctx, b)
}

// command wraps one of the commands that a node proposes on its own account.
func command(c any) *kvdpb.PlacementCommand {
	switch c := c.(type) {
	case *kvdpb.PlacementInit:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_Init{Init: c}}
	case *kvdpb.Claim:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_Claim{Claim: c}}
	case *kvdpb.PlacementServing:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_Serving{Serving: c}}
	case *kvdpb.PlacementRelease:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_Release{Release: c}}
	case *kvdpb.ExtendWindow:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_ExtendWindow{ExtendWindow: c}}
	case *kvdpb.CompactHistory:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_Compact{Compact: c}}
	case *kvdpb.UpdateMember:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_UpdateMember{UpdateMember: c}}
	case *kvdpb.BeginSplit:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_BeginSplit{BeginSplit: c}}
	case *kvdpb.ConfirmSeed:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_ConfirmSeed{ConfirmSeed: c}}
	case *kvdpb.AbortSplit:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_AbortSplit{AbortSplit: c}}
	case *kvdpb.AuthCommand:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_Auth{Auth: c}}
	case *kvdpb.RaiseAlarm:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_RaiseAlarm{RaiseAlarm: c}}
	case *kvdpb.ClearAlarm:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_ClearAlarm{ClearAlarm: c}}
	case *kvdpb.RebuildReplica:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_RebuildReplica{RebuildReplica: c}}
	case *kvdpb.Downgrade:
		return &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_Downgrade{Downgrade: c}}
	}
	return &kvdpb.PlacementCommand{}
}
