package history

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// Outcome is what a client knows of its request afterwards.
type Outcome int

const (
	// Answered: there is a response.
	Answered Outcome = iota
	// Refused: the error says that nothing was done.
	Refused
	// Unknown: a write may have happened, at any time from its call on.
	Unknown
)

// Request is one request; exactly one field is set.
type Request struct {
	Range   *pb.RangeRequest       `json:",omitempty"`
	Put     *pb.PutRequest         `json:",omitempty"`
	Delete  *pb.DeleteRangeRequest `json:",omitempty"`
	Txn     *pb.TxnRequest         `json:",omitempty"`
	Compact *pb.CompactionRequest  `json:",omitempty"`
	// Revoke ends a lease: its keys are deleted together. No client sends it as an operation; see LeaseCall.
	Revoke *pb.LeaseRevokeRequest `json:",omitempty"`
}

// Response is the answer to a request: the field of the same name is set.
type Response struct {
	Range   *pb.RangeResponse       `json:",omitempty"`
	Put     *pb.PutResponse         `json:",omitempty"`
	Delete  *pb.DeleteRangeResponse `json:",omitempty"`
	Txn     *pb.TxnResponse         `json:",omitempty"`
	Compact *pb.CompactionResponse  `json:",omitempty"`
	Revoke  *pb.LeaseRevokeResponse `json:",omitempty"`
}

// Operation is one request of one client, with what became of it.
type Operation struct {
	Client int
	Member string
	// Call and Return are nanoseconds of one monotonic clock; a request of unknown fate has no meaningful Return.
	Call, Return int64
	Request      Request
	Response     Response
	Outcome      Outcome
	Error        string `json:",omitempty"`
}

// message is the request as protobuf.
func (r *Request) message() proto.Message {
	switch {
	case r.Range != nil:
		return r.Range
	case r.Put != nil:
		return r.Put
	case r.Delete != nil:
		return r.Delete
	case r.Txn != nil:
		return r.Txn
	case r.Revoke != nil:
		return r.Revoke
	}
	return r.Compact
}

// message is the response as protobuf.
func (r *Response) message() proto.Message {
	switch {
	case r.Range != nil:
		return r.Range
	case r.Put != nil:
		return r.Put
	case r.Delete != nil:
		return r.Delete
	case r.Txn != nil:
		return r.Txn
	case r.Revoke != nil:
		return r.Revoke
	}
	return r.Compact
}

// revision is the one of the response's header; 0 if there is none.
func (r *Response) revision() int64 {
	if h, ok := r.message().(interface{ GetHeader() *pb.ResponseHeader }); ok {
		return h.GetHeader().GetRevision()
	}
	return 0
}

// writes tells whether the request may change the state.
func (r *Request) writes() bool {
	return r.Put != nil || r.Delete != nil || r.Revoke != nil || r.Txn != nil && txnWrites(r.Txn)
}

func txnWrites(t *pb.TxnRequest) bool {
	for _, branch := range [][]*pb.RequestOp{t.Success, t.Failure} {
		for _, op := range branch {
			switch r := op.Request.(type) {
			case *pb.RequestOp_RequestPut, *pb.RequestOp_RequestDeleteRange:
				return true
			case *pb.RequestOp_RequestTxn:
				if txnWrites(r.RequestTxn) {
					return true
				}
			}
		}
	}
	return false
}

// Wrote tells whether the response speaks of an effect.
func (r *Response) Wrote() bool {
	switch {
	case r.Put != nil:
		return true
	case r.Delete != nil:
		return r.Delete.Deleted > 0
	case r.Txn != nil:
		return txnWrote(r.Txn)
	}
	return false
}

func txnWrote(t *pb.TxnResponse) bool {
	for _, op := range t.Responses {
		switch r := op.Response.(type) {
		case *pb.ResponseOp_ResponsePut:
			return true
		case *pb.ResponseOp_ResponseDeleteRange:
			if r.ResponseDeleteRange.Deleted > 0 {
				return true
			}
		case *pb.ResponseOp_ResponseTxn:
			if txnWrote(r.ResponseTxn) {
				return true
			}
		}
	}
	return false
}

// serializable tells whether the answer may be old.
func (r *Request) serializable() bool {
	if r.Range != nil {
		return r.Range.Serializable
	}
	return r.Txn != nil && txnSerializable(r.Txn)
}

// txnSerializable follows etcd: a transaction of nothing but serializable reads may be answered by a follower.
func txnSerializable(t *pb.TxnRequest) bool {
	for _, branch := range [][]*pb.RequestOp{t.Success, t.Failure} {
		for _, op := range branch {
			r := op.GetRequestRange()
			if r == nil || !r.Serializable {
				return false
			}
		}
	}
	return len(t.Success)+len(t.Failure) > 0
}

func (o *Operation) String() string {
	short := func(m proto.Message) string {
		s := strings.Join(strings.Fields(prototext.MarshalOptions{}.Format(m)), " ")
		if len(s) > 1500 {
			s = s[:1500] + "..."
		}
		return s
	}
	where := fmt.Sprintf("client %d on %s, %.3f ms", o.Client, o.Member, float64(o.Call)/1e6)
	kind := strings.TrimPrefix(fmt.Sprintf("%T", o.Request.message()), "*etcdserverpb.")
	switch o.Outcome {
	case Answered:
		return fmt.Sprintf("[%s to %.3f ms] %s{%s} -> {%s}", where, float64(o.Return)/1e6, kind, short(o.Request.message()), short(o.Response.message()))
	case Refused:
		return fmt.Sprintf("[%s] %s{%s} -> refused: %s", where, kind, short(o.Request.message()), o.Error)
	}
	return fmt.Sprintf("[%s] %s{%s} -> unknown: %s", where, kind, short(o.Request.message()), o.Error)
}

// Part is a request as an operation of a transaction.
func Part(r Request) *pb.RequestOp {
	switch {
	case r.Range != nil:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r.Range}}
	case r.Put != nil:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r.Put}}
	case r.Delete != nil:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r.Delete}}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r.Txn}}
}

// Revision is the one of the answer's header; 0 without an answer.
func (o *Operation) Revision() int64 {
	if o.Outcome != Answered {
		return 0
	}
	return o.Response.revision()
}
