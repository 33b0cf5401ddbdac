package placement

import (
	"context"
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// RejectedError says that a command was refused by the replicated state, on all
// replicas alike.
type RejectedError struct {
	Rejection kvdpb.PlacementResult_Rejection
	Reason    string
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("placement refused (%s): %s", e.Rejection, e.Reason)
}

// Update has the owner of the placement group, wherever it is, apply a change of
// descriptors, members or settings, and returns what came of it; a rejection is
// a *RejectedError, together with the result. When it returns, the change is in
// force for every answer of the sequencer to a message sent after that.
//
// It tries until ctx ends. All commands that it takes may be sent twice: a split
// is known by its parent, generation and key. The outcome is unknown if ctx ends.
func (n *Node) Update(ctx context.Context, cmd *kvdpb.PlacementCommand) (*kvdpb.PlacementResult, error) {
	res, _, err := n.update(ctx, cmd)
	return res, err
}

// update is Update that also tells whether the command may have applied before
// the try whose result it returns.
func (n *Node) update(ctx context.Context, cmd *kvdpb.PlacementCommand) (res *kvdpb.PlacementResult, repeated bool, err error) {
	if err := updatable(cmd); err != nil {
		return nil, false, err
	}
	var doubt bool
	err = n.retry(ctx, func(ctx context.Context) (bool, error) {
		repeated = doubt
		var again bool
		var err error
		res, again, err = n.updateOnce(ctx, cmd)
		doubt = doubt || again
		if err != nil {
			return false, err
		}
		return true, nil
	})
	if err != nil {
		return nil, repeated, fmt.Errorf("placement: update: %w", err)
	}
	if r := res.GetRejection(); r != kvdpb.PlacementResult_NONE {
		return res, repeated, &RejectedError{r, res.GetReason()}
	}
	return res, repeated, nil
}

// updatable refuses commands that only the owner's tenure may propose.
func updatable(cmd *kvdpb.PlacementCommand) error {
	switch cmd.GetCommand().(type) {
	case *kvdpb.PlacementCommand_Compact, *kvdpb.PlacementCommand_UpdateMember, *kvdpb.PlacementCommand_BeginSplit,
		*kvdpb.PlacementCommand_ConfirmSeed, *kvdpb.PlacementCommand_AbortSplit, *kvdpb.PlacementCommand_Auth,
		*kvdpb.PlacementCommand_RaiseAlarm, *kvdpb.PlacementCommand_ClearAlarm, *kvdpb.PlacementCommand_Downgrade:
		return nil
	}
	if elasticCommand(cmd) {
		return nil
	}
	return &RejectedError{kvdpb.PlacementResult_INVALID, "not a command that a member may ask for"}
}

// updateOnce tries once, here or at the owner's member. On an error, doubt tells
// whether the command may still apply.
func (n *Node) updateOnce(ctx context.Context, cmd *kvdpb.PlacementCommand) (res *kvdpb.PlacementResult, doubt bool, err error) {
	member := n.SequencerMember()
	switch member {
	case 0:
		return nil, false, ownership.ErrNoSequencer
	case n.cfg.Member:
		return n.updateHere(ctx, cmd)
	}
	conn, err := n.cfg.Conn(member)
	if err != nil {
		return nil, false, fmt.Errorf("connect to the owner on member %016x: %w", member, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*n.cfg.Election)
	defer cancel()
	res, err = kvdpb.NewPlacementClient(conn).Update(ctx, cmd)
	if err != nil {
		return nil, true, fmt.Errorf("ask the owner on member %016x: %w", member, err)
	}
	if res.GetRejection() == kvdpb.PlacementResult_DEPOSED {
		return nil, false, fmt.Errorf("member %016x is not the owner: %s", member, res.GetReason())
	}
	return res, false, nil
}

var errDeposed = errors.New("the local replica does not own the placement group or does not serve")

// updateHere proposes a command as the owner.
func (n *Node) updateHere(ctx context.Context, cmd *kvdpb.PlacementCommand) (res *kvdpb.PlacementResult, doubt bool, err error) {
	own := n.View().Ownership
	if !n.owns(own) || !own.Serving {
		return nil, false, errDeposed
	}
	cmd = proto.CloneOf(cmd)
	cmd.Epoch = own.Epoch
	ctx, cancel := context.WithTimeout(ctx, 2*n.cfg.Election)
	defer cancel()
	out := n.proposeIn(ctx, cmd)
	switch {
	case out.Fate == Unknown:
		return nil, true, fmt.Errorf("the outcome of the command is unknown: %w", out.Err)
	case out.Fate == NotAppended:
		return nil, false, out.Err
	case out.Result.GetRejection() == kvdpb.PlacementResult_DEPOSED:
		return nil, false, errDeposed
	}
	return out.Result, false, nil
}

// service serves Update to other members. It never passes a command on: the
// caller finds the owner itself.
type service struct {
	kvdpb.UnimplementedPlacementServer
	n *Node
}

// Service is the gRPC service to register on the peer port.
func (n *Node) Service() kvdpb.PlacementServer { return &service{n: n} }

// Update implements kvdpb.PlacementServer. An error of the call leaves the
// outcome unknown; the rejection DEPOSED says that there was no effect.
func (s *service) Update(ctx context.Context, cmd *kvdpb.PlacementCommand) (*kvdpb.PlacementResult, error) {
	if err := updatable(cmd); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	res, doubt, err := s.n.updateHere(ctx, cmd)
	switch {
	case err == nil:
		return res, nil
	case doubt:
		return nil, status.Error(codes.Aborted, err.Error())
	}
	return &kvdpb.PlacementResult{Rejection: kvdpb.PlacementResult_DEPOSED, Reason: err.Error()}, nil
}

// Compact makes revision the lowest that can be read. It answers the current
// revision, or etcd's errors for a revision that is compacted or in the future.
// When it returns, no request that starts later reads below revision.
func (n *Node) Compact(ctx context.Context, revision int64) (current int64, err error) {
	g, err := n.Current(ctx)
	if err != nil {
		return 0, err
	}
	switch {
	case revision > g.First:
		return 0, rpctypes.ErrGRPCFutureRev
	case revision <= g.Stamp.CompactRevision:
		return 0, rpctypes.ErrGRPCCompacted
	}
	res, repeated, err := n.update(ctx, command(&kvdpb.CompactHistory{Revision: revision}))
	if res.GetRejection() == kvdpb.PlacementResult_COMPACTED {
		if repeated && res.GetCompactRevision() == revision {
			// Most likely an earlier try of this very call.
			return g.First, nil
		}
		return 0, rpctypes.ErrGRPCCompacted
	}
	return g.First, err
}

// UpdateSelf publishes this member's name and client URLs.
func (n *Node) UpdateSelf(ctx context.Context, name string, clientURLs []string) error {
	m := &kvdpb.Member{Id: n.cfg.Member, Name: name, ClientUrls: clientURLs}
	_, err := n.Update(ctx, command(&kvdpb.UpdateMember{Member: m}))
	return err
}

// BeginSplit reserves a child of parent that begins at key.
func (n *Node) BeginSplit(ctx context.Context, parent, generation uint64, key []byte) (*kvdpb.Descriptor, error) {
	res, err := n.Update(ctx, command(&kvdpb.BeginSplit{Parent: parent, Generation: generation, Key: key}))
	return res.GetDescriptor_(), err
}

// ConfirmSeed says that this member holds a durable seed of the child.
func (n *Node) ConfirmSeed(ctx context.Context, child uint64) (*kvdpb.Descriptor, error) {
	res, err := n.Update(ctx, command(&kvdpb.ConfirmSeed{Child: child, Member: n.cfg.Member}))
	return res.GetDescriptor_(), err
}

// AbortSplit gives up a child that can have no seed.
func (n *Node) AbortSplit(ctx context.Context, child uint64) error {
	_, err := n.Update(ctx, command(&kvdpb.AbortSplit{Child: child}))
	return err
}
