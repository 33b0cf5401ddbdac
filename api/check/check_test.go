package check

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

func put(k string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k)}}}
}

func del(k, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(k), RangeEnd: []byte(end)}}}
}

func get(k string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(k)}}}
}

func nest(then, otherwise []*pb.RequestOp) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: then, Failure: otherwise}}}
}

func ops(o ...*pb.RequestOp) []*pb.RequestOp { return o }

func TestSimpleRequests(t *testing.T) {
	k := []byte("k")
	for _, tc := range []struct {
		name string
		got  error
		want error
	}{
		{"range without key", Range(&pb.RangeRequest{}), rpctypes.ErrGRPCEmptyKey},
		{"nil range", Range(nil), rpctypes.ErrGRPCEmptyKey},
		{"range", Range(&pb.RangeRequest{Key: k, SortOrder: 2, SortTarget: 4}), nil},
		{"sort order", Range(&pb.RangeRequest{Key: k, SortOrder: 3}), rpctypes.ErrGRPCInvalidSortOption},
		{"sort order below", Range(&pb.RangeRequest{Key: k, SortOrder: -1}), rpctypes.ErrGRPCInvalidSortOption},
		{"sort target", Range(&pb.RangeRequest{Key: k, SortTarget: 5}), rpctypes.ErrGRPCInvalidSortOption},
		{"put without key", Put(&pb.PutRequest{}), rpctypes.ErrGRPCEmptyKey},
		{"put", Put(&pb.PutRequest{Key: k}), nil},
		{"ignored value given", Put(&pb.PutRequest{Key: k, Value: k, IgnoreValue: true}), rpctypes.ErrGRPCValueProvided},
		{"ignored lease given", Put(&pb.PutRequest{Key: k, Lease: 1, IgnoreLease: true}), rpctypes.ErrGRPCLeaseProvided},
		{"both ignored", Put(&pb.PutRequest{Key: k, IgnoreValue: true, IgnoreLease: true}), nil},
		{"delete without key", DeleteRange(&pb.DeleteRangeRequest{RangeEnd: k}), rpctypes.ErrGRPCEmptyKey},
		{"delete", DeleteRange(&pb.DeleteRangeRequest{Key: k}), nil},
		{"stream", RangeStream(&pb.RangeRequest{Key: k, SortOrder: pb.RangeRequest_ASCEND}), nil},
		{"stream in no order", RangeStream(&pb.RangeRequest{Key: k, SortTarget: pb.RangeRequest_VALUE}), nil},
		{"nil txn", Txn(nil, 1), rpctypes.ErrGRPCKeyNotFound},
	} {
		require.Equal(t, tc.want, tc.got, tc.name)
	}
	for _, r := range []*pb.RangeRequest{
		{Key: k, SortOrder: pb.RangeRequest_DESCEND},
		{Key: k, SortTarget: pb.RangeRequest_MOD, SortOrder: pb.RangeRequest_ASCEND},
		{Key: k, MinModRevision: 1}, {Key: k, MaxModRevision: 1}, {Key: k, MinCreateRevision: 1}, {Key: k, MaxCreateRevision: 1},
	} {
		require.Equal(t, codes.Unimplemented, status.Code(RangeStream(r)), "%v", r)
	}
}

func TestTxnOperationsAreCounted(t *testing.T) {
	many := func(n int) (o []*pb.RequestOp) {
		for i := range n {
			o = append(o, put(fmt.Sprint(i)))
		}
		return o
	}
	compares := func(n int) (c []*pb.Compare) {
		for range n {
			c = append(c, &pb.Compare{Key: []byte("k")})
		}
		return c
	}
	tooMany := rpctypes.ErrGRPCTooManyOps
	for _, tc := range []struct {
		name string
		txn  *pb.TxnRequest
		want error
	}{
		{"full", &pb.TxnRequest{Compare: compares(4), Success: many(4), Failure: many(4)}, nil},
		{"compares", &pb.TxnRequest{Compare: compares(5)}, tooMany},
		{"success", &pb.TxnRequest{Success: many(5)}, tooMany},
		{"failure", &pb.TxnRequest{Failure: many(5)}, tooMany},
		{"nested", &pb.TxnRequest{Success: ops(nest(many(3), many(2)))}, nil},
		{"nested shares what is left", &pb.TxnRequest{Success: ops(nest(many(4), nil))}, tooMany},
		{"nested twice", &pb.TxnRequest{Failure: ops(nest(nil, ops(nest(many(3), nil))))}, tooMany},
		{"compare without key", &pb.TxnRequest{Compare: []*pb.Compare{{}}}, rpctypes.ErrGRPCEmptyKey},
		{"nil compare", &pb.TxnRequest{Compare: []*pb.Compare{nil}}, rpctypes.ErrGRPCEmptyKey},
		{"put without key", &pb.TxnRequest{Failure: ops(put(""))}, rpctypes.ErrGRPCEmptyKey},
		{"range without key", &pb.TxnRequest{Failure: ops(get(""))}, rpctypes.ErrGRPCEmptyKey},
		{"delete without key", &pb.TxnRequest{Success: ops(nest(ops(del("", "")), nil))}, rpctypes.ErrGRPCEmptyKey},
		{"operation without content", &pb.TxnRequest{Success: ops(&pb.RequestOp{})}, rpctypes.ErrGRPCKeyNotFound},
		{"nil operation", &pb.TxnRequest{Success: ops(nil)}, rpctypes.ErrGRPCKeyNotFound},
		{"empty", &pb.TxnRequest{}, nil},
	} {
		require.Equal(t, tc.want, Txn(tc.txn, 4), tc.name)
	}
}

