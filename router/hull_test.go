package router

import (
	"bytes"
	"testing"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard/eval"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"pgregory.net/rapid"
)

func drawTxn(t *rapid.T, depth int) *pb.TxnRequest {
	key := rapid.SliceOfN(rapid.ByteRange(0, 3), 1, 3)
	end := rapid.OneOf(key, rapid.Just([]byte(nil)), rapid.Just([]byte{0}))
	branch := func(name string) (ops []*pb.RequestOp) {
		for range rapid.IntRange(0, 2).Draw(t, name) {
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0:
				ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key.Draw(t, "k"), RangeEnd: end.Draw(t, "e")}}})
			case 1:
				ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key.Draw(t, "k")}}})
			case 2:
				ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key.Draw(t, "k"), RangeEnd: end.Draw(t, "e")}}})
			case 3:
				if depth > 0 {
					ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: drawTxn(t, depth-1)}})
				}
			}
		}
		return ops
	}
	txn := &pb.TxnRequest{Success: branch("success"), Failure: branch("failure")}
	for range rapid.IntRange(0, 2).Draw(t, "compares") {
		txn.Compare = append(txn.Compare, &pb.Compare{Key: key.Draw(t, "k"), RangeEnd: end.Draw(t, "e")})
	}
	return txn
}

// TestHullAgainstSpans compares the hull with the union of what package eval
// says is touched.
func TestHullAgainstSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		txn := drawTxn(t, 2)
		var h hull
		h.txn(txn)
		var want keyspace.Span
		writes, found := false, false
		for _, touch := range eval.Spans(txn) {
			s := touch.Span
			if s.Empty() {
				s = keyspace.Key(s.Start)
			}
			writes = writes || touch.Write
			if !found || bytes.Compare(s.Start, want.Start) < 0 {
				want.Start = s.Start
			}
			if !found || bytes.Compare(s.End, want.End) > 0 {
				want.End = s.End
			}
			found = true
		}
		if h.any != found || h.writes != writes {
			t.Fatalf("%v: %+v", txn, h)
		}
		if !found {
			return
		}
		if got, _ := h.span(nil); !bytes.Equal(got.Start, want.Start) || !bytes.Equal(got.End, want.End) {
			t.Fatalf("%v: hull %v, want %v", txn, got, want)
		}
	})
}

func TestHullDoesNotAllocate(t *testing.T) {
	k := []byte("key")
	txn := &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: k}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: k}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: k}}}},
	}
	buf := make([]byte, 64)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		var h hull
		h.txn(txn)
		_, buf = h.span(buf)
	}))
}
