package router

import (
	"bytes"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/router/wire"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/ownership"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// op is a request to the one shard that holds its span, wherever its owner is.
type op struct {
	kind opKind
	// Exactly one is set, as kind says.
	rng *pb.RangeRequest
	put *pb.PutRequest
	del *pb.DeleteRangeRequest
	txn *pb.TxnRequest
	// part is kvd's own, the others are etcd's.
	part *kvdpb.PartRequest
	// raw is the client's own encoding of the request, if it is known.
	raw []byte
	// span covers all keys of the request. The keys lie in one shard exactly if
	// the span does, for shards have no holes.
	span keyspace.Span
	// write: the request may have effects, so it must not be sent twice.
	write bool

	confirm bool
	readRev int64
	stamp   ownership.Stamp
}

func (q *op) message() proto.Message {
	switch q.kind {
	case opRange:
		return q.rng
	case opPut:
		return q.put
	case opDelete:
		return q.del
	case opPart:
		return q.part
	}
	return q.txn
}

// body is the request's encoding.
func (q *op) body() []byte {
	if q.raw != nil {
		return q.raw
	}
	m := q.message()
	if q.kind == opPart {
		// Marshalling a message without required fields does not fail.
		b, _ := proto.Marshal(m)
		return b
	}
	n, _ := wire.SizeRequest(m)
	b, _ := wire.AppendRequest(make([]byte, 0, n), m)
	return b
}

// fill sets what is the op's in a shard's request.
func (q *op) fill(req *shard.Request) {
	req.Range, req.Put, req.Delete, req.Txn, req.Part = q.rng, q.put, q.del, q.txn, q.part
	req.Confirm, req.ReadRev, req.ReadStamp = q.confirm, q.readRev, q.stamp
}

// pointSpan encodes the span of one key into buf, which it may grow.
func pointSpan(buf, key []byte) (keyspace.Span, []byte) {
	buf = append(keyspace.AppendUser(buf[:0], key), 0)
	n := len(buf) - 1
	return keyspace.Span{Start: buf[:n:n], End: buf}, buf
}

// subRange makes the request for the part of a range that lies in span.
func subRange(req *pb.RangeRequest, span keyspace.Span) *pb.RangeRequest {
	key, ok := keyspace.UserKey(span.Start)
	if !ok || len(key) == 0 {
		// No user key sorts before this one.
		key = []byte{0}
	}
	end, ok := keyspace.UserKey(span.End)
	if !ok {
		end = []byte{0}
	}
	return &pb.RangeRequest{
		Key: key, RangeEnd: end,
		Limit: req.Limit, SortOrder: req.SortOrder, SortTarget: req.SortTarget,
		KeysOnly: req.KeysOnly, CountOnly: req.CountOnly,
		MinModRevision: req.MinModRevision, MaxModRevision: req.MaxModRevision,
		MinCreateRevision: req.MinCreateRevision, MaxCreateRevision: req.MaxCreateRevision,
	}
}

// result is a shard's answer: a message whose header has its revision, or the
// bytes of one without the header, or neither where only a confirmation was
// asked for.
type result struct {
	msg        proto.Message
	body       mem.Buffer
	revision   int64
	applied    uint64
	generation uint64
}

// rangeResponse returns the answer as a message.
func (res *result) rangeResponse() (*pb.RangeResponse, error) {
	if m, ok := res.msg.(*pb.RangeResponse); ok {
		return m, nil
	}
	m := &pb.RangeResponse{}
	return m, res.decode(m)
}

// decode decodes the body into m, and frees it.
func (res *result) decode(m proto.Message) error {
	if res.body == nil {
		return errFrame
	}
	b := bytes.Clone(res.body.ReadOnlyData())
	res.body.Free()
	res.body = nil
	if err := wire.Unmarshal(b, m); err != nil {
		return err
	}
	setRevision(m, res.revision)
	return nil
}

// setRevision gives a response a header with a revision.
func setRevision(m proto.Message, rev int64) {
	h := &pb.ResponseHeader{Revision: rev}
	switch m := m.(type) {
	case *pb.RangeResponse:
		m.Header = h
	case *pb.PutResponse:
		m.Header = h
	case *pb.DeleteRangeResponse:
		m.Header = h
	case *pb.TxnResponse:
		m.Header = h
	}
}
