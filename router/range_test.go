package router

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/shard"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// twin is what a single etcd would answer, written as simply as can be.
func (w *world) twin(req *pb.RangeRequest) *pb.RangeResponse {
	rev := req.Revision
	if rev <= 0 {
		rev = w.rev
	}
	reader := &fakeReader{w: w, at: w.rev}
	var kvs []*mvccpb.KeyValue
	for k := range w.keys {
		key := k[1:]
		in := key >= string(req.Key) && key < string(req.RangeEnd)
		switch {
		case len(req.RangeEnd) == 0:
			in = key == string(req.Key)
		case string(req.RangeEnd) == "\x00":
			in = key >= string(req.Key)
		}
		if kv := reader.find([]byte(k), rev); in && kv != nil {
			kv.Key = []byte(key)
			kvs = append(kvs, kv)
		}
	}
	m := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: w.rev}, Count: int64(len(kvs))}
	if req.CountOnly {
		return m
	}
	kvs = slices.DeleteFunc(kvs, func(kv *mvccpb.KeyValue) bool {
		return (req.MinModRevision != 0 && kv.ModRevision < req.MinModRevision) || (req.MaxModRevision != 0 && kv.ModRevision > req.MaxModRevision) ||
			(req.MinCreateRevision != 0 && kv.CreateRevision < req.MinCreateRevision) || (req.MaxCreateRevision != 0 && kv.CreateRevision > req.MaxCreateRevision)
	})
	slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	by := map[pb.RangeRequest_SortTarget]func(a, b *mvccpb.KeyValue) int{
		pb.RangeRequest_KEY:     func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) },
		pb.RangeRequest_VERSION: func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.Version, b.Version) },
		pb.RangeRequest_CREATE:  func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) },
		pb.RangeRequest_MOD:     func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) },
		pb.RangeRequest_VALUE:   func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) },
	}[req.SortTarget]
	slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) int {
		if req.SortOrder == pb.RangeRequest_DESCEND {
			return by(b, a)
		}
		return by(a, b)
	})
	if req.Limit > 0 && int64(len(kvs)) > req.Limit {
		kvs, m.More = kvs[:req.Limit], true
	}
	if req.KeysOnly {
		for _, kv := range kvs {
			kv.Value = nil
		}
	}
	m.Kvs = kvs
	return m
}

func drawRange(t *rapid.T, w *world) *pb.RangeRequest {
	key := rapid.StringMatching("[a-f]{1,2}")
	req := &pb.RangeRequest{
		Key:        []byte(key.Draw(t, "key")),
		RangeEnd:   []byte(rapid.OneOf(key, rapid.Just(""), rapid.Just("\x00")).Draw(t, "end")),
		Limit:      rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1, 20), rapid.Just(int64(math.MaxInt64))).Draw(t, "limit"),
		SortOrder:  pb.RangeRequest_SortOrder(rapid.IntRange(0, 2).Draw(t, "order")),
		SortTarget: pb.RangeRequest_SortTarget(rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3, 4}).Draw(t, "target")),
		KeysOnly:   rapid.Bool().Draw(t, "keysOnly"),
		CountOnly:  rapid.IntRange(0, 5).Draw(t, "countOnly") == 0,
	}
	bound := func(name string) int64 {
		if rapid.IntRange(0, 4).Draw(t, name+"?") > 0 {
			return 0
		}
		return rapid.Int64Range(1, w.rev).Draw(t, name)
	}
	req.MinModRevision, req.MaxModRevision = bound("minMod"), bound("maxMod")
	req.MinCreateRevision, req.MaxCreateRevision = bound("minCreate"), bound("maxCreate")
	if rapid.Bool().Draw(t, "old") {
		req.Revision = rapid.Int64Range(-1, w.rev).Draw(t, "revision")
	}
	return req
}

