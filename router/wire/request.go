package wire

import pb "go.etcd.io/etcd/api/v3/etcdserverpb"

// AppendRequest appends one of the four requests; ok is false for any other
// message and for nil. Unknown fields are not encoded: a client's request is
// passed on as the bytes it came in.
func AppendRequest(b []byte, m any) (_ []byte, ok bool) {
	switch r := m.(type) {
	case *pb.RangeRequest:
		if r != nil {
			return appendRangeRequest(b, r), true
		}
	case *pb.PutRequest:
		if r != nil {
			return appendPutRequest(b, r), true
		}
	case *pb.DeleteRangeRequest:
		if r != nil {
			return appendDeleteRequest(b, r), true
		}
	case *pb.TxnRequest:
		if r != nil {
			return appendTxnRequest(b, r), true
		}
	}
	return b, false
}

// SizeRequest is the size of one of the four requests.
func SizeRequest(m any) (size int, ok bool) {
	switch r := m.(type) {
	case *pb.RangeRequest:
		return sizeRangeRequest(r), r != nil
	case *pb.PutRequest:
		return sizePutRequest(r), r != nil
	case *pb.DeleteRangeRequest:
		return sizeDeleteRequest(r), r != nil
	case *pb.TxnRequest:
		return sizeTxnRequest(r), r != nil
	}
	return 0, false
}

func sizeRangeRequest(m *pb.RangeRequest) int {
	if m == nil {
		return 0
	}
	return sizeBytes(1, m.Key) + sizeBytes(2, m.RangeEnd) + sizeInt(3, m.Limit) + sizeInt(4, m.Revision) +
		sizeInt(5, int64(m.SortOrder)) + sizeInt(6, int64(m.SortTarget)) +
		sizeBool(7, m.Serializable) + sizeBool(8, m.KeysOnly) + sizeBool(9, m.CountOnly) +
		sizeInt(10, m.MinModRevision) + sizeInt(11, m.MaxModRevision) +
		sizeInt(12, m.MinCreateRevision) + sizeInt(13, m.MaxCreateRevision)
}

func appendRangeRequest(b []byte, m *pb.RangeRequest) []byte {
	if m == nil {
		return b
	}
	b = appendBytes(b, 1, m.Key)
	b = appendBytes(b, 2, m.RangeEnd)
	b = appendInt(b, 3, m.Limit)
	b = appendInt(b, 4, m.Revision)
	b = appendInt(b, 5, int64(m.SortOrder))
	b = appendInt(b, 6, int64(m.SortTarget))
	b = appendBool(b, 7, m.Serializable)
	b = appendBool(b, 8, m.KeysOnly)
	b = appendBool(b, 9, m.CountOnly)
	b = appendInt(b, 10, m.MinModRevision)
	b = appendInt(b, 11, m.MaxModRevision)
	b = appendInt(b, 12, m.MinCreateRevision)
	return appendInt(b, 13, m.MaxCreateRevision)
}

func sizePutRequest(m *pb.PutRequest) int {
	if m == nil {
		return 0
	}
	return sizeBytes(1, m.Key) + sizeBytes(2, m.Value) + sizeInt(3, m.Lease) +
		sizeBool(4, m.PrevKv) + sizeBool(5, m.IgnoreValue) + sizeBool(6, m.IgnoreLease)
}

func appendPutRequest(b []byte, m *pb.PutRequest) []byte {
	if m == nil {
		return b
	}
	b = appendBytes(b, 1, m.Key)
	b = appendBytes(b, 2, m.Value)
	b = appendInt(b, 3, m.Lease)
	b = appendBool(b, 4, m.PrevKv)
	b = appendBool(b, 5, m.IgnoreValue)
	return appendBool(b, 6, m.IgnoreLease)
}

func sizeDeleteRequest(m *pb.DeleteRangeRequest) int {
	if m == nil {
		return 0
	}
	return sizeBytes(1, m.Key) + sizeBytes(2, m.RangeEnd) + sizeBool(3, m.PrevKv)
}

func appendDeleteRequest(b []byte, m *pb.DeleteRangeRequest) []byte {
	if m == nil {
		return b
	}
	b = appendBytes(b, 1, m.Key)
	b = appendBytes(b, 2, m.RangeEnd)
	return appendBool(b, 3, m.PrevKv)
}

