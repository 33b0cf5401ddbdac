package wire

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Every sizeX has an appendX that appends exactly that many bytes. Nested
// sizes are computed again at each level; the messages are at most as deep as
// transactions are nested.

// SizeHeader is the size of a response header's content.
func SizeHeader(m *pb.ResponseHeader) int {
	if m == nil {
		return 0
	}
	return sizeUint(1, m.ClusterId) + sizeUint(2, m.MemberId) + sizeInt(3, m.Revision) + sizeUint(4, m.RaftTerm)
}

func appendHeader(b []byte, m *pb.ResponseHeader) []byte {
	if m == nil {
		return b
	}
	b = appendUint(b, 1, m.ClusterId)
	b = appendUint(b, 2, m.MemberId)
	b = appendInt(b, 3, m.Revision)
	return appendUint(b, 4, m.RaftTerm)
}

func sizeHeaderField(m *pb.ResponseHeader) int {
	if m == nil {
		return 0
	}
	return sizeMessage(1, SizeHeader(m))
}

// SizeHeaderField is the size of a header as the first field of a response.
func SizeHeaderField(m *pb.ResponseHeader) int { return sizeHeaderField(m) }

// AppendHeaderField appends a header as the first field of a response; the rest
// of the response may follow.
func AppendHeaderField(b []byte, m *pb.ResponseHeader) []byte {
	if m == nil {
		return b
	}
	return appendHeader(appendLength(b, 1, SizeHeader(m)), m)
}

func sizeKV(m *mvccpb.KeyValue) int {
	if m == nil {
		return 0
	}
	return sizeBytes(1, m.Key) + sizeInt(2, m.CreateRevision) + sizeInt(3, m.ModRevision) +
		sizeInt(4, m.Version) + sizeBytes(5, m.Value) + sizeInt(6, m.Lease)
}

func appendKV(b []byte, field int, m *mvccpb.KeyValue) []byte {
	b = appendLength(b, field, sizeKV(m))
	if m == nil {
		return b
	}
	b = appendBytes(b, 1, m.Key)
	b = appendInt(b, 2, m.CreateRevision)
	b = appendInt(b, 3, m.ModRevision)
	b = appendInt(b, 4, m.Version)
	b = appendBytes(b, 5, m.Value)
	return appendInt(b, 6, m.Lease)
}

func sizeKVs(field int, kvs []*mvccpb.KeyValue) int {
	n := 0
	for _, kv := range kvs {
		n += sizeMessage(field, sizeKV(kv))
	}
	return n
}

// sizeRangeResponse and its siblings leave out the header.
func sizeRangeResponse(m *pb.RangeResponse) int {
	return sizeKVs(2, m.Kvs) + sizeBool(3, m.More) + sizeInt(4, m.Count)
}

func appendRangeResponse(b []byte, m *pb.RangeResponse) []byte {
	for _, kv := range m.Kvs {
		b = appendKV(b, 2, kv)
	}
	b = appendBool(b, 3, m.More)
	return appendInt(b, 4, m.Count)
}

func sizePutResponse(m *pb.PutResponse) int {
	if m.PrevKv == nil {
		return 0
	}
	return sizeMessage(2, sizeKV(m.PrevKv))
}

func appendPutResponse(b []byte, m *pb.PutResponse) []byte {
	if m.PrevKv == nil {
		return b
	}
	return appendKV(b, 2, m.PrevKv)
}

func sizeDeleteResponse(m *pb.DeleteRangeResponse) int {
	return sizeInt(2, m.Deleted) + sizeKVs(3, m.PrevKvs)
}

func appendDeleteResponse(b []byte, m *pb.DeleteRangeResponse) []byte {
	b = appendInt(b, 2, m.Deleted)
	for _, kv := range m.PrevKvs {
		b = appendKV(b, 3, kv)
	}
	return b
}

func sizeTxnResponse(m *pb.TxnResponse) int {
	n := sizeBool(2, m.Succeeded)
	for _, r := range m.Responses {
		n += sizeMessage(3, sizeResponseOp(r))
	}
	return n
}

