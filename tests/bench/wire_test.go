package main

import (
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// TestFramesAreEtcdsMessages decodes what the generator sends with etcd's own types.
func TestFramesAreEtcdsMessages(t *testing.T) {
	f, keyAt, valueAt := putFrame([]byte("aaa"), make([]byte, 300))
	copy(f.bytes[keyAt:], "xyz")
	copy(f.bytes[valueAt:], "value")
	var put etcdserverpb.PutRequest
	if err := proto.Unmarshal(f.bytes, &put); err != nil {
		t.Fatal(err)
	}
	if string(put.Key) != "xyz" || len(put.Value) != 300 || string(put.Value[:5]) != "value" {
		t.Errorf("got put %v", &put)
	}
	f, keyAt, endAt := rangeFrame([]byte("aaa"), []byte("bbb"))
	copy(f.bytes[keyAt:], "k01")
	copy(f.bytes[endAt:], "k09")
	var rng etcdserverpb.RangeRequest
	if err := proto.Unmarshal(f.bytes, &rng); err != nil {
		t.Fatal(err)
	}
	if string(rng.Key) != "k01" || string(rng.RangeEnd) != "k09" {
		t.Errorf("got range %v", &rng)
	}
	var watch etcdserverpb.WatchRequest
	if err := proto.Unmarshal(watchFrame([]byte("a"), []byte("b")).bytes, &watch); err != nil {
		t.Fatal(err)
	}
	if c := watch.GetCreateRequest(); string(c.GetKey()) != "a" || string(c.GetRangeEnd()) != "b" {
		t.Errorf("got watch %v", &watch)
	}
}

func TestWatchBatchSeesEveryEvent(t *testing.T) {
	b, err := proto.Marshal(&etcdserverpb.WatchResponse{
		Header:  &etcdserverpb.ResponseHeader{Revision: 9},
		WatchId: 7,
		Events: []*mvccpb.Event{
			{Kv: &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("1")}},
			{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte("gone")}},
			{Kv: &mvccpb.KeyValue{Key: []byte("b"), Value: []byte("2")}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got string
	w := watchBatch{event: func(id int64, value []byte) {
		if id != 7 {
			t.Errorf("watch id %d", id)
		}
		got += string(value)
	}}
	if err := (wireCodec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, &w); err != nil {
		t.Fatal(err)
	}
	if got != "12" {
		t.Errorf("saw values %q", got)
	}
}

func TestServerCodecAgreesWithProtobuf(t *testing.T) {
	header := &etcdserverpb.ResponseHeader{ClusterId: 1 << 63, MemberId: 3, Revision: 1 << 40, RaftTerm: 2}
	kv := &mvccpb.KeyValue{Key: []byte("key"), Value: make([]byte, 300), CreateRevision: 5, ModRevision: 1 << 33, Version: 2}
	for _, m := range []proto.Message{
		&etcdserverpb.PutResponse{Header: header},
		&etcdserverpb.RangeResponse{Header: header, Kvs: []*mvccpb.KeyValue{kv, kv, kv}, Count: 3},
		&etcdserverpb.WatchResponse{Header: header, WatchId: 9, Events: []*mvccpb.Event{{Kv: kv}}},
		&etcdserverpb.WatchResponse{Header: header, WatchId: 9, Created: true},
	} {
		out, err := serverCodec{}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		back := m.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(out.Materialize(), back); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(m, back) {
			t.Errorf("%T came back as %v", m, back)
		}
	}
	for _, m := range []proto.Message{
		&etcdserverpb.PutRequest{Key: []byte("k"), Value: []byte("v"), Lease: 7, PrevKv: true},
		&etcdserverpb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Limit: 10, CountOnly: true},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		back := m.ProtoReflect().New().Interface()
		if err := (serverCodec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, back); err != nil {
			t.Fatal(err)
		}
		switch back := back.(type) {
		case *etcdserverpb.PutRequest:
			if string(back.Key) != "k" || string(back.Value) != "v" {
				t.Errorf("got %v", back)
			}
		case *etcdserverpb.RangeRequest:
			if string(back.Key) != "k" || string(back.RangeEnd) != "l" || back.Limit != 10 {
				t.Errorf("got %v", back)
			}
		}
	}
}

func TestTxnFrame(t *testing.T) {
	f, at := txnFrame(3, 5)
	for i, k := range at {
		setKey(f.bytes[k:], 7*i)
	}
	var m etcdserverpb.TxnRequest
	if err := proto.Unmarshal(f.bytes, &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Success) != 3 || len(m.Compare) != 0 || len(m.Failure) != 0 {
		t.Fatalf("%v", &m)
	}
	for i, op := range m.Success {
		if p := op.GetRequestPut(); string(p.Key) != string(benchKey(7*i)) || len(p.Value) != 5 {
			t.Errorf("operation %d: %v", i, op)
		}
	}
}