func sizeTxnRequest(m *pb.TxnRequest) int {
	if m == nil {
		return 0
	}
	n := 0
	for _, c := range m.Compare {
		n += sizeMessage(1, sizeCompare(c))
	}
	for _, o := range m.Success {
		n += sizeMessage(2, sizeRequestOp(o))
	}
	for _, o := range m.Failure {
		n += sizeMessage(3, sizeRequestOp(o))
	}
	return n
}

func appendTxnRequest(b []byte, m *pb.TxnRequest) []byte {
	if m == nil {
		return b
	}
	for _, c := range m.Compare {
		b = appendCompare(appendLength(b, 1, sizeCompare(c)), c)
	}
	for _, o := range m.Success {
		b = appendRequestOp(appendLength(b, 2, sizeRequestOp(o)), o)
	}
	for _, o := range m.Failure {
		b = appendRequestOp(appendLength(b, 3, sizeRequestOp(o)), o)
	}
	return b
}

func sizeRequestOp(m *pb.RequestOp) int {
	if m == nil {
		return 0
	}
	switch r := m.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return sizeMessage(1, sizeRangeRequest(r.RequestRange))
	case *pb.RequestOp_RequestPut:
		return sizeMessage(2, sizePutRequest(r.RequestPut))
	case *pb.RequestOp_RequestDeleteRange:
		return sizeMessage(3, sizeDeleteRequest(r.RequestDeleteRange))
	case *pb.RequestOp_RequestTxn:
		return sizeMessage(4, sizeTxnRequest(r.RequestTxn))
	}
	return 0
}

func appendRequestOp(b []byte, m *pb.RequestOp) []byte {
	if m == nil {
		return b
	}
	switch r := m.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return appendRangeRequest(appendLength(b, 1, sizeRangeRequest(r.RequestRange)), r.RequestRange)
	case *pb.RequestOp_RequestPut:
		return appendPutRequest(appendLength(b, 2, sizePutRequest(r.RequestPut)), r.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return appendDeleteRequest(appendLength(b, 3, sizeDeleteRequest(r.RequestDeleteRange)), r.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return appendTxnRequest(appendLength(b, 4, sizeTxnRequest(r.RequestTxn)), r.RequestTxn)
	}
	return b
}

// compareRangeEnd is the number of Compare.range_end, which etcd set apart.
const compareRangeEnd = 64

func sizeCompare(m *pb.Compare) int {
	if m == nil {
		return 0
	}
	n := sizeInt(1, int64(m.Result)) + sizeInt(2, int64(m.Target)) + sizeBytes(3, m.Key) +
		sizeBytes(compareRangeEnd, m.RangeEnd)
	// A member of a oneof is encoded even where it is zero.
	switch u := m.TargetUnion.(type) {
	case *pb.Compare_Version:
		n += 1 + sizeVarint(uint64(u.Version))
	case *pb.Compare_CreateRevision:
		n += 1 + sizeVarint(uint64(u.CreateRevision))
	case *pb.Compare_ModRevision:
		n += 1 + sizeVarint(uint64(u.ModRevision))
	case *pb.Compare_Value:
		n += sizeMessage(7, len(u.Value))
	case *pb.Compare_Lease:
		n += 1 + sizeVarint(uint64(u.Lease))
	}
	return n
}

func appendCompare(b []byte, m *pb.Compare) []byte {
	if m == nil {
		return b
	}
	b = appendInt(b, 1, int64(m.Result))
	b = appendInt(b, 2, int64(m.Target))
	b = appendBytes(b, 3, m.Key)
	switch u := m.TargetUnion.(type) {
	case *pb.Compare_Version:
		b = appendVarint(appendTag(b, 4, wireVarint), uint64(u.Version))
	case *pb.Compare_CreateRevision:
		b = appendVarint(appendTag(b, 5, wireVarint), uint64(u.CreateRevision))
	case *pb.Compare_ModRevision:
		b = appendVarint(appendTag(b, 6, wireVarint), uint64(u.ModRevision))
	case *pb.Compare_Value:
		b = append(appendLength(b, 7, len(u.Value)), u.Value...)
	case *pb.Compare_Lease:
		b = appendVarint(appendTag(b, 8, wireVarint), uint64(u.Lease))
	}
	return appendBytes(b, compareRangeEnd, m.RangeEnd)
}