func appendTxnResponse(b []byte, m *pb.TxnResponse) []byte {
	b = appendBool(b, 2, m.Succeeded)
	for _, r := range m.Responses {
		b = appendResponseOp(appendLength(b, 3, sizeResponseOp(r)), r)
	}
	return b
}

func sizeResponseOp(m *pb.ResponseOp) int {
	if m == nil {
		return 0
	}
	switch r := m.Response.(type) {
	case *pb.ResponseOp_ResponseRange:
		return sizeMessage(1, sizeResponse(r.ResponseRange))
	case *pb.ResponseOp_ResponsePut:
		return sizeMessage(2, sizeResponse(r.ResponsePut))
	case *pb.ResponseOp_ResponseDeleteRange:
		return sizeMessage(3, sizeResponse(r.ResponseDeleteRange))
	case *pb.ResponseOp_ResponseTxn:
		return sizeMessage(4, sizeResponse(r.ResponseTxn))
	}
	return 0
}

func appendResponseOp(b []byte, m *pb.ResponseOp) []byte {
	if m == nil {
		return b
	}
	switch r := m.Response.(type) {
	case *pb.ResponseOp_ResponseRange:
		return appendResponse(appendLength(b, 1, sizeResponse(r.ResponseRange)), r.ResponseRange)
	case *pb.ResponseOp_ResponsePut:
		return appendResponse(appendLength(b, 2, sizeResponse(r.ResponsePut)), r.ResponsePut)
	case *pb.ResponseOp_ResponseDeleteRange:
		return appendResponse(appendLength(b, 3, sizeResponse(r.ResponseDeleteRange)), r.ResponseDeleteRange)
	case *pb.ResponseOp_ResponseTxn:
		return appendResponse(appendLength(b, 4, sizeResponse(r.ResponseTxn)), r.ResponseTxn)
	}
	return b
}

// sizeResponse sizes one of the four responses with its header, if it has one.
func sizeResponse(m any) int {
	body, ok := SizeBody(m)
	if !ok {
		return 0
	}
	return sizeHeaderField(Header(m)) + body
}

func appendResponse(b []byte, m any) []byte {
	b = AppendHeaderField(b, Header(m))
	b, _ = AppendBody(b, m)
	return b
}

// Header returns the header of one of the four responses; nil if it has none.
func Header(m any) *pb.ResponseHeader {
	switch r := m.(type) {
	case *pb.RangeResponse:
		return r.GetHeader()
	case *pb.PutResponse:
		return r.GetHeader()
	case *pb.DeleteRangeResponse:
		return r.GetHeader()
	case *pb.TxnResponse:
		return r.GetHeader()
	}
	return nil
}

// SizeBody is the size of one of the four responses without its header; ok is
// false for any other message and for nil.
func SizeBody(m any) (size int, ok bool) {
	switch r := m.(type) {
	case *pb.RangeResponse:
		if r != nil {
			return sizeRangeResponse(r), true
		}
	case *pb.PutResponse:
		if r != nil {
			return sizePutResponse(r), true
		}
	case *pb.DeleteRangeResponse:
		if r != nil {
			return sizeDeleteResponse(r), true
		}
	case *pb.TxnResponse:
		if r != nil {
			return sizeTxnResponse(r), true
		}
	}
	return 0, false
}

// AppendBody appends one of the four responses without its header.
func AppendBody(b []byte, m any) (_ []byte, ok bool) {
	switch r := m.(type) {
	case *pb.RangeResponse:
		if r != nil {
			return appendRangeResponse(b, r), true
		}
	case *pb.PutResponse:
		if r != nil {
			return appendPutResponse(b, r), true
		}
	case *pb.DeleteRangeResponse:
		if r != nil {
			return appendDeleteResponse(b, r), true
		}
	case *pb.TxnResponse:
		if r != nil {
			return appendTxnResponse(b, r), true
		}
	}
	return b, false
}

// SizeNested is the size of a response, header included, as the first field of
// another message.
func SizeNested(m any) int { return sizeMessage(1, sizeResponse(m)) }

// AppendNested appends a response, header included, as the first field of another
// message.
func AppendNested(b []byte, m any) []byte {
	return appendResponse(appendLength(b, 1, sizeResponse(m)), m)
}
