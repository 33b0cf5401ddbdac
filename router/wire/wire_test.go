package wire

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

func kinds() []proto.Message {
	return []proto.Message{
		&pb.RangeRequest{}, &pb.PutRequest{}, &pb.DeleteRangeRequest{}, &pb.TxnRequest{},
		&pb.RangeResponse{}, &pb.PutResponse{}, &pb.DeleteRangeResponse{}, &pb.TxnResponse{},
	}
}

func kv(s string) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: []byte(s), Value: []byte("v" + s), CreateRevision: 2, ModRevision: 1 << 40, Version: 3, Lease: -1}
}

// samples cover every field of every message.
func samples() []proto.Message {
	h := &pb.ResponseHeader{ClusterId: 1 << 63, MemberId: 7, Revision: 300, RaftTerm: 2}
	rng := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, Limit: 10, Revision: -5, SortOrder: pb.RangeRequest_DESCEND,
		SortTarget: pb.RangeRequest_VALUE, Serializable: true, KeysOnly: true, CountOnly: true,
		MinModRevision: 1, MaxModRevision: 2, MinCreateRevision: 3, MaxCreateRevision: 1 << 50}
	put := &pb.PutRequest{Key: []byte("k"), Value: bytes.Repeat([]byte("x"), 200), Lease: 9, PrevKv: true, IgnoreValue: true, IgnoreLease: true}
	del := &pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), PrevKv: true}
	ops := []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestRange{RequestRange: rng}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: put}},
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: del}},
		{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}}}}},
		{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{}}},
		{},
	}
	txn := &pb.TxnRequest{
		Compare: []*pb.Compare{
			{Result: pb.Compare_GREATER, Target: pb.Compare_VERSION, Key: []byte("k"), TargetUnion: &pb.Compare_Version{Version: 0}},
			{Target: pb.Compare_CREATE, Key: []byte("k"), TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 4}, RangeEnd: []byte("z")},
			{Target: pb.Compare_MOD, Key: []byte("k"), TargetUnion: &pb.Compare_ModRevision{ModRevision: -4}},
			{Target: pb.Compare_VALUE, Key: []byte("k"), TargetUnion: &pb.Compare_Value{Value: []byte("v")}},
			{Target: pb.Compare_VALUE, Key: []byte("k"), TargetUnion: &pb.Compare_Value{}},
			{Target: pb.Compare_LEASE, Key: []byte("k"), TargetUnion: &pb.Compare_Lease{Lease: 4}},
			{},
		},
		Success: ops, Failure: ops[:2],
	}
	rr := &pb.RangeResponse{Header: h, Kvs: []*mvccpb.KeyValue{kv("a"), {}, kv("b")}, More: true, Count: 12}
	pr := &pb.PutResponse{Header: h, PrevKv: kv("p")}
	dr := &pb.DeleteRangeResponse{Header: h, Deleted: 2, PrevKvs: []*mvccpb.KeyValue{kv("a"), kv("b")}}
	tr := &pb.TxnResponse{Header: h, Succeeded: true, Responses: []*pb.ResponseOp{
		{Response: &pb.ResponseOp_ResponseRange{ResponseRange: rr}},
		{Response: &pb.ResponseOp_ResponsePut{ResponsePut: pr}},
		{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: dr}},
		{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: &pb.TxnResponse{Succeeded: true}}},
		{},
	}}
	return []proto.Message{rng, put, del, txn, rr, pr, dr, tr}
}

func encode(m proto.Message) (b []byte, size int, ok bool) {
	if b, ok = AppendRequest(nil, m); ok {
		size, _ = SizeRequest(m)
		return b, size, true
	}
	body, ok := SizeBody(m)
	if !ok {
		return nil, 0, false
	}
	b, _ = AppendBody(AppendHeaderField(nil, Header(m)), m)
	return b, SizeHeaderField(Header(m)) + body, true
}

func TestSamplesSurviveBothLibraries(t *testing.T) {
	for _, m := range samples() {
		name := string(m.ProtoReflect().Descriptor().Name())
		t.Run(name, func(t *testing.T) {
			b, size, ok := encode(m)
			require.True(t, ok)
			require.Len(t, b, size)
			theirs := m.ProtoReflect().New().Interface()
			require.NoError(t, proto.Unmarshal(b, theirs))
			require.True(t, proto.Equal(m, theirs), "%v\n%v", m, theirs)

			b, err := proto.Marshal(m)
			require.NoError(t, err)
			require.Len(t, b, size)
			ours := m.ProtoReflect().New().Interface()
			require.True(t, fast(b, ours), "a sample takes the slow path")
			require.True(t, proto.Equal(m, ours), "%v\n%v", m, ours)
		})
	}
}

