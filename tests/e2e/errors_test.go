package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// testRequestErrors sends what etcd refuses and expects etcd's own codes and texts.
func testRequestErrors(t *testing.T, e *env, p string) {
	e.put(t, p+"a", "1")
	rev := e.revision(t)
	key := []byte(p + "a")
	ctx := within(t, patience)
	put := func(r *pb.PutRequest) func(context.Context) error {
		return func(ctx context.Context) error { _, err := e.kv().Put(ctx, r); return err }
	}
	rng := func(r *pb.RangeRequest) func(context.Context) error {
		return func(ctx context.Context) error { _, err := e.kv().Range(ctx, r); return err }
	}
	del := func(r *pb.DeleteRangeRequest) func(context.Context) error {
		return func(ctx context.Context) error { _, err := e.kv().DeleteRange(ctx, r); return err }
	}
	stream := func(r *pb.RangeRequest) func(context.Context) error {
		return func(ctx context.Context) error {
			s, err := e.kv().RangeStream(ctx, r)
			if err != nil {
				return err
			}
			_, err = s.Recv()
			return err
		}
	}
	compact := func(r *pb.CompactionRequest) func(context.Context) error {
		return func(ctx context.Context) error { _, err := e.kv().Compact(ctx, r); return err }
	}
	noSort := status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	noFilter := status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	for _, c := range []struct {
		name string
		call func(context.Context) error
		want error
	}{
		{"put without key", put(&pb.PutRequest{Value: []byte("v")}), rpctypes.ErrGRPCEmptyKey},
		{"put: ignore value, with value", put(&pb.PutRequest{Key: key, Value: []byte("v"), IgnoreValue: true}), rpctypes.ErrGRPCValueProvided},
		{"put: ignore lease, with lease", put(&pb.PutRequest{Key: key, Lease: 1, IgnoreLease: true}), rpctypes.ErrGRPCLeaseProvided},
		{"put: ignore value of no key", put(&pb.PutRequest{Key: []byte(p + "none"), IgnoreValue: true}), rpctypes.ErrGRPCKeyNotFound},
		{"put: ignore lease of no key", put(&pb.PutRequest{Key: []byte(p + "none"), IgnoreLease: true}), rpctypes.ErrGRPCKeyNotFound},
		{"put with a lease that is not there", put(&pb.PutRequest{Key: key, Lease: 123456}), rpctypes.ErrGRPCLeaseNotFound},
		{"range without key", rng(&pb.RangeRequest{}), rpctypes.ErrGRPCEmptyKey},
		{"range: unknown sort order", rng(&pb.RangeRequest{Key: key, SortOrder: 100}), rpctypes.ErrGRPCInvalidSortOption},
		{"range: unknown sort target", rng(&pb.RangeRequest{Key: key, SortTarget: 100}), rpctypes.ErrGRPCInvalidSortOption},
		{"range: future revision", rng(&pb.RangeRequest{Key: key, Revision: rev + 1000}), rpctypes.ErrGRPCFutureRev},
		{"stream without key", stream(&pb.RangeRequest{}), rpctypes.ErrGRPCEmptyKey},
		{"stream: unknown sort target", stream(&pb.RangeRequest{Key: key, SortTarget: 100}), rpctypes.ErrGRPCInvalidSortOption},
		{"stream: descending", stream(&pb.RangeRequest{Key: key, SortOrder: pb.RangeRequest_DESCEND}), noSort},
		{"stream: sorted by value", stream(&pb.RangeRequest{Key: key, SortTarget: pb.RangeRequest_VALUE, SortOrder: pb.RangeRequest_ASCEND}), noSort},
		{"stream: filter", stream(&pb.RangeRequest{Key: key, MinModRevision: 1}), noFilter},
		{"stream: filter by creation", stream(&pb.RangeRequest{Key: key, MaxCreateRevision: 1}), noFilter},
		{"stream: future revision", stream(&pb.RangeRequest{Key: key, Revision: rev + 1000}), rpctypes.ErrGRPCFutureRev},
		{"delete without key", del(&pb.DeleteRangeRequest{}), rpctypes.ErrGRPCEmptyKey},
		{"compaction of the future", compact(&pb.CompactionRequest{Revision: rev + 1000}), rpctypes.ErrGRPCFutureRev},
	} {
		wantStatus(t, c.name, c.call(ctx), c.want)
	}
	if got := e.revision(t); got != rev {
		t.Errorf("refused requests moved the revision from %d to %d", rev, got)
	}
}

