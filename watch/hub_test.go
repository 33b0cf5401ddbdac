package watch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// A watch joins a cohort while that reads a window which begins before the watch
// and ends after it: it gets its part.
func TestWatchJoinsCohortThatReads(t *testing.T) {
	w := newWorld(t, Config{})
	defer w.close()
	w.addShard(1, "", "")
	w.openReplica(1, 0)
	v := "v"
	for rev := int64(2); rev <= 6; rev++ {
		w.write(rev, map[string]*string{"k": &v})
	}
	w.apply(1, 10)
	joined := false
	w.onRead = func() {
		if !joined {
			joined = true
			require.NoError(t, w.stream("b").s.Create(context.Background(), createRequest(1, "k", "", 4)))
		}
	}
	require.NoError(t, w.stream("a").s.Create(context.Background(), createRequest(1, "k", "", 2)))
	w.settle()
	require.True(t, joined)
	for name, first := range map[string]int64{"a": 2, "b": 4} {
		next := first
		for _, r := range w.streams[name].got {
			for _, ev := range r.Events() {
				require.Equal(t, next, ev.Kv.ModRevision, name)
				next++
			}
		}
		require.Equal(t, int64(7), next, name)
	}
}

// A member that does not answer holds up its own shards only: the next round
// leaves without them.
func TestRoundLingers(t *testing.T) {
	r := &stuckResolver{rounds: make(chan []uint64, 10)}
	h := NewHub(Config{Stores: noStores{}, Resolver: r, Revisions: &benchResolver{rev: 1}})
	defer h.Close()
	for i, span := range []keyspace.Span{
		{Start: keyspace.Min(), End: keyspace.User([]byte("f"))},
		{Start: keyspace.User([]byte("f")), End: keyspace.User([]byte("m"))},
		{Start: keyspace.User([]byte("m")), End: keyspace.UserEnd()},
	} {
		h.Opened(uint64(i)+1, &kvdpb.Descriptor{Shard: uint64(i) + 1, Start: span.Start, End: span.End, Generation: 1}, 0, 1)
	}
	segs := h.topology.Load().segments
	h.resolve.want(segs[:1], 5)
	require.Equal(t, []uint64{1}, <-r.rounds)
	h.resolve.want(segs[1:2], 5)
	require.Equal(t, []uint64{2}, <-r.rounds, "shard 1 is still being asked for")
	h.resolve.want(segs, 6)
	require.Equal(t, []uint64{3}, <-r.rounds)
}

// stuckResolver never answers.
type stuckResolver struct{ rounds chan []uint64 }

func (r *stuckResolver) Resolve(ctx context.Context, _ int64, shards []uint64, _ func(shard.Resolved)) {
	r.rounds <- shards
	<-ctx.Done()
}

// An owner that cannot tell is asked again after a pause, until it can.
func TestResolveIsAskedAgain(t *testing.T) {
	var mu sync.Mutex
	asked := 0
	r := resolveFunc(func(_ context.Context, rev int64, shards []uint64, answer func(shard.Resolved)) {
		mu.Lock()
		defer mu.Unlock()
		if asked++; asked > 3 {
			answer(shard.Resolved{Shard: shards[0], Generation: 1, Span: keyspace.All(), Revision: rev})
		}
	})
	h := NewHub(Config{Stores: noStores{}, Resolver: r, Revisions: &benchResolver{rev: 1}})
	defer h.Close()
	h.Opened(1, &kvdpb.Descriptor{Shard: 1, Start: keyspace.Min(), End: keyspace.Max(), Generation: 1}, 0, 1)
	seg := h.topology.Load().segments[0]
	h.resolve.want([]*segment{seg}, 9)
	require.Eventually(t, func() bool { return seg.resolved() == 9 }, time.Minute, time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, 4, asked)
}

type resolveFunc func(context.Context, int64, []uint64, func(shard.Resolved))

func (f resolveFunc) Resolve(ctx context.Context, rev int64, shards []uint64, answer func(shard.Resolved)) {
	f(ctx, rev, shards, answer)
}

// A client that asks and asks and does not read is held up, not served into
// unbounded memory.
func TestClientThatDoesNotRead(t *testing.T) {
	w := newWorld(t, Config{StreamBytes: 10 * itemCost})
	defer w.close()
	w.addShard(1, "", "")
	w.openReplica(1, 0)
	st := w.stream("x")
	st.blocked = true
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		err = st.s.Refuse(ctx, "no")
	}
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, n, 25)
	st.blocked = false
	w.settle()
	require.NoError(t, st.s.Refuse(context.Background(), "no"))
	st.s.Close()
	st.s.Close()
	require.ErrorIs(t, st.s.Create(context.Background(), createRequest(1, "a", "", 0)), ErrStreamClosed)
	require.ErrorIs(t, st.s.Progress(context.Background()), ErrStreamClosed)
	require.ErrorIs(t, st.s.Cancel(context.Background(), 1), ErrStreamClosed)
}

