package router

import (
	"context"
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/ownership"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	// errConnectionLost: the connection broke while a request was in flight on it.
	errConnectionLost = errors.New("the connection to the owner was lost")
	// errNoRoute: no range map is known yet, or no owner of the shard.
	errNoRoute = errors.New("no owner is known")
	// errTooLarge: the answer is too large for the request channel.
	errTooLarge = errors.New("the answer is too large for the request channel")
	// errTimeout: the server's own limit for a request has passed.
	errTimeout = errors.New("request timeout")
	// errNoReplica: the member that was asked has no running replica of the shard.
	errNoReplica = errors.New("the member has no replica of the shard")
	// errClosed: the router was closed.
	errClosed = errors.New("router is closed")
)

// verdict is what an error means for the request that met it.
type verdict int

const (
	// final: the client is told.
	final verdict = iota
	// stale: the route was wrong; the error says better.
	stale
	// later: nothing was written and the shard cannot serve now.
	later
	// unknown: the request may have been carried out.
	unknown
)

// judge tells what an error of a shard or of the way to it means. What nobody
// knows counts as final: for a write it may mean anything.
func judge(err error) verdict {
	var notOwner *shard.NotOwnerError
	var wrongRange *shard.WrongRangeError
	var ambiguous *shard.AmbiguousError
	var notServing *ownership.ErrNotServing
	switch {
	case errors.As(err, &ambiguous), errors.Is(err, errConnectionLost):
		return unknown
	case errors.As(err, &wrongRange), errors.As(err, &notOwner):
		return stale
	case errors.Is(err, shard.ErrSpanMoving), errors.Is(err, shard.ErrClosed), errors.Is(err, errNoRoute),
		errors.Is(err, errNoReplica), errors.Is(err, peer.ErrNotConnected), errors.As(err, &notServing),
		errors.Is(err, ownership.ErrNoSequencer):
		return later
	}
	return final
}

// clientError gives an error the code and text that a client of etcd knows.
func clientError(err error) error {
	if err == nil {
		return nil
	}
	// A status, such as all of rpctypes' errors, says it all; clients compare its
	// text, so what it was wrapped in is left out.
	var st interface{ GRPCStatus() *status.Status }
	if errors.As(err, &st) {
		return st.GRPCStatus().Err()
	}
	var ambiguous *shard.AmbiguousError
	var etcd rpctypes.EtcdError
	switch {
	case errors.As(err, &etcd):
		return status.Error(etcd.Code(), etcd.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, errConnectionLost):
		return rpctypes.ErrGRPCTimeoutDueToConnectionLost
	case errors.As(err, &ambiguous):
		return rpctypes.ErrGRPCTimeoutDueToLeaderFail
	case errors.Is(err, errTimeout):
		return rpctypes.ErrGRPCTimeout
	case errors.Is(err, peer.ErrBacklog):
		return rpctypes.ErrGRPCRequestTooManyRequests
	case errors.Is(err, mvcc.ErrCompacted):
		return rpctypes.ErrGRPCCompacted
	case errors.Is(err, mvcc.ErrFutureRevision):
		return rpctypes.ErrGRPCFutureRev
	case errors.Is(err, errClosed), errors.Is(err, shard.ErrClosed), errors.Is(err, peer.ErrClosed):
		return rpctypes.ErrGRPCStopped
	case errors.Is(err, ownership.ErrNoSequencer), errors.Is(err, errNoRoute):
		return rpctypes.ErrGRPCNoLeader
	}
	return status.Error(codes.Unknown, fmt.Sprintf("kvd: %v", err))
}

// endOf is the error of a request whose own time is over, given what it waited
// for last.
func endOf(cause error) error {
	if cause == nil {
		return errTimeout
	}
	return fmt.Errorf("%w: %w", errTimeout, cause)
}
