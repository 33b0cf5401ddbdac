package history

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Recorder sends requests and keeps what became of them. It may be used from many goroutines.
type Recorder struct {
	base time.Time

	mu struct {
		sync.Mutex
		operations []*Operation
		leases     []*LeaseCall
	}
}

// NewRecorder begins a history; its clock starts now.
func NewRecorder() *Recorder { return &Recorder{base: time.Now()} }

// Now is the time on the history's clock in nanoseconds.
func (r *Recorder) Now() int64 { return int64(time.Since(r.base)) }

// Operations is what was recorded so far.
func (r *Recorder) Operations() []*Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*Operation(nil), r.mu.operations...)
}

// Do sends one request through kv, which is a stock client's, and records it.
func (r *Recorder) Do(ctx context.Context, kv pb.KVClient, client int, member string, req Request) (*Operation, error) {
	op := &Operation{Client: client, Member: member, Request: req, Call: r.Now()}
	var err error
	switch {
	case req.Range != nil:
		op.Response.Range, err = kv.Range(ctx, req.Range)
	case req.Put != nil:
		op.Response.Put, err = kv.Put(ctx, req.Put)
	case req.Delete != nil:
		op.Response.Delete, err = kv.DeleteRange(ctx, req.Delete)
	case req.Txn != nil:
		op.Response.Txn, err = kv.Txn(ctx, req.Txn)
	default:
		op.Response.Compact, err = kv.Compact(ctx, req.Compact)
	}
	op.Return = r.Now()
	if err != nil {
		op.Response, op.Error = Response{}, err.Error()
		op.Outcome = Unknown
		if refused(err) || !req.writes() && req.Compact == nil {
			op.Outcome = Refused
		}
	}
	r.mu.Lock()
	r.mu.operations = append(r.mu.operations, op)
	r.mu.Unlock()
	return op, err
}

// refused tells whether an error says that nothing was done. Whatever is not known to say so leaves the fate open.
func refused(err error) bool {
	for _, e := range []error{
		rpctypes.ErrCompacted, rpctypes.ErrFutureRev, rpctypes.ErrEmptyKey, rpctypes.ErrDuplicateKey, rpctypes.ErrTooManyOps,
		rpctypes.ErrRequestTooLarge, rpctypes.ErrTooManyRequests, rpctypes.ErrNoSpace,
		rpctypes.ErrLeaseNotFound, rpctypes.ErrLeaseExist,
	} {
		if errors.Is(rpctypes.Error(err), e) {
			return true
		}
	}
	return IsUnimplemented(err)
}

// IsUnimplemented tells whether the server does not know how to do what was asked.
func IsUnimplemented(err error) bool { return status.Code(err) == codes.Unimplemented }