func TestEmptyAndNilMessages(t *testing.T) {
	for _, m := range kinds() {
		b, size, ok := encode(m)
		require.True(t, ok)
		require.Empty(t, b)
		require.Zero(t, size)
		require.NoError(t, Unmarshal(nil, m))
	}
	_, ok := AppendBody(nil, (*pb.PutResponse)(nil))
	require.False(t, ok)
	_, ok = AppendRequest(nil, (*pb.PutRequest)(nil))
	require.False(t, ok)
	_, ok = AppendRequest(nil, &pb.CompactionRequest{})
	require.False(t, ok)
	b, ok := AppendRequest(nil, &pb.TxnRequest{Success: []*pb.RequestOp{nil, {Request: &pb.RequestOp_RequestPut{}}}, Compare: []*pb.Compare{nil}})
	require.True(t, ok)
	require.NoError(t, proto.Unmarshal(b, &pb.TxnRequest{}))
}

func TestOtherMessagesUseGoogle(t *testing.T) {
	b, err := proto.Marshal(&pb.CompactionRequest{Revision: 4, Physical: true})
	require.NoError(t, err)
	var m pb.CompactionRequest
	require.NoError(t, Unmarshal(b, &m))
	require.Equal(t, int64(4), m.Revision)
	require.ErrorContains(t, Unmarshal([]byte{0xff}, &m), "CompactionRequest")
}

// TestUnknownFieldsAreKept shows that an unknown field does not get lost.
func TestUnknownFieldsAreKept(t *testing.T) {
	b, _ := AppendRequest(nil, &pb.PutRequest{Key: []byte("k")})
	b = protowire.AppendTag(b, 99, protowire.VarintType)
	b = protowire.AppendVarint(b, 5)
	var m pb.PutRequest
	require.NoError(t, Unmarshal(b, &m))
	require.Equal(t, "k", string(m.Key))
	require.NotEmpty(t, m.ProtoReflect().GetUnknown())
}

func TestDeepNesting(t *testing.T) {
	m := &pb.TxnRequest{}
	for range 3 * maxDepth {
		m = &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: m}}}}
	}
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	var got pb.TxnRequest
	require.NoError(t, Unmarshal(b, &got))
	require.True(t, proto.Equal(m, &got))
}

// FuzzAgainstGoogle decodes arbitrary bytes as every message with both
// libraries and encodes what came out.
func FuzzAgainstGoogle(f *testing.F) {
	for _, m := range samples() {
		b, _ := proto.Marshal(m)
		f.Add(b)
		f.Add(append(b, b...))
	}
	f.Add([]byte(strings.Repeat("\xff", 11)))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{0x8a, 0x00, 0x01, 'k'})
	f.Add([]byte{0x18, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02})
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, ours := range kinds() {
			theirs := ours.ProtoReflect().New().Interface()
			errTheirs, errOurs := proto.Unmarshal(in, theirs), Unmarshal(in, ours)
			if (errTheirs == nil) != (errOurs == nil) {
				t.Fatalf("%T: %v, google: %v", ours, errOurs, errTheirs)
			}
			if errOurs != nil {
				continue
			}
			if !proto.Equal(ours, theirs) {
				t.Fatalf("%T: %v, google: %v", ours, ours, theirs)
			}
			if !fast(in, ours.ProtoReflect().New().Interface()) {
				continue
			}
			b, size, ok := encode(ours)
			if !ok || len(b) != size || size != proto.Size(ours) {
				t.Fatalf("%T: %d bytes, size %d, google's %d", ours, len(b), size, proto.Size(ours))
			}
			again := ours.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(b, again); err != nil || !proto.Equal(ours, again) {
				t.Fatalf("%T: %v became %v (%v)", ours, ours, again, err)
			}
		}
	})
}

func BenchmarkPutRequestDecode(b *testing.B) {
	in, _ := proto.Marshal(&pb.PutRequest{Key: []byte("/registry/pods/default/some-pod"), Value: make([]byte, 256)})
	b.Run("wire", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = Unmarshal(in, &pb.PutRequest{})
		}
	})
	b.Run("google", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = proto.Unmarshal(in, &pb.PutRequest{})
		}
	})
}

func BenchmarkRangeResponseEncode(b *testing.B) {
	m := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 9}, Count: 100}
	for range 100 {
		m.Kvs = append(m.Kvs, &mvccpb.KeyValue{Key: []byte("/registry/pods/default/some-pod"), Value: make([]byte, 256), ModRevision: 1 << 30})
	}
	buf := make([]byte, 0, 64<<10)
	b.Run("wire", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _, _ = encodeInto(buf, m)
		}
	})
	b.Run("google", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = proto.MarshalOptions{}.MarshalAppend(buf, m)
		}
	})
}

func encodeInto(buf []byte, m proto.Message) ([]byte, int, bool) {
	size, _ := SizeBody(m)
	b, ok := AppendBody(AppendHeaderField(buf, Header(m)), m)
	return b, size, ok
}
