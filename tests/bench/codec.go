package main

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// serverCodec is what a well-tuned server would use: the hot messages are written straight into pooled buffers and read without
// reflection, everything else goes through protobuf. Fields that the load never sets are skipped on reading.
type serverCodec struct{}

func (serverCodec) Name() string { return "proto" }

func (serverCodec) Marshal(v any) (mem.BufferSlice, error) {
	var size int
	var write func(b []byte) []byte
	switch m := v.(type) {
	case *etcdserverpb.PutResponse:
		size = bytesField(sizeHeader(m.Header))
		write = func(b []byte) []byte { return appendHeader(b, m.Header) }
	case *etcdserverpb.RangeResponse:
		size = bytesField(sizeHeader(m.Header)) + intField(m.Count)
		for _, kv := range m.Kvs {
			size += bytesField(sizeKV(kv))
		}
		write = func(b []byte) []byte {
			b = appendHeader(b, m.Header)
			for _, kv := range m.Kvs {
				b = appendKV(b, 2, kv)
			}
			return appendInt(b, 4, m.Count)
		}
	case *etcdserverpb.WatchResponse:
		size = bytesField(sizeHeader(m.Header)) + intField(m.WatchId)
		if m.Created {
			size += 2
		}
		for _, ev := range m.Events {
			size += bytesField(bytesField(sizeKV(ev.Kv)))
		}
		write = func(b []byte) []byte {
			b = appendHeader(b, m.Header)
			b = appendInt(b, 2, m.WatchId)
			if m.Created {
				b = appendInt(b, 3, 1)
			}
			for _, ev := range m.Events {
				b = protowire.AppendTag(b, 11, protowire.BytesType)
				b = protowire.AppendVarint(b, uint64(bytesField(sizeKV(ev.Kv))))
				b = appendKV(b, 2, ev.Kv)
			}
			return b
		}
	case proto.Message:
		b, err := proto.Marshal(m)
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	default:
		return nil, fmt.Errorf("server codec: cannot send %T", v)
	}
	if mem.IsBelowBufferPoolingThreshold(size) {
		return mem.BufferSlice{mem.SliceBuffer(write(make([]byte, 0, size)))}, nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	*buf = write((*buf)[:0])
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

func (serverCodec) Unmarshal(data mem.BufferSlice, v any) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	switch m := v.(type) {
	case *etcdserverpb.PutRequest:
		own := append([]byte(nil), buf.ReadOnlyData()...) // one copy holds key and value
		return fields(own, func(num protowire.Number, _ uint64, data []byte) error {
			switch num {
			case 1:
				m.Key = data
			case 2:
				m.Value = data
			}
			return nil
		})
	case *etcdserverpb.RangeRequest:
		own := append([]byte(nil), buf.ReadOnlyData()...)
		return fields(own, func(num protowire.Number, n uint64, data []byte) error {
			switch num {
			case 1:
				m.Key = data
			case 2:
				m.RangeEnd = data
			case 3:
				m.Limit = int64(n)
			}
			return nil
		})
	case proto.Message:
		return proto.Unmarshal(buf.ReadOnlyData(), m)
	}
	return fmt.Errorf("server codec: cannot receive into %T", v)
}

func bytesField(n int) int { return 1 + protowire.SizeBytes(n) }

func intField(v int64) int { return uintField(uint64(v)) }

func uintField(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func sizeHeader(h *etcdserverpb.ResponseHeader) int {
	return uintField(h.ClusterId) + uintField(h.MemberId) + intField(h.Revision) + uintField(h.RaftTerm)
}

func appendHeader(b []byte, h *etcdserverpb.ResponseHeader) []byte {
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(sizeHeader(h)))
	b = appendUint(b, 1, h.ClusterId)
	b = appendUint(b, 2, h.MemberId)
	b = appendInt(b, 3, h.Revision)
	return appendUint(b, 4, h.RaftTerm)
}

func sizeKV(kv *mvccpb.KeyValue) int {
	return bytesField(len(kv.Key)) + intField(kv.CreateRevision) + intField(kv.ModRevision) + intField(kv.Version) + bytesField(len(kv.Value)) + intField(kv.Lease)
}

func appendKV(b []byte, num protowire.Number, kv *mvccpb.KeyValue) []byte {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(sizeKV(kv)))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendBytes(b, kv.Key)
	b = appendInt(b, 2, kv.CreateRevision)
	b = appendInt(b, 3, kv.ModRevision)
	b = appendInt(b, 4, kv.Version)
	b = protowire.AppendTag(b, 5, protowire.BytesType)
	b = protowire.AppendBytes(b, kv.Value)
	return appendInt(b, 6, kv.Lease)
}

func appendInt(b []byte, num protowire.Number, v int64) []byte { return appendUint(b, num, uint64(v)) }

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.VarintType)
	return protowire.AppendVarint(b, v)
}