func drawWorld(t *rapid.T, w *world) {
	key := rapid.StringMatching("[a-f]{1,2}")
	for range rapid.IntRange(0, 40).Draw(t, "writes") {
		k := []byte(key.Draw(t, "k"))
		r := w.random()
		var err error
		if rapid.IntRange(0, 4).Draw(t, "delete") == 0 {
			_, err = r.DeleteRange(context.Background(), &pb.DeleteRangeRequest{Key: k})
		} else {
			_, err = r.Put(context.Background(), &pb.PutRequest{Key: k, Value: []byte(rapid.StringMatching("[x-z]").Draw(t, "v"))})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestRangesAgainstTwin compares ranges over shards, whose routes are stale at
// times, with those of one store.
func TestRangesAgainstTwin(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, 3, "b", "c", "cc", "e")
		defer func() {
			for _, m := range w.members {
				m.lagging = nil
			}
		}()
		drawWorld(rt, w)
		stale := w.member(1 + rapid.Uint64Range(0, 2).Draw(rt, "lagging"))
		stale.lagging = w.current
		for i, cut := range []string{"aa", "bb", "d", "f"} {
			if rapid.Bool().Draw(rt, "cut "+cut) {
				w.split(cut)
				w.setOwner(100+uint64(i), 1+rapid.Uint64Range(0, 2).Draw(rt, "owner"))
			}
		}
		w.publish()
		w.member(3).staleCopies = rapid.Bool().Draw(rt, "stale copies")
		w.member(2).without[100] = rapid.Bool().Draw(rt, "no replica") && w.shards[100].owner != 2
		for range 8 {
			req := drawRange(rt, w)
			want := w.twin(req)
			for _, m := range w.members {
				got, err := m.router.Range(context.Background(), proto.Clone(req).(*pb.RangeRequest))
				if err != nil {
					rt.Fatalf("member %d, %v: %v", m.id, req, err)
				}
				if !proto.Equal(got, want) {
					rt.Fatalf("member %d, %v:\n%v, want\n%v", m.id, req, got, want)
				}
			}
		}
	})
}

// TestStreamsAgainstTwin compares streamed ranges with the same in one piece.
func TestStreamsAgainstTwin(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, 3, "b", "d")
		drawWorld(rt, w)
		w.member(2).without[100] = true // its part comes from another member
		if rapid.Bool().Draw(rt, "split") {
			w.member(3).lagging = w.current
			w.split("c")
		}
		for range 5 {
			req := drawRange(rt, w)
			req.SortOrder, req.SortTarget = 0, 0
			req.MinModRevision, req.MaxModRevision, req.MinCreateRevision, req.MaxCreateRevision = 0, 0, 0, 0
			want := w.twin(req)
			for _, m := range w.members {
				got := collect(t, m.router, req)
				if !proto.Equal(got, want) {
					rt.Fatalf("member %d, %v:\n%v, want\n%v", m.id, req, got, want)
				}
			}
		}
	})
}

// collect puts a stream together, and checks that only its end has a header.
func collect(t testing.TB, r *Router, req *pb.RangeRequest) *pb.RangeResponse {
	t.Helper()
	all := &pb.RangeResponse{}
	err := r.RangeStream(context.Background(), proto.Clone(req).(*pb.RangeRequest), func(m *pb.RangeResponse) error {
		require.Nil(t, all.Header, "something follows the last chunk")
		all.Kvs = append(all.Kvs, m.Kvs...)
		all.Header, all.More, all.Count = m.Header, m.More, m.Count
		if m.Header == nil {
			require.False(t, m.More)
			require.Zero(t, m.Count)
		}
		return nil
	})
	require.NoError(t, err)
	require.NotNil(t, all.Header)
	return all
}

// fill puts n keys with values of a size.
func (w *world) fill(n, size int) {
	value := bytes.Repeat([]byte("v"), size)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range n {
		w.rev++
		k := append([]byte{1}, fmt.Sprintf("k%04d", i)...)
		w.keys[string(k)] = append(w.keys[string(k)], version{kv: &mvccpb.KeyValue{Key: k, Value: value, CreateRevision: w.rev, ModRevision: w.rev, Version: 1}})
	}
}

func TestStreamIsCutIntoChunks(t *testing.T) {
	w := newWorld(t, 2, "k0040")
	w.fill(100, 64<<10)
	w.setOwner(101, 1)
	for _, remote := range []bool{false, true} {
		w.member(2).without[100], w.member(2).without[101] = remote, remote
		for _, limit := range []int64{0, 37, 40, 41, 100} {
			req := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Limit: limit}
			chunks, largest := 0, 0
			var n int64
			var last *pb.RangeResponse
			require.NoError(t, w.member(2).router.RangeStream(context.Background(), req, func(m *pb.RangeResponse) error {
				chunks++
				largest = max(largest, proto.Size(m))
				n += int64(len(m.Kvs))
				last = m
				return nil
			}))
			require.Less(t, largest, chunkBytes+128<<10)
			require.Greater(t, chunks, 3)
			require.Equal(t, int64(100), last.Count)
			if limit == 0 {
				limit = 100
			}
			require.Equal(t, limit, n)
			require.Equal(t, limit < 100, last.More)
		}
	}
}

