package codec

import (
	"bytes"
	"testing"

	"github.com/kvd-io/kvd/router/wire"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// marshal encodes v, and gives the buffers back as gRPC does.
func marshal(t testing.TB, v any) []byte {
	data, err := Codec{}.Marshal(v)
	require.NoError(t, err)
	defer data.Free()
	return data.Materialize()
}

func response(n int) *pb.RangeResponse {
	m := &pb.RangeResponse{Count: int64(n), More: true}
	for range n {
		m.Kvs = append(m.Kvs, &mvccpb.KeyValue{Key: []byte("key"), Value: bytes.Repeat([]byte("v"), 100), ModRevision: 7})
	}
	return m
}

func TestReplies(t *testing.T) {
	header := pb.ResponseHeader{ClusterId: 1, MemberId: 2, Revision: 3, RaftTerm: 4}
	for _, n := range []int{0, 1, 20, 100, 5000} {
		want := response(n)
		body, _ := wire.AppendBody(nil, want)
		for name, reply := range map[string]*Reply{"message": {Message: want}, "bytes": {Body: mem.Copy(body, mem.DefaultBufferPool())}} {
			proto.Merge(&reply.Header, &header)
			got := &pb.RangeResponse{}
			require.NoError(t, proto.Unmarshal(marshal(t, reply), got))
			want.Header = &header
			require.True(t, proto.Equal(want, got), "%s of %d", name, n)
			want.Header = nil
		}
		chunk := &pb.RangeStreamResponse{}
		require.NoError(t, proto.Unmarshal(marshal(t, &pb.RangeStreamResponse{RangeResponse: want}), chunk))
		require.True(t, proto.Equal(want, chunk.RangeResponse))
	}
	require.Empty(t, marshal(t, &pb.RangeStreamResponse{}))
	_, err := Codec{}.Marshal(&Reply{})
	require.Error(t, err)
	_, err = Codec{}.Marshal("no message")
	require.Error(t, err)
}

func TestWatchPieces(t *testing.T) {
	want := &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: 5}, WatchId: 3}
	envelope, err := proto.Marshal(want)
	require.NoError(t, err)
	for _, size := range []int{10, 3000, 100000} {
		m := &Watch{Envelope: envelope}
		want.Events = nil
		for range 2 {
			ev := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("k"), Value: make([]byte, size)}}
			encoded, err := proto.Marshal(&pb.WatchResponse{Events: []*mvccpb.Event{ev}})
			require.NoError(t, err)
			m.Events = append(m.Events, encoded)
			want.Events = append(want.Events, ev)
		}
		got := &pb.WatchResponse{}
		require.NoError(t, proto.Unmarshal(marshal(t, m), got))
		require.True(t, proto.Equal(want, got))
	}
}

func TestRequestKeepsItsBytes(t *testing.T) {
	for _, size := range []int{10, 500, 5000, 2 << 20} {
		raw, err := proto.Marshal(&pb.PutRequest{Key: []byte("k"), Value: bytes.Repeat([]byte("v"), size)})
		require.NoError(t, err)
		pool := mem.DefaultBufferPool()
		for name, data := range map[string]mem.BufferSlice{
			"one":  {mem.Copy(raw, pool)},
			"many": {mem.Copy(raw[:3], pool), mem.Copy(raw[3:], pool)},
		} {
			m := &pb.PutRequest{}
			req := &Request{Message: m}
			require.NoError(t, Codec{}.Unmarshal(data, req), name)
			plain := &pb.PutRequest{}
			require.NoError(t, Codec{}.Unmarshal(data, plain), name)
			// gRPC takes its buffers back; somebody else writes to them.
			data.Free()
			for range 8 {
				b := pool.Get(len(raw))
				for i := range *b {
					(*b)[i] = 'x'
				}
				pool.Put(b)
			}
			require.Equal(t, raw, req.Raw)
			require.Equal(t, size, bytes.Count(m.Value, []byte("v")))
			require.True(t, proto.Equal(m, plain))
		}
	}
	require.Error(t, Codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer{0xff}}, &Request{Message: &pb.PutRequest{}}))
	require.Error(t, Codec{}.Unmarshal(nil, "no message"))
}

func TestOtherMessages(t *testing.T) {
	want := &pb.StatusResponse{Version: "x", DbSize: 5, Errors: []string{string(make([]byte, 3000))}}
	got := &pb.StatusResponse{}
	require.NoError(t, Codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(marshal(t, want))}, got))
	require.True(t, proto.Equal(want, got))
	require.Equal(t, "proto", Codec{}.Name())
}

// FuzzRequest decodes arbitrary bytes as requests with this codec and with
// google's library.
func FuzzRequest(f *testing.F) {
	raw, _ := proto.Marshal(&pb.PutRequest{Key: []byte("k"), Value: []byte("v"), Lease: 4})
	f.Add(raw, 1)
	f.Add([]byte{0x0a, 0x80}, 0)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		cut = min(max(cut, 0), len(b))
		data := mem.BufferSlice{mem.SliceBuffer(b[:cut]), mem.SliceBuffer(b[cut:])}
		for _, m := range []proto.Message{&pb.RangeRequest{}, &pb.PutRequest{}, &pb.DeleteRangeRequest{}, &pb.TxnRequest{}, &pb.WatchRequest{}} {
			theirs := m.ProtoReflect().New().Interface()
			errTheirs, errOurs := proto.Unmarshal(b, theirs), Codec{}.Unmarshal(data, m)
			if (errTheirs == nil) != (errOurs == nil) {
				t.Fatalf("%T: %v, google: %v", m, errOurs, errTheirs)
			}
			if errOurs == nil && !proto.Equal(m, theirs) {
				t.Fatalf("%T: %v, google: %v", m, m, theirs)
			}
		}
	})
}
