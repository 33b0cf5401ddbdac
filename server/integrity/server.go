package integrity

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// Register serves the questions of other members on the peer port.
func (c *Checker) Register(s grpc.ServiceRegistrar) {
	kvdpb.RegisterIntegrityServer(s, &server{c: c, slots: make(chan struct{}, maxHashing)})
}

// maxHashing bounds the copies that are hashed at a time for others.
const maxHashing = 2

type server struct {
	kvdpb.UnimplementedIntegrityServer
	c     *Checker
	slots chan struct{}
}

// Hash implements kvdpb.IntegrityServer.
func (s *server) Hash(ctx context.Context, call *kvdpb.HashCall) (*kvdpb.HashAnswer, error) {
	r, ok := s.c.cfg.Replicas.Replica(call.Shard)
	if !ok {
		return nil, status.Error(codes.NotFound, "kvd: "+errNoReplica.Error())
	}
	if call.Revision < 0 {
		return nil, status.Error(codes.InvalidArgument, "kvd: hash at a negative revision")
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	view, err := r.Copy(ctx, call.Generation, call.Applied, call.Revision)
	if err != nil {
		return nil, answerError(err)
	}
	defer view.Close()
	if call.Revision > view.Revision() {
		return nil, status.Error(codes.FailedPrecondition, "kvd: hash at a revision above the copy's")
	}
	answer, err := hashOf(ctx, view, call.Revision)
	if err != nil {
		return nil, answerError(err)
	}
	return answer, nil
}

// answerError gives an error a code that says whether asking again makes sense.
func answerError(err error) error {
	code := codes.Unavailable
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, shard.ErrStaleCopy):
		code = codes.FailedPrecondition
	}
	return status.Error(code, "kvd: "+err.Error())
}
