package eval

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// Touch is a span that a request reads or may write.
type Touch struct {
	Span  keyspace.Span
	Write bool
}

// Spans lists what a request touches in any of its branches, in no order, for
// latches and for routing. Ranges at an old revision are listed as reads, since
// they must be routed, though they would need no latch. req is one of the four
// etcd request messages; any other touches nothing.
func Spans(req any) []Touch {
	switch r := req.(type) {
	case *pb.RangeRequest:
		return []Touch{{Span: keyspace.UserSpan(r.Key, r.RangeEnd)}}
	case *pb.PutRequest:
		return []Touch{{Span: keyspace.UserSpan(r.Key, nil), Write: true}}
	case *pb.DeleteRangeRequest:
		return []Touch{{Span: keyspace.UserSpan(r.Key, r.RangeEnd), Write: true}}
	case *pb.TxnRequest:
		return appendTxn(nil, r)
	}
	return nil
}

func appendTxn(touches []Touch, r *pb.TxnRequest) []Touch {
	for _, c := range r.Compare {
		touches = append(touches, Touch{Span: keyspace.UserSpan(c.Key, c.RangeEnd)})
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			switch o := op.Request.(type) {
			case *pb.RequestOp_RequestRange:
				touches = append(touches, Spans(o.RequestRange)...)
			case *pb.RequestOp_RequestPut:
				touches = append(touches, Spans(o.RequestPut)...)
			case *pb.RequestOp_RequestDeleteRange:
				touches = append(touches, Spans(o.RequestDeleteRange)...)
			case *pb.RequestOp_RequestTxn:
				touches = appendTxn(touches, o.RequestTxn)
			}
		}
	}
	return touches
}
