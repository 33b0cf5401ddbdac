package watch

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// A member without replicas serves history, previous values, progress and
// compaction like any other.
func TestFarMember(t *testing.T) {
	c := newCluster(t, Config{RingBytes: 3000, WindowBytes: 300})
	defer c.close()
	c.addShard(1, "", "m")
	c.addShard(2, "m", "")
	for i := range 100 {
		v := fmt.Sprintf("value %d", i)
		c.write(map[string]*string{"a": &v, "n": &v})
	}
	old := c.watch(c.far, "a", "z", 2, true, false)
	key := c.watch(c.far, "n", "", 50, true, false)
	now := c.watch(c.far, "n", "", 0, false, false)
	for i := range 100 {
		v := fmt.Sprintf("later %d", i)
		c.write(map[string]*string{"a": &v})
	}
	last := c.write(map[string]*string{"n": nil})
	c.finish(old, last)
	c.finish(key, last)
	c.finish(now, last)

	// Progress comes once everything is here.
	got := make(chan Response, 10)
	s := c.far.NewStream()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx, func(r *Response) error {
			got <- *r
			return nil
		})
	}()
	require.NoError(t, s.Create(ctx, &pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("z")}))
	require.True(t, (<-got).Created)
	require.NoError(t, s.Progress(ctx))
	r := <-got
	require.Equal(t, InvalidWatchID, r.WatchID)
	require.Equal(t, last, r.Revision)

	// The sequencer does not say what is compacted here: the far store does.
	c.mu.Lock()
	for _, sh := range c.mu.world.shards {
		sh.compacted = 60
	}
	c.mu.Unlock()
	require.NoError(t, s.Create(ctx, &pb.WatchCreateRequest{Key: []byte("n"), StartRevision: 20}))
	require.True(t, (<-got).Created)
	r = <-got
	require.True(t, r.Canceled)
	require.Equal(t, int64(60), r.CompactRevision)
	cancel()
	<-done
	s.Close()
}

// A feed is followed while somebody watches, and no longer.
func TestFeedEndsWithItsWatches(t *testing.T) {
	c := newCluster(t, Config{})
	defer c.close()
	c.addShard(1, "", "")
	feeds := func() int {
		c.far.feeds.mu.Lock()
		defer c.far.feeds.mu.Unlock()
		return len(c.far.feeds.mu.open)
	}
	require.Zero(t, feeds())
	a := c.watch(c.far, "a", "", 0, false, false)
	b := c.watch(c.far, "b", "c", 0, false, false)
	require.Equal(t, 1, feeds(), "one feed for all watches")
	a.stop()
	require.Equal(t, 1, feeds())
	b.stop()
	require.Eventually(t, func() bool { return feeds() == 0 }, time.Minute, time.Millisecond)
	require.Eventually(t, func() bool { return c.hub.interest.Load() == 0 }, time.Minute, time.Millisecond)
}

// What no replica here covers is refused, and what makes no sense.
func TestFeedServerRefuses(t *testing.T) {
	c := newCluster(t, Config{})
	defer c.close()
	c.addShard(1, "", "m")
	client := kvdpb.NewFeedClient(c.conn)
	for _, tc := range []struct {
		shard      uint64
		start, end string
		code       codes.Code
	}{
		{1, "\x01a", "\x01z", codes.FailedPrecondition},
		{2, "\x01a", "\x01b", codes.FailedPrecondition},
		{1, "\x01n", "\x01z", codes.FailedPrecondition},
		{1, "\x01b", "\x01a", codes.InvalidArgument},
		{1, "", "", codes.InvalidArgument},
		{1, "\x01a", "\x02a", codes.InvalidArgument},
	} {
		stream, err := client.Follow(context.Background(), &kvdpb.FollowRequest{Shard: tc.shard, Start: []byte(tc.start), End: []byte(tc.end), From: -5})
		require.NoError(t, err)
		_, err = stream.Recv()
		require.Equal(t, tc.code, status.Code(err), "%+v: %v", tc, err)
		read, err := client.Read(context.Background(), &kvdpb.FeedReadRequest{Shard: tc.shard, Start: []byte(tc.start), End: []byte(tc.end), From: 1, To: 5})
		require.NoError(t, err)
		_, err = read.Recv()
		require.Equal(t, tc.code, status.Code(err), "%+v: %v", tc, err)
	}
	read, err := client.Read(context.Background(), &kvdpb.FeedReadRequest{Shard: 1, Start: []byte("\x01a"), End: []byte("\x01b"), From: 0, To: 5})
	require.NoError(t, err)
	_, err = read.Recv()
	require.Equal(t, codes.InvalidArgument, status.Code(err))
}

// FuzzFeedFrame takes in whatever another member may send: it is refused or it
// keeps the order of revisions, and never panics.
func FuzzFeedFrame(f *testing.F) {
	seed := func(fr *kvdpb.FollowFrame) {
		b, err := proto.Marshal(fr)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	seed(&kvdpb.FollowFrame{Generation: 1, Applied: 5, Resolved: 9, Events: []*kvdpb.FeedEvent{
		{Revision: 3, Key: []byte("\x01a"), Value: []byte("v"), Create: 3, Version: 1},
		{Revision: 4, Key: []byte("\x01a"), Tombstone: true, Prev: &kvdpb.FeedValue{Value: []byte("v"), Mod: 3}},
	}})
	seed(&kvdpb.FollowFrame{Jump: true, Resolved: 1 << 62})
	seed(&kvdpb.FollowFrame{Events: []*kvdpb.FeedEvent{{Revision: -1, Key: []byte("\x01a")}, nil}})
	seed(&kvdpb.FollowFrame{Events: []*kvdpb.FeedEvent{{Revision: 5, Key: []byte("\x01a")}, {Revision: 4, Key: []byte("\x01a")}}})
	seed(&kvdpb.FollowFrame{Events: []*kvdpb.FeedEvent{{Revision: 5, Key: []byte("\x02a")}}})
	h := NewHub(Config{Stores: noStores{}, Resolver: &benchResolver{}, Revisions: &benchResolver{}, manual: true})
	f.Cleanup(h.Close)
	f.Fuzz(func(t *testing.T, data []byte) {
		var frame kvdpb.FollowFrame
		if proto.Unmarshal(data, &frame) != nil {
			return
		}
		s := newSegment(keyspace.Users(), h.newSource(7, false))
		s.source.mu.segments = []*segment{s}
		for first := true; ; first = false {
			before := s.resolved()
			err := h.feeds.take(s, &frame, first)
			v := s.view()
			require.GreaterOrEqual(t, v.resolved, before)
			for i, e := range v.entries {
				require.True(t, s.span.Contains(e.key))
				require.LessOrEqual(t, e.rev, v.resolved)
				require.True(t, i == 0 || !e.before(v.entries[i-1]))
			}
			if err != nil || !first {
				return
			}
		}
	})
}