func opPut(key, value string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

func opDelete(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
}

func opGet(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
}

func opTxn(t *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
}

func many(n int, f func(i int) *pb.RequestOp) []*pb.RequestOp {
	var ops []*pb.RequestOp
	for i := range n {
		ops = append(ops, f(i))
	}
	return ops
}

// testTxnErrors sends transactions that etcd refuses, and neighbours of them that it takes.
func testTxnErrors(t *testing.T, e *env, p string) {
	k := func(s string) string { return p + s }
	numbered := func(i int) *pb.RequestOp { return opPut(k(fmt.Sprintf("n%03d", i)), "v") }
	compares := func(n int) (cs []*pb.Compare) {
		for range n {
			cs = append(cs, &pb.Compare{Key: []byte(k("c")), Target: pb.Compare_VERSION, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Version{}})
		}
		return cs
	}
	nest := func(depth int, inner []*pb.RequestOp) *pb.TxnRequest {
		r := &pb.TxnRequest{Success: inner}
		for range depth {
			r = &pb.TxnRequest{Success: []*pb.RequestOp{opTxn(r)}}
		}
		return r
	}
	for _, c := range []struct {
		name string
		req  *pb.TxnRequest
		want error
	}{
		{"128 operations", &pb.TxnRequest{Success: many(128, numbered)}, nil},
		{"129 operations", &pb.TxnRequest{Success: many(129, numbered)}, rpctypes.ErrGRPCTooManyOps},
		{"129 operations in the other branch", &pb.TxnRequest{Failure: many(129, numbered)}, rpctypes.ErrGRPCTooManyOps},
		{"129 compares", &pb.TxnRequest{Compare: compares(129)}, rpctypes.ErrGRPCTooManyOps},
		{"128 of each", &pb.TxnRequest{Compare: compares(128), Success: many(128, numbered), Failure: many(128, numbered)}, nil},
		{"nested: what the outer leaves over", nest(1, many(127, numbered)), nil},
		{"nested: more than the outer leaves over", nest(1, many(128, numbered)), rpctypes.ErrGRPCTooManyOps},
		{"nested deeply: more than is left", nest(3, many(126, numbered)), rpctypes.ErrGRPCTooManyOps},
		{"compare without key", &pb.TxnRequest{Compare: []*pb.Compare{{}}}, rpctypes.ErrGRPCEmptyKey},
		{"put without key", &pb.TxnRequest{Success: []*pb.RequestOp{opPut("", "v")}}, rpctypes.ErrGRPCEmptyKey},
		{"put without key in the branch not taken", &pb.TxnRequest{Failure: []*pb.RequestOp{opPut("", "v")}}, rpctypes.ErrGRPCEmptyKey},
		{"range without key, nested", nest(2, []*pb.RequestOp{opGet("", "")}), rpctypes.ErrGRPCEmptyKey},
		{"delete without key", &pb.TxnRequest{Success: []*pb.RequestOp{opDelete("", "")}}, rpctypes.ErrGRPCEmptyKey},
		{"an empty operation", &pb.TxnRequest{Success: []*pb.RequestOp{{}}}, rpctypes.ErrGRPCKeyNotFound},
		{"ignore value of no key", &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k("none")), IgnoreValue: true}}}}}, rpctypes.ErrGRPCKeyNotFound},
		{"one key put twice", &pb.TxnRequest{Success: []*pb.RequestOp{opPut(k("a"), "1"), opPut(k("a"), "2")}}, rpctypes.ErrGRPCDuplicateKey},
		{"one key put in both branches", &pb.TxnRequest{Success: []*pb.RequestOp{opPut(k("a"), "1")}, Failure: []*pb.RequestOp{opPut(k("a"), "2")}}, nil},
		{"put in a deleted interval", &pb.TxnRequest{Success: []*pb.RequestOp{opDelete(k("a"), k("c")), opPut(k("b"), "1")}}, rpctypes.ErrGRPCDuplicateKey},
		{"put at the end of a deleted interval", &pb.TxnRequest{Success: []*pb.RequestOp{opDelete(k("a"), k("c")), opPut(k("c"), "1")}}, nil},
		{"put of a deleted key", &pb.TxnRequest{Success: []*pb.RequestOp{opPut(k("a"), "1"), opDelete(k("a"), "")}}, rpctypes.ErrGRPCDuplicateKey},
		{"overlapping deletes", &pb.TxnRequest{Success: []*pb.RequestOp{opDelete(k("a"), k("c")), opDelete(k("b"), k("d"))}}, nil},
		{"put outside and nested", &pb.TxnRequest{Success: []*pb.RequestOp{opPut(k("a"), "1"), opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut(k("a"), "2")}})}}, rpctypes.ErrGRPCDuplicateKey},
		{"put in two nested", &pb.TxnRequest{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut(k("a"), "1")}}), opTxn(&pb.TxnRequest{Failure: []*pb.RequestOp{opPut(k("a"), "2")}})}}, rpctypes.ErrGRPCDuplicateKey},
		{"put in both branches of one nested", &pb.TxnRequest{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut(k("a"), "1")}, Failure: []*pb.RequestOp{opPut(k("a"), "2")}})}}, nil},
		{"delete outside, put nested", &pb.TxnRequest{Success: []*pb.RequestOp{opDelete(k("a"), k("c")), opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut(k("b"), "2")}})}}, rpctypes.ErrGRPCDuplicateKey},
		{"delete nested, put outside", &pb.TxnRequest{Success: []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opDelete(k("a"), k("c"))}}), opPut(k("b"), "2")}}, rpctypes.ErrGRPCDuplicateKey},
		{"range of the future", &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(k("a")), Revision: 1 << 40}}}}}, rpctypes.ErrGRPCFutureRev},
		{"lease that is not there", &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k("a")), Lease: 123456}}}}}, rpctypes.ErrGRPCLeaseNotFound},
	} {
		before := e.revision(t)
		_, err := e.kv().Txn(within(t, patience), c.req)
		if c.want == nil {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		wantStatus(t, c.name, err, c.want)
		if after := e.revision(t); after != before {
			t.Errorf("%s: refused, but the revision went from %d to %d", c.name, before, after)
		}
	}
	if n := e.get(t, k("a"), clientRange(k("b"))).Count; n > 1 {
		t.Errorf("%d keys between a and b", n)
	}
}