func TestOverlaps(t *testing.T) {
	dup := rpctypes.ErrGRPCDuplicateKey
	for _, tc := range []struct {
		name string
		ops  []*pb.RequestOp
		want error
	}{
		{"two keys", ops(put("a"), put("b")), nil},
		{"twice", ops(put("a"), put("a")), dup},
		{"put and delete", ops(put("a"), del("a", "")), dup},
		{"delete and put", ops(del("a", "c"), put("b")), dup},
		{"at the end of the interval", ops(del("a", "c"), put("c")), nil},
		{"to the end of the keys", ops(del("b", "\x00"), put("z")), dup},
		{"below it", ops(del("b", "\x00"), put("a")), nil},
		{"backward interval", ops(del("c", "a"), put("b")), nil},
		{"put and range", ops(put("a"), get("a")), nil},
		{"nested", ops(put("a"), nest(ops(put("a")), nil)), dup},
		{"nested other branch", ops(put("a"), nest(nil, ops(put("a")))), dup},
		{"exclusive branches", ops(nest(ops(put("a")), ops(put("a")))), nil},
		{"siblings", ops(nest(ops(put("a")), nil), nest(nil, ops(put("a")))), dup},
		{"nested put in an outer delete", ops(nest(ops(put("b")), nil), del("a", "c")), dup},
		{"outer put in a nested delete", ops(put("b"), nest(nil, ops(del("a", "c")))), dup},
		{"sibling put in an earlier nested delete", ops(nest(ops(del("a", "c")), nil), nest(ops(put("b")), nil)), dup},
		{"sibling put before a nested delete", ops(nest(ops(put("b")), nil), nest(ops(del("a", "c")), nil)), nil},
		{"inside a nested branch", ops(nest(nil, ops(put("a"), put("a")))), dup},
		{"deletes overlap", ops(del("a", "d"), del("b", "c"), del("b", "z")), nil},
	} {
		require.Equal(t, tc.want, Txn(&pb.TxnRequest{Success: tc.ops}, 10), tc.name)
		require.Equal(t, tc.want, Txn(&pb.TxnRequest{Failure: tc.ops}, 10), tc.name)
	}
}

// TestIntervalsAgainstList compares the set with a list that is searched.
func TestIntervalsAgainstList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringMatching("[a-e]{1,2}")
		var s intervals
		var list [][2]string
		for range rapid.IntRange(0, 40).Draw(t, "n") {
			k := key.Draw(t, "key")
			end := rapid.OneOf(rapid.Just(""), rapid.Just("\x00"), key).Draw(t, "end")
			list = append(list, [2]string{k, end})
			if rapid.Bool().Draw(t, "joined") {
				var o intervals
				o.add([]byte(k), []byte(end))
				s.join(o)
			} else {
				s.add([]byte(k), []byte(end))
			}
		}
		for range 20 {
			k := key.Draw(t, "asked")
			want := false
			for _, iv := range list {
				switch iv[1] {
				case "":
					want = want || k == iv[0]
				case "\x00":
					want = want || k >= iv[0]
				default:
					want = want || (k >= iv[0] && k < iv[1])
				}
			}
			if got := s.holds(k); got != want {
				t.Fatalf("%q in %q: %v", k, list, got)
			}
		}
	})
}

func TestReadOnly(t *testing.T) {
	require.True(t, ReadOnly(&pb.TxnRequest{Success: ops(get("a")), Failure: ops(get("b"))}))
	require.False(t, ReadOnly(&pb.TxnRequest{Failure: ops(put("b"))}))
	require.False(t, ReadOnly(&pb.TxnRequest{Success: ops(nest(ops(get("a")), nil))}))
}

func FuzzTxn(f *testing.F) {
	b, _ := proto.Marshal(&pb.TxnRequest{Success: ops(put("a"), nest(ops(del("a", "b")), ops(put("c")))), Compare: []*pb.Compare{{Key: []byte("k")}}})
	f.Add(b)
	f.Add(bytes.Repeat([]byte{0x12, 0}, 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r pb.TxnRequest
		if proto.Unmarshal(b, &r) == nil {
			_ = Txn(&r, 128)
			_ = ReadOnly(&r)
		}
	})
}
