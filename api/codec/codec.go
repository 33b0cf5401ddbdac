package codec

import (
	"fmt"
	"sync/atomic"

	"github.com/kvd-io/kvd/router/wire"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Codec implements encoding.CodecV2.
type Codec struct {
	// Bytes, if set, counts what is encoded and decoded.
	Bytes *Bytes
}

// Bytes counts the bytes of messages.
type Bytes struct {
	Sent, Received atomic.Uint64
}

// Name implements encoding.CodecV2.
func (Codec) Name() string { return "proto" }

// Request is a KV request and the bytes that it came in. The bytes and the
// message share memory; neither may be changed.
type Request struct {
	// Message is set by the handler to an empty message of the method's type.
	Message proto.Message
	Raw     []byte
}

// Reply is a KV response: a header, and either a message, whose own header is
// left out, or the encoding of one that has none.
type Reply struct {
	Header  pb.ResponseHeader
	Message proto.Message
	// Body is freed once it is written.
	Body mem.Buffer
}

// Watch is a WatchResponse in pieces: everything but its events, and runs of
// events that are encoded already and shared by many responses. Neither is
// changed.
type Watch struct {
	// Envelope is copied.
	Envelope []byte
	// Events are referred to until they are written.
	Events [][]byte
}

// joinBelow is the size up to which a body is copied behind its header, which is
// cheaper than a buffer of its own.
const joinBelow = 4 << 10

// Size is the size of the reply without its header.
func (m *Reply) Size() int {
	if m.Body != nil {
		return m.Body.Len()
	}
	if m.Message == nil {
		return 0
	}
	n, _ := wire.SizeBody(m.Message)
	return n
}

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	b, err := encode(v)
	if err == nil && c.Bytes != nil {
		c.Bytes.Sent.Add(uint64(b.Len()))
	}
	return b, err
}

func encode(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *Reply:
		return m.marshal()
	case *Watch:
		return m.marshal(), nil
	case *pb.RangeStreamResponse:
		return marshalChunk(m), nil
	case proto.Message:
		return marshalGoogle(m)
	}
	return nil, fmt.Errorf("cannot encode a %T", v)
}

func (m *Reply) marshal() (mem.BufferSlice, error) {
	head := wire.SizeHeaderField(&m.Header)
	if m.Body != nil {
		n := m.Body.Len()
		if n > joinBelow {
			b, done := buffer(head)
			*b = wire.AppendHeaderField(*b, &m.Header)
			return mem.BufferSlice{done(b), m.Body}, nil
		}
		b, done := buffer(head + n)
		*b = append(wire.AppendHeaderField(*b, &m.Header), m.Body.ReadOnlyData()...)
		m.Body.Free()
		return mem.BufferSlice{done(b)}, nil
	}
	n, ok := wire.SizeBody(m.Message)
	if !ok {
		return nil, fmt.Errorf("cannot encode a reply with a %T", m.Message)
	}
	b, done := buffer(head + n)
	*b, _ = wire.AppendBody(wire.AppendHeaderField(*b, &m.Header), m.Message)
	return mem.BufferSlice{done(b)}, nil
}

func (m *Watch) marshal() mem.BufferSlice {
	n := len(m.Envelope)
	for _, e := range m.Events {
		n += len(e)
	}
	if n <= joinBelow {
		b, done := buffer(n)
		*b = append(*b, m.Envelope...)
		for _, e := range m.Events {
			*b = append(*b, e...)
		}
		return mem.BufferSlice{done(b)}
	}
	out := make(mem.BufferSlice, 0, 1+len(m.Events))
	b, done := buffer(len(m.Envelope))
	*b = append(*b, m.Envelope...)
	out = append(out, done(b))
	for _, e := range m.Events {
		out = append(out, mem.SliceBuffer(e))
	}
	return out
}

func marshalChunk(m *pb.RangeStreamResponse) mem.BufferSlice {
	r := m.RangeResponse
	if r == nil {
		return mem.BufferSlice{mem.SliceBuffer(nil)}
	}
	n := wire.SizeNested(r)
	b, done := buffer(n)
	*b = wire.AppendNested(*b, r)
	return mem.BufferSlice{done(b)}
}

func marshalGoogle(m proto.Message) (mem.BufferSlice, error) {
	b, done := buffer(proto.Size(m))
	out, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(*b, m)
	if err != nil {
		return nil, err
	}
	*b = out
	return mem.BufferSlice{done(b)}, nil
}

// buffer returns an empty slice with room for size bytes, and what makes a
// gRPC buffer of it once it is filled.
func buffer(size int) (b *[]byte, done func(*[]byte) mem.Buffer) {
	if mem.IsBelowBufferPoolingThreshold(size) {
		s := make([]byte, 0, size)
		return &s, sliceBuffer
	}
	b = mem.DefaultBufferPool().Get(size)
	*b = (*b)[:0]
	return b, pooledBuffer
}

func sliceBuffer(b *[]byte) mem.Buffer { return mem.SliceBuffer(*b) }

func pooledBuffer(b *[]byte) mem.Buffer { return mem.NewBuffer(b, mem.DefaultBufferPool()) }

// Unmarshal implements encoding.CodecV2.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if c.Bytes != nil {
		c.Bytes.Received.Add(uint64(data.Len()))
	}
	switch m := v.(type) {
	case *Request:
		m.Raw = own(data)
		return wire.Unmarshal(m.Raw, m.Message)
	case *pb.RangeRequest, *pb.PutRequest, *pb.DeleteRangeRequest, *pb.TxnRequest:
		return wire.Unmarshal(own(data), v.(proto.Message))
	case proto.Message:
		b := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer b.Free()
		return proto.Unmarshal(b.ReadOnlyData(), m)
	}
	return fmt.Errorf("cannot decode a %T", v)
}

// own returns the bytes of data as memory that is never used again by others. A
// small message lies in memory of its own already.
func own(data mem.BufferSlice) []byte {
	if len(data) == 1 {
		if b, ok := data[0].(mem.SliceBuffer); ok {
			return b
		}
	}
	return data.Materialize()
}