// A send that fails ends Run with its error; what was queued is forgotten.
func TestSendFails(t *testing.T) {
	r := &benchResolver{rev: 1}
	h := NewHub(Config{Stores: noStores{}, Resolver: r, Revisions: r})
	defer h.Close()
	s := h.NewStream()
	require.NoError(t, s.Create(context.Background(), createRequest(1, "a", "", 0)))
	broken := errors.New("broken")
	require.ErrorIs(t, s.Run(context.Background(), func(*Response) error { return broken }), broken)
	require.Equal(t, int64(1), h.Stats().Watchers)
	s.Close()
	require.Equal(t, Stats{}, h.Stats())
	require.NoError(t, s.Run(context.Background(), nil), "a closed stream has nothing to send")
}

// After the hub is closed streams end at once, and the hub takes no more.
func TestClosedHub(t *testing.T) {
	r := &benchResolver{rev: 1}
	h := NewHub(Config{Stores: noStores{}, Resolver: r, Revisions: r})
	s := h.NewStream()
	require.NoError(t, s.Create(context.Background(), createRequest(1, "a", "", 0)))
	done := make(chan error)
	go func() { done <- s.Run(context.Background(), func(*Response) error { return nil }) }()
	h.Close()
	require.NoError(t, <-done)
	late := h.NewStream()
	require.ErrorIs(t, late.Create(context.Background(), createRequest(1, "a", "", 0)), ErrStreamClosed)
	require.NoError(t, late.Run(context.Background(), nil))
	late.Close()
	h.MapChanged()
	h.Close()
}

// Creating a watch waits for a sequencer that does not answer, but once for all.
func TestSequencerOutOfReach(t *testing.T) {
	r := &lostSequencer{}
	h := NewHub(Config{Stores: noStores{}, Resolver: &benchResolver{}, Revisions: r})
	defer h.Close()
	h.Opened(1, &kvdpb.Descriptor{Shard: 1, Start: keyspace.Min(), End: keyspace.Max(), Generation: 1}, 0, 7)
	for range 20 {
		m, err := h.now(context.Background())
		require.NoError(t, err)
		require.Equal(t, moment{revision: 7}, m)
	}
	require.Equal(t, 1, r.asked)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := h.now(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

type lostSequencer struct{ asked int }

func (l *lostSequencer) Current(context.Context) (shard.Grant, error) {
	l.asked++
	return shard.Grant{}, errors.New("no sequencer")
}

func (*lostSequencer) TryCurrent() (shard.Grant, bool) { return shard.Grant{}, false }

// An owner that resolved a revision and then wrote below it has broken a promise
// that watches rely on: the member stops rather than deliver out of order.
func TestBrokenPromiseStopsTheMember(t *testing.T) {
	w := newWorld(t, Config{Logger: zap.NewNop()})
	defer w.close()
	w.addShard(1, "", "")
	w.openReplica(1, 0)
	require.NoError(t, w.stream("x").s.Create(context.Background(), createRequest(1, "a", "", 0)))
	w.settle()
	w.hub.local(1).answer(shard.Resolved{Shard: 1, Generation: 1, Span: keyspace.All(), Revision: 9})
	v := "v"
	w.write(5, map[string]*string{"a": &v})
	require.Panics(t, func() { w.apply(1, 1) })
}

// Rings keep to their bound whatever is applied, in whole revisions.
func TestRingIsBounded(t *testing.T) {
	s := newSegment(keyspace.Users(), &source{local: true})
	value := make([]byte, 100)
	for rev := int64(1); rev <= 1000; rev++ {
		var es []*entry
		for sub := range rev % 3 {
			es = append(es, testEntry(rev, sub, fmt.Sprintf("k%d", sub), value))
		}
		require.NoError(t, s.append(es, 5000))
		v := s.view()
		require.LessOrEqual(t, len(v.entries)*(entryOverhead+100), 5000+2*(entryOverhead+100))
		if len(v.entries) > 0 {
			require.Greater(t, v.entries[0].rev, v.floor)
			require.Zero(t, v.entries[0].sub, "a revision was cut")
		}
	}
	// One revision larger than the ring stays until the next comes.
	require.NoError(t, s.append([]*entry{testEntry(2000, 0, "k", make([]byte, 9000))}, 5000))
	require.Len(t, s.view().entries, 1)
	require.Error(t, s.append([]*entry{testEntry(1999, 0, "k", nil)}, 5000))
}

func testEntry(rev, sub int64, key string, value []byte) *entry {
	kv := kvOf(key, value, rev)
	e, ok := newEntry(rev, sub, kv, false)
	if !ok {
		panic("no user key")
	}
	return e
}

func TestStatsOfSlowWatches(t *testing.T) {
	w := newWorld(t, Config{StreamBytes: 1})
	defer w.close()
	w.addShard(1, "", "")
	w.openReplica(1, 0)
	st := w.stream("x")
	require.NoError(t, st.s.Create(context.Background(), &pb.WatchCreateRequest{Key: []byte("a")}))
	w.settle()
	st.blocked = true
	v := "v"
	for rev := int64(2); rev < 8; rev++ {
		w.write(rev, map[string]*string{"a": &v})
		w.apply(1, 1)
		w.settle()
	}
	require.Equal(t, int64(1), w.hub.Stats().Slow)
	require.Positive(t, w.hub.Stats().PendingEvents)
	st.blocked = false
	w.settle()
	require.Zero(t, w.hub.Stats().Slow)
	require.Zero(t, w.hub.Stats().PendingEvents)
	require.Equal(t, int64(6), w.hub.Stats().Events)
}
