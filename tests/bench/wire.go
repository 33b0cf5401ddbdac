package main

import (
	"fmt"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// The load generator speaks etcd's messages as bytes: requests are encoded once per worker and only their changing part is overwritten,
// answers are measured or skimmed but not built. That leaves the CPU to the servers.

// frame is a request that is already encoded. It may be changed again once its call has been answered, not earlier.
type frame struct{ bytes []byte }

// answer keeps the encoded length of a reply, enough to tell a real one from an empty one.
type answer struct{ size int }

// watchBatch calls event for every event of a watch response while it is being decoded; value is valid only during the call.
type watchBatch struct {
	event   func(watchID int64, value []byte)
	at      time.Time // when it arrived
	created bool
	reason  string // why the watch was cancelled
	cancel  bool
}

// wireCodec is the client's side. Its name stays "proto": it is what goes into the content-type.
type wireCodec struct{}

func (wireCodec) Name() string { return "proto" }

func (wireCodec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("wire codec: cannot send %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(f.bytes)}, nil
}

func (wireCodec) Unmarshal(data mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *answer:
		v.size = data.Len()
		return nil
	case *watchBatch:
		buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer buf.Free()
		return v.decode(buf.ReadOnlyData())
	}
	return fmt.Errorf("wire codec: cannot receive into %T", v)
}

// decode skims an etcdserverpb.WatchResponse.
func (w *watchBatch) decode(b []byte) error {
	var id int64
	w.at, w.created, w.cancel, w.reason = time.Now(), false, false, ""
	return fields(b, func(num protowire.Number, n uint64, data []byte) error {
		switch num {
		case 2:
			id = int64(n)
		case 3:
			w.created = n != 0
		case 4:
			w.cancel = n != 0
		case 6:
			w.reason = string(data)
		case 11: // event
			return fields(data, func(num protowire.Number, _ uint64, data []byte) error {
				if num != 2 { // kv
					return nil
				}
				return fields(data, func(num protowire.Number, _ uint64, data []byte) error {
					if num == 5 { // value
						w.event(id, data)
					}
					return nil
				})
			})
		}
		return nil
	})
}

// fields calls fn for every field of an encoded message: n for varints, data for bytes.
func fields(b []byte, fn func(num protowire.Number, n uint64, data []byte) error) error {
	for len(b) > 0 {
		num, typ, l := protowire.ConsumeTag(b)
		if l < 0 {
			return protowire.ParseError(l)
		}
		b = b[l:]
		var n uint64
		var data []byte
		switch typ {
		case protowire.VarintType:
			n, l = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			data, l = protowire.ConsumeBytes(b)
		default:
			l = protowire.ConsumeFieldValue(num, typ, b)
		}
		if l < 0 {
			return protowire.ParseError(l)
		}
		b = b[l:]
		if err := fn(num, n, data); err != nil {
			return err
		}
	}
	return nil
}

// putFrame encodes a PutRequest and tells where key and value lie in it.
func putFrame(key, value []byte) (f *frame, keyAt, valueAt int) {
	b := protowire.AppendTag(nil, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(key)))
	keyAt = len(b)
	b = append(b, key...)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(value)))
	valueAt = len(b)
	return &frame{bytes: append(b, value...)}, keyAt, valueAt
}

// rangeFrame encodes a RangeRequest; end may be empty.
func rangeFrame(key, end []byte) (f *frame, keyAt, endAt int) {
	b := protowire.AppendTag(nil, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(key)))
	keyAt = len(b)
	b = append(b, key...)
	if len(end) > 0 {
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(len(end)))
		endAt = len(b)
		b = append(b, end...)
	}
	return &frame{bytes: b}, keyAt, endAt
}

// txnFrame encodes a TxnRequest that puts keys, and tells where they lie in it.
func txnFrame(keys, valueBytes int) (f *frame, keysAt []int) {
	var b []byte
	for i := range keys {
		put, keyAt, _ := putFrame(benchKey(i), make([]byte, valueBytes))
		op := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), put.bytes) // RequestOp.request_put
		keyAt += len(op) - len(put.bytes)
		b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.BytesType), uint64(len(op))) // TxnRequest.success
		keysAt = append(keysAt, len(b)+keyAt)
		b = append(b, op...)
	}
	return &frame{bytes: b}, keysAt
}

// watchFrame encodes a WatchRequest that creates a watch.
func watchFrame(key, end []byte) *frame {
	in, _, _ := rangeFrame(key, end)
	b := protowire.AppendTag(nil, 1, protowire.BytesType)
	b = protowire.AppendBytes(b, in.bytes)
	return &frame{bytes: b}
}
