package watch

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

func kvOf(key string, value []byte, rev int64) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: keyspace.User([]byte(key)), Value: value, ModRevision: rev, CreateRevision: 1, Version: rev}
}

// What a response encodes piecemeal is what protobuf would make of its message.
func TestEncodedResponseIsTheMessage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &Response{
			WatchID: rapid.Int64().Draw(t, "id"), Revision: rapid.Int64().Draw(t, "revision"),
			Created: rapid.Bool().Draw(t, "created"), Canceled: rapid.Bool().Draw(t, "canceled"),
			Fragment: rapid.Bool().Draw(t, "fragment"), CompactRevision: rapid.Int64().Draw(t, "compact"),
			CancelReason: rapid.SampledFrom([]string{"", "because"}).Draw(t, "reason"),
		}
		h := Header{rapid.Uint64().Draw(t, "cluster"), rapid.Uint64().Draw(t, "member"), rapid.Uint64().Draw(t, "term")}
		rev := int64(1)
		for range rapid.IntRange(0, 3).Draw(t, "batches") {
			var es []*entry
			for range rapid.IntRange(1, 3).Draw(t, "events") {
				rev++
				kv := kvOf(rapid.StringN(1, 5, -1).Draw(t, "key"), []byte(rapid.String().Draw(t, "value")), rev)
				e, ok := newEntry(rev, 0, kv, rapid.Bool().Draw(t, "delete"))
				require.True(t, ok)
				if rapid.Bool().Draw(t, "prev") {
					e.setPrev(kvOf("k", []byte("old"), rev-1))
				}
				es = append(es, e)
			}
			r.Batches = append(r.Batches, newBatch(es, withPrev))
		}
		b := r.AppendEnvelope(nil, h)
		for _, batch := range r.Batches {
			b = append(b, batch.Encoded()...)
		}
		var got pb.WatchResponse
		require.NoError(t, proto.Unmarshal(b, &got))
		require.True(t, proto.Equal(r.Message(h), &got))
		require.Equal(t, proto.Size(&got), len(b), "nothing in it twice")
	})
}

// Fragments together are the response, each small, each but the last marked.
func TestFragments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var es []*entry
		for i := range rapid.IntRange(1, 20).Draw(t, "events") {
			es = append(es, testEntry(int64(2+i/3), int64(i%3), "key", make([]byte, rapid.IntRange(0, 200).Draw(t, "size"))))
		}
		r := &Response{WatchID: 3, Revision: 9, Batches: []*Batch{newBatch(es, 0)}}
		limit := rapid.IntRange(envelopeSize, 1500).Draw(t, "limit")
		var got []*mvccpb.Event
		last := false
		require.NoError(t, r.fragments(limit, func(part *Response) error {
			require.False(t, last, "something follows the last fragment")
			last = !part.Fragment
			require.Equal(t, r.WatchID, part.WatchID)
			require.Equal(t, r.Revision, part.Revision)
			if part.EventCount() > 1 {
				require.Less(t, proto.Size(part.Message(Header{1 << 63, 1 << 63, 1 << 40})), limit)
			}
			got = append(got, part.Events()...)
			return nil
		}))
		require.True(t, last)
		require.Equal(t, r.Events(), got)
	})
}