func TestStreamEndsWithItsReader(t *testing.T) {
	w := newWorld(t, 2)
	w.fill(100, 64<<10)
	w.member(2).without[100] = true
	req := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	gone := fmt.Errorf("the client is gone")
	err := w.member(2).router.RangeStream(context.Background(), req, func(*pb.RangeResponse) error { return gone })
	require.ErrorContains(t, err, gone.Error())
	ctx, cancel := context.WithCancel(context.Background())
	err = w.member(2).router.RangeStream(ctx, req, func(*pb.RangeResponse) error { cancel(); return nil })
	require.True(t, errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled, "%v", err)
}

// TestLargeAnswers are read in bulk where the gateway has no copy.
func TestLargeAnswers(t *testing.T) {
	w := newWorld(t, 2, "k0040")
	w.fill(60, 64<<10)
	w.member(2).without[100] = true
	for _, req := range []*pb.RangeRequest{
		{Key: []byte("k"), RangeEnd: []byte("k0040")},
		{Key: []byte("k"), RangeEnd: []byte{0}},
		{Key: []byte("k"), RangeEnd: []byte("k0030"), Revision: 20},
		{Key: []byte("k"), RangeEnd: []byte("k0040"), Limit: 30, SortOrder: pb.RangeRequest_DESCEND},
		{Key: []byte("k"), RangeEnd: []byte{0}, SortTarget: pb.RangeRequest_MOD, SortOrder: pb.RangeRequest_DESCEND, Limit: 25},
	} {
		got, err := w.member(2).router.Range(context.Background(), req)
		require.NoError(t, err)
		require.True(t, proto.Equal(w.twin(req), got), "%v", req)
	}
	// One value may be large, too.
	put(t, w.member(1).router, "big", strings.Repeat("b", 2*maxReply))
	require.Len(t, get(t, w.member(2).router, "big"), 2*maxReply)
}

// TestOwnCopyIsRead: a list costs the owner a confirmation, not the data.
func TestOwnCopyIsRead(t *testing.T) {
	w := newWorld(t, 2)
	w.fill(50, 10)
	var confirmed, read int
	w.edit(100, func(s *fakeShard) {
		s.fail = func(_ uint64, req *shard.Request) error {
			if req.Confirm {
				confirmed++
			} else {
				read++
			}
			return nil
		}
	})
	req := &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}
	for _, tc := range []struct {
		name            string
		prepare         func()
		confirmed, read int
	}{
		{"own copy", func() {}, 1, 0},
		{"stale copy", func() { w.member(2).staleCopies = true }, 1, 1},
		{"few keys", func() { w.member(2).staleCopies = false; req.Limit = 5 }, 0, 1},
		{"no replica", func() { req.Limit = 0; w.member(2).without[100] = true }, 0, 1},
	} {
		tc.prepare()
		confirmed, read = 0, 0
		got, err := w.member(2).router.Range(context.Background(), req)
		require.NoError(t, err)
		require.True(t, proto.Equal(w.twin(req), got), tc.name)
		require.Equal(t, []int{tc.confirmed, tc.read}, []int{confirmed, read}, tc.name)
	}
}

// TestLimitReadsNoMoreThanItNeeds looks at which shards are asked for data.
func TestLimitReadsNoMoreThanItNeeds(t *testing.T) {
	w := newWorld(t, 1, "k0010", "k0020", "k0030")
	w.fill(40, 10)
	data := make(map[string]int64)
	for id := range w.shards {
		w.edit(id, func(s *fakeShard) {
			s.fail = func(_ uint64, req *shard.Request) error {
				if !req.Range.CountOnly {
					w.mu.Lock()
					data[string(req.Range.Key)] = req.Range.Limit
					w.mu.Unlock()
				}
				return nil
			}
		})
	}
	m, err := w.member(1).router.Range(context.Background(), &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Limit: 15})
	require.NoError(t, err)
	require.Equal(t, int64(40), m.Count)
	require.True(t, m.More)
	require.Equal(t, map[string]int64{"k": 15, "k0010": 5}, data)
	clear(data)
	_, err = w.member(1).router.Range(context.Background(), &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Limit: 10, SortOrder: pb.RangeRequest_DESCEND})
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"k0030": 10}, data)
}

// TestCompactedUnderWay: a list of the newest state starts anew where its
// revision was compacted between the sequencer and a shard.
func TestCompactedUnderWay(t *testing.T) {
	w := newWorld(t, 1, "k0010")
	w.fill(20, 10)
	first := true
	w.edit(101, func(s *fakeShard) {
		s.fail = func(_ uint64, req *shard.Request) error {
			if first {
				first = false
				w.mu.Lock()
				w.rev++
				w.compact = w.rev
				w.mu.Unlock()
			}
			return nil
		}
	})
	m, err := w.member(1).router.Range(context.Background(), &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	require.NoError(t, err)
	require.Len(t, m.Kvs, 20)
	require.Equal(t, w.rev, m.Header.Revision)
}
