package check

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Range checks a range request.
func Range(r *pb.RangeRequest) error {
	switch {
	case r == nil || len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.SortOrder < pb.RangeRequest_NONE || r.SortOrder > pb.RangeRequest_DESCEND,
		r.SortTarget < pb.RangeRequest_KEY || r.SortTarget > pb.RangeRequest_VALUE:
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

// RangeStream checks a range whose answer is to be streamed: in key order,
// without revision filters.
func RangeStream(r *pb.RangeRequest) error {
	if err := Range(r); err != nil {
		return err
	}
	if r.SortOrder != pb.RangeRequest_NONE && (r.SortTarget != pb.RangeRequest_KEY || r.SortOrder != pb.RangeRequest_ASCEND) {
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	}
	if r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0 {
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	return nil
}

// Put checks a put request.
func Put(r *pb.PutRequest) error {
	switch {
	case r == nil || len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

// DeleteRange checks a delete request.
func DeleteRange(r *pb.DeleteRangeRequest) error {
	if r == nil || len(r.Key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// Txn checks a transaction of at most maxOps operations: at each level the
// largest of compares, success and failure counts, and nested levels share what
// is left.
func Txn(r *pb.TxnRequest, maxOps int) error {
	if err := txnOps(r, maxOps); err != nil {
		return err
	}
	// One put needs no look for overlaps.
	if len(r.Success) > 1 || nests(r.Success) {
		if _, err := branch(r.Success); err != nil {
			return err
		}
	}
	if len(r.Failure) > 1 || nests(r.Failure) {
		if _, err := branch(r.Failure); err != nil {
			return err
		}
	}
	return nil
}

func nests(ops []*pb.RequestOp) bool {
	for _, op := range ops {
		if op.GetRequestTxn() != nil {
			return true
		}
	}
	return false
}

func txnOps(r *pb.TxnRequest, maxOps int) error {
	if r == nil {
		return rpctypes.ErrGRPCKeyNotFound
	}
	ops := max(len(r.Compare), len(r.Success), len(r.Failure))
	if ops > maxOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, branch := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if err := requestOp(op, maxOps-ops); err != nil {
				return err
			}
		}
	}
	return nil
}

func requestOp(op *pb.RequestOp, maxOps int) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return Range(o.RequestRange)
	case *pb.RequestOp_RequestPut:
		return Put(o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return DeleteRange(o.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return txnOps(o.RequestTxn, maxOps)
	}
	// etcd's text for an operation without content.
	return rpctypes.ErrGRPCKeyNotFound
}

// ReadOnly tells whether a transaction consists of nothing but ranges, which
// etcd does not hold to the size limit of writes.
func ReadOnly(r *pb.TxnRequest) bool {
	for _, branch := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if op.GetRequestRange() == nil {
				return false
			}
		}
	}
	return true
}

// Puts tells whether a transaction puts a key, in whichever branch.
func Puts(r *pb.TxnRequest) bool { return anyPut(r.GetSuccess()) || anyPut(r.GetFailure()) }

func anyPut(ops []*pb.RequestOp) bool {
	for _, op := range ops {
		if op.GetRequestPut() != nil {
			return true
		}
		if nested := op.GetRequestTxn(); nested != nil && Puts(nested) {
			return true
		}
	}
	return false
}
