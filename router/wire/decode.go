package wire

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// maxDepth is how deep transactions may be nested before google's library,
// which has its own limit, takes over.
const maxDepth = 32

// Unmarshal decodes b into m, which must be empty. Byte fields of m may alias b.
// Messages other than the four requests and responses are decoded by google's
// library.
func Unmarshal(b []byte, m proto.Message) error {
	if fast(b, m) {
		return nil
	}
	proto.Reset(m)
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("decode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

// fast decodes what is ordinary; m is in an undefined state where it says false.
func fast(b []byte, m proto.Message) bool {
	switch r := m.(type) {
	case *pb.RangeRequest:
		return decodeRangeRequest(b, r)
	case *pb.PutRequest:
		return decodePutRequest(b, r)
	case *pb.DeleteRangeRequest:
		return decodeDeleteRequest(b, r)
	case *pb.TxnRequest:
		return decodeTxnRequest(b, r, 0)
	case *pb.RangeResponse:
		return decodeRangeResponse(b, r)
	case *pb.PutResponse:
		return decodePutResponse(b, r)
	case *pb.DeleteRangeResponse:
		return decodeDeleteResponse(b, r)
	case *pb.TxnResponse:
		return decodeTxnResponse(b, r, 0)
	}
	return false
}

func decodeRangeRequest(b []byte, m *pb.RangeRequest) bool {
	f := fields{b: b}
	for {
		field, wt, ok := f.next()
		switch {
		case !ok:
			return !f.odd
		case wt == wireBytes && field == 1:
			m.Key = f.bytes()
		case wt == wireBytes && field == 2:
			m.RangeEnd = f.bytes()
		case wt == wireVarint:
			v := f.varint()
			switch field {
			case 3:
				m.Limit = int64(v)
			case 4:
				m.Revision = int64(v)
			case 5:
				m.SortOrder = pb.RangeRequest_SortOrder(v)
			case 6:
				m.SortTarget = pb.RangeRequest_SortTarget(v)
			case 7:
				m.Serializable = v != 0
			case 8:
				m.KeysOnly = v != 0
			case 9:
				m.CountOnly = v != 0
			case 10:
				m.MinModRevision = int64(v)
			case 11:
				m.MaxModRevision = int64(v)
			case 12:
				m.MinCreateRevision = int64(v)
			case 13:
				m.MaxCreateRevision = int64(v)
			default:
				return false
			}
		default:
			return false
		}
	}
}

func decodePutRequest(b []byte, m *pb.PutRequest) bool {
	f := fields{b: b}
	for {
		field, wt, ok := f.next()
		switch {
		case !ok:
			return !f.odd
		case wt == wireBytes && field == 1:
			m.Key = f.bytes()
		case wt == wireBytes && field == 2:
			m.Value = f.bytes()
		case wt == wireVarint:
			v := f.varint()
			switch field {
			case 3:
				m.Lease = int64(v)
			case 4:
				m.PrevKv = v != 0
			case 5:
				m.IgnoreValue = v != 0
			case 6:
				m.IgnoreLease = v != 0
			default:
				return false
			}
		default:
			return false
		}
	}
}

func decodeDeleteRequest(b []byte, m *pb.DeleteRangeRequest) bool {
	f := fields{b: b}
	for {
		field, wt, ok := f.next()
		switch {
		case !ok:
			return !f.odd
		case wt == wireBytes && field == 1:
			m.Key = f.bytes()
		case wt == wireBytes && field == 2:
			m.RangeEnd = f.bytes()
		case wt == wireVarint && field == 3:
			m.PrevKv = f.varint() != 0
		default:
			return false
		}
	}
}

func decodeTxnRequest(b []byte, m *pb.TxnRequest, depth int) bool {
	if depth > maxDepth {
		return false
	}
	f := fields{b: b}
	for {
		field, wt, ok := f.next()
		switch {
		case !ok:
			return !f.odd
		case wt != wireBytes:
			return false
		case field == 1:
			c := &pb.Compare{}
			if !decodeCompare(f.bytes(), c) {
				return false
			}
			m.Compare = append(m.Compare, c)
		case field == 2 || field == 3:
			op := &pb.RequestOp{}
			if !decodeRequestOp(f.bytes(), op, depth) {
				return false
			}
			if field == 2 {
				m.Success = append(m.Success, op)
			} else {
				m.Failure = append(m.Failure, op)
			}
		default:
			return false
		}
	}
}

func decodeRequestOp(b []byte, m *pb.RequestOp, depth int) bool {
	f := fields{b: b}
	for {
		field, wt, ok := f.next()
		if !ok {
			return !f.odd
		}
		// Protobuf would merge or replace a second member of the oneof.
		if wt != wireBytes || m.Request != nil {
			return false
		}
		body := f.bytes()
		switch field {
		case 1:
			r := &struct {
				op  pb.RequestOp_RequestRange
				req pb.RangeRequest
			}{}
			r.op.RequestRange = &r.req
			m.Request = &r.op
			ok = decodeRangeRequest(body, &r.req)
		case 2:
			r := &struct {
				op  pb.RequestOp_RequestPut
				req pb.PutRequest
			}{}
			r.op.RequestPut = &r.req
			m.Request = &r.op
			ok = decodePutRequest(body, &r.req)
		case 3:
			r := &struct {
				op  pb.RequestOp_RequestDeleteRange
				req pb.DeleteRangeRequest
			}{}
			r.op.RequestDeleteRange = &r.req
			m.Request = &r.op
			ok = decodeDeleteRequest(body, &r.req)
		case 4:
			r := &struct {
				op  pb.RequestOp_RequestTxn
				req pb.TxnRequest
			}{}
			r.op.RequestTxn = &r.req
			m.Request = &r.op
			ok = decodeTxnRequest(body, &r.req, depth+1)
		default:
			return false
		}
		if !ok {
			return false
		}
	}
}

func decodeCompare(b []byte, m *pb.Compare) bool {
	f := fields{b: b}
	for {
		field, wt, ok := f.next()
		switch {
		case !ok:
			return !f.odd
		case wt == wireVarint:
			v := f.varint()
			switch field {
			case 1:
				m.Result = pb.Compare_CompareResult(v)
			case 2:
				m.Target = pb.Compare_CompareTarget(v)
			case 4:
				m.TargetUnion = &pb.Compare_Version{Version: int64(v)}
			case 5:
				m.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: int64(v)}
			case 6:
				m.TargetUnion = &pb.Compare_ModRevision{ModRevision: int64(v)}
			case 8:
				m.TargetUnion = &pb.Compare_Lease{Lease: int64(v)}
			default:
				return false
			}
		case wt == wireBytes:
			v := f.bytes()
			switch field {
			case 3:
				m.Key = v
			case 7:
				m.TargetUnion = &pb.Compare_Value{Value: v}
			case compareRangeEnd:
				m.RangeEnd = v
			default:
				return false
			}
		default:
			return false
		}
	}
}

func decodeHeader(b []byte, m *pb.ResponseHeader) bool {
	f := fields{b: b}
	for {
		field, wt, ok := f.next()
		if !ok {
			return !f.odd
		}
		if wt != wireVarint {
			return false
		}
		v := f.varint()
		switch field {
		case 1:
			m.ClusterId = v
		case 2:
			m.MemberId = v
		case 3:
			m.Revision = int64(v)
		case 4:
			m.RaftTerm = v
		default:
			return false
		}
	}
}

func decodeKV(b []byte, m *mvccpb.KeyValue) bool {
	f := fields{b: b}
	for {
		field, wt, ok := f.next()
		switch {
		case !ok:
			return !f.odd
		case wt == wireBytes && field == 1:
			m.Key = f.bytes()
		case wt == wireBytes && field == 5:
			m.Value = f.bytes()
		case wt == wireVarint:
			v := f.varint()
			switch field {
			case 2:
				m.CreateRevision = int64(v)
			case 3:
				m.ModRevision = int64(v)
			case 4:
				m.Version = int64(v)
			case 6:
				m.Lease = int64(v)
			default:
				return false
			}
		default:
			return false
		}
	}
}

// setHeader decodes a header into *h, which must not be set yet: protobuf
// would merge the two.
func setHeader(b []byte, h **pb.ResponseHeader) bool {
	if *h != nil {
		return false
	}
	*h = &pb.ResponseHeader{}
	return decodeHeader(b, *h)
}

func decodeRangeResponse(b []byte, m *pb.RangeResponse) bool {
	f := fields{b: b}
	for {
		field, wt, ok := f.next()
		switch {
		case !ok:
			return !f.odd
		case wt == wireBytes && field == 1:
			if !setHeader(f.bytes(), &m.Header) {
				return false
			}
		case wt == wireBytes && field == 2:
			kv := &mvccpb.KeyValue{}
			if !decodeKV(f.bytes(), kv) {
				return false
			}
			m.Kvs = append(m.Kvs, kv)
		case wt == wireVarint && field == 3:
			m.More = f.varint() != 0
		case wt == wireVarint && field == 4:
			m.Count = int64(f.varint())
		default:
			return false
		}
	}
}

func decodePutResponse(b []byte, m *pb.PutResponse) bool {
	f := fields{b: b}
	for {
		field, wt, ok := f.next()
		switch {
		case !ok:
			return !f.odd
		case wt == wireBytes && field == 1:
			if !setHeader(f.bytes(), &m.Header) {
				return false
			}
		case wt == wireBytes && field == 2 && m.PrevKv == nil:
			m.PrevKv = &mvccpb.KeyValue{}
			if !decodeKV(f.bytes(), m.PrevKv) {
				return false
			}
		default:
			return false
		}
	}
}

func decodeDeleteResponse(b []byte, m *pb.DeleteRangeResponse) bool {
	f := fields{b: b}
	for {
		field, wt, ok := f.next()
		switch {
		case !ok:
			return !f.odd
		case wt == wireBytes && field == 1:
			if !setHeader(f.bytes(), &m.Header) {
				return false
			}
		case wt == wireVarint && field == 2:
			m.Deleted = int64(f.varint())
		case wt == wireBytes && field == 3:
			kv := &mvccpb.KeyValue{}
			if !decodeKV(f.bytes(), kv) {
				return false
			}
			m.PrevKvs = append(m.PrevKvs, kv)
		default:
			return false
		}
	}
}

func decodeTxnResponse(b []byte, m *pb.TxnResponse, depth int) bool {
	if depth > maxDepth {
		return false
	}
	f := fields{b: b}
	for {
		field, wt, ok := f.next()
		switch {
		case !ok:
			return !f.odd
		case wt == wireBytes && field == 1:
			if !setHeader(f.bytes(), &m.Header) {
				return false
			}
		case wt == wireVarint && field == 2:
			m.Succeeded = f.varint() != 0
		case wt == wireBytes && field == 3:
			op := &pb.ResponseOp{}
			if !decodeResponseOp(f.bytes(), op, depth) {
				return false
			}
			m.Responses = append(m.Responses, op)
		default:
			return false
		}
	}
}

func decodeResponseOp(b []byte, m *pb.ResponseOp, depth int) bool {
	f := fields{b: b}
	for {
		field, wt, ok := f.next()
		if !ok {
			return !f.odd
		}
		if wt != wireBytes || m.Response != nil {
			return false
		}
		body := f.bytes()
		switch field {
		case 1:
			r := &pb.RangeResponse{}
			m.Response = &pb.ResponseOp_ResponseRange{ResponseRange: r}
			ok = decodeRangeResponse(body, r)
		case 2:
			r := &pb.PutResponse{}
			m.Response = &pb.ResponseOp_ResponsePut{ResponsePut: r}
			ok = decodePutResponse(body, r)
		case 3:
			r := &pb.DeleteRangeResponse{}
			m.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: r}
			ok = decodeDeleteResponse(body, r)
		case 4:
			r := &pb.TxnResponse{}
			m.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: r}
			ok = decodeTxnResponse(body, r, depth+1)
		default:
			return false
		}
		if !ok {
			return false
		}
	}
}