// testOversizedRequests: over --max-request-bytes the server says so, far over it gRPC does, and nothing is lost by either.
func testOversizedRequests(t *testing.T, e *env, p string) {
	key := []byte(p + "big")
	value := func(n int) []byte { return []byte(strings.Repeat("x", n)) }
	ctx := within(t, patience)
	if _, err := e.kv().Put(ctx, &pb.PutRequest{Key: key, Value: value(1500 << 10)}); err != nil {
		t.Errorf("a value of 1500 KiB: %v", err)
	}
	before := e.revision(t)
	_, err := e.kv().Put(ctx, &pb.PutRequest{Key: key, Value: value(1600 << 10)})
	wantStatus(t, "a value of 1600 KiB", err, rpctypes.ErrGRPCRequestTooLarge)
	_, err = e.kv().Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{opPut(p+"b1", string(value(800<<10))), opPut(p+"b2", string(value(800<<10)))}})
	wantStatus(t, "two values of 800 KiB in a transaction", err, rpctypes.ErrGRPCRequestTooLarge)
	_, err = e.kv().Put(ctx, &pb.PutRequest{Key: key, Value: value(8 << 20)}, grpc.MaxCallSendMsgSize(16<<20))
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a value of 8 MiB: %v", err)
	}
	if got := e.get(t, p+"big"); got.Header.Revision != before || len(got.Kvs) != 1 || len(got.Kvs[0].Value) != 1500<<10 {
		t.Errorf("after refused puts: revision %d, was %d; %d keys", got.Header.Revision, before, len(got.Kvs))
	}
	e.del(t, p+"big")
}
