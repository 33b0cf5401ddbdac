package router

import (
	"context"
	"fmt"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Lease carries a step about a client lease to the owner of the shard that holds
// an encoded key, through stale routes and waits. Steps may be repeated, so one
// whose answer was lost is taken again; unsure tells that this happened. It
// changes call.
func (r *Router) Lease(ctx context.Context, key []byte, call *kvdpb.LeaseCall) (answer *kvdpb.LeaseAnswer, unsure bool, err error) {
	f := r.takeFlight()
	defer r.putFlight(f)
	bounded, cancel := context.WithDeadline(ctx, f.began.Add(r.cfg.RequestTimeout))
	defer cancel()
	lessons := 0
	for attempt := 0; ; attempt++ {
		d := r.routes.lookup(key)
		if d == nil {
			err = errNoRoute
		} else {
			answer, err = r.tryLease(bounded, d, call, attempt)
		}
		if err == nil {
			return answer, unsure, nil
		}
		switch judge(err) {
		case final:
			if bounded.Err() != nil && ctx.Err() == nil {
				err = errTimeout
			}
			return answer, unsure, clientError(err)
		case unknown:
			unsure = true
		case stale:
			if r.learnFrom(err) {
				if lessons++; lessons <= maxLessons {
					continue
				}
			}
		}
		if err := r.pause(ctx, f, d, attempt, err); err != nil {
			return nil, unsure, clientError(err)
		}
	}
}

// tryLease takes a step once. With an error of a lease's own the answer may tell a revision.
func (r *Router) tryLease(ctx context.Context, d *kvdpb.Descriptor, call *kvdpb.LeaseCall, attempt int) (*kvdpb.LeaseAnswer, error) {
	local, member, err := r.target(d, attempt)
	if err != nil {
		return nil, err
	}
	if local != nil {
		return local.Lease(ctx, call)
	}
	conn, err := r.cfg.Mesh.Conn(member)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoRoute, err)
	}
	call.Shard = d.Shard
	answer, err := kvdpb.NewLeasesClient(conn).Call(ctx, call)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// Whether it reached the owner is not known.
		return nil, fmt.Errorf("%w: %w", errConnectionLost, err)
	}
	if len(answer.Failure) == 0 {
		return answer, nil
	}
	in := frameReader{b: answer.Failure[1:]}
	if err = in.error(answer.Failure[0]); err == nil || in.bad {
		return nil, fmt.Errorf("member %016x: %w", member, errFrame)
	}
	return answer, ownContext(err)
}

// leaseServer serves the steps that other members send.
type leaseServer struct {
	kvdpb.UnimplementedLeasesServer
	r *Router
}

// Call implements kvdpb.LeasesServer.
func (s *leaseServer) Call(ctx context.Context, call *kvdpb.LeaseCall) (*kvdpb.LeaseAnswer, error) {
	if call.GetStep() == nil {
		return nil, status.Error(codes.InvalidArgument, "kvd: no step about a lease")
	}
	var answer *kvdpb.LeaseAnswer
	err := errNoReplica
	if rep, ok := s.r.cfg.Replicas.Replica(call.Shard); ok {
		answer, err = rep.Lease(ctx, call)
	}
	if err == nil {
		return answer, nil
	}
	failed := &kvdpb.LeaseAnswer{Failure: appendError(nil, err)}
	if answer != nil {
		failed = proto.Clone(answer).(*kvdpb.LeaseAnswer)
		failed.Failure = appendError(nil, err)
	}
	return failed, nil
}
