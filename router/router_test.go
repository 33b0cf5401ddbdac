package router

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/router/wire"
	"github.com/kvd-io/kvd/shard"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func put(t testing.TB, r *Router, k, v string) int64 {
	t.Helper()
	m, err := r.Put(context.Background(), &pb.PutRequest{Key: []byte(k), Value: []byte(v)})
	require.NoError(t, err)
	return m.Header.Revision
}

func get(t testing.TB, r *Router, k string) string {
	t.Helper()
	m, err := r.Range(context.Background(), &pb.RangeRequest{Key: []byte(k)})
	require.NoError(t, err)
	if len(m.Kvs) == 0 {
		return ""
	}
	return string(m.Kvs[0].Value)
}

func op1(k string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k)}}}
}

func TestEveryMemberServesEveryShard(t *testing.T) {
	w := newWorld(t, 3, "g", "p")
	for i, m := range w.members {
		for _, k := range []string{"a", "h", "z"} {
			want := fmt.Sprintf("%s%d", k, i)
			rev := put(t, m.router, k, want)
			require.Equal(t, w.rev, rev)
			for _, other := range w.members {
				require.Equal(t, want, get(t, other.router, k))
			}
		}
		k := []byte("a")
		txn, err := m.router.Txn(context.Background(), &pb.TxnRequest{
			Compare: []*pb.Compare{{Target: pb.Compare_VALUE, Key: k, TargetUnion: &pb.Compare_Value{Value: []byte(fmt.Sprintf("a%d", i))}}},
			Success: []*pb.RequestOp{op1("b"), {Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: k}}}},
		})
		require.NoError(t, err)
		require.True(t, txn.Succeeded)
		require.Equal(t, w.rev, txn.Header.Revision)
		require.Len(t, txn.Responses, 2)
		del, err := m.router.DeleteRange(context.Background(), &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("c"), PrevKv: true})
		require.NoError(t, err)
		require.Equal(t, int64(2), del.Deleted)
		require.Len(t, del.PrevKvs, 2)
		put(t, m.router, "a", "again")
	}
}

// TestForwardedBytes shows that a gateway passes the client's bytes on and gets
// the owner's bytes back.
func TestForwardedBytes(t *testing.T) {
	w := newWorld(t, 2, "m")
	gateway := w.member(2)
	var seen []byte
	gateway.loseFrames(func(_ uint64, frame []byte) bool {
		f, err := decodeRequestFrame(frame)
		require.NoError(t, err)
		seen = append([]byte(nil), f.body...)
		return false
	})
	// The fields in an order that no encoder would choose.
	raw := []byte{0x12, 1, 'v', 0x0a, 1, 'k'}
	req := &pb.PutRequest{}
	require.NoError(t, wire.Unmarshal(raw, req))
	res, err := gateway.router.Do(context.Background(), req, raw)
	require.NoError(t, err)
	require.Equal(t, raw, seen)
	require.Nil(t, res.Message)
	require.NotNil(t, res.Body)
	require.Equal(t, w.rev, res.Revision)
	require.Equal(t, "v", get(t, gateway.router, "k"))
}

func TestStaleRouteTeaches(t *testing.T) {
	w := newWorld(t, 2)
	w.member(2).lagging = w.current
	w.split("m")
	w.setOwner(1001, 2)
	put(t, w.member(2).router, "z", "right")
	put(t, w.member(2).router, "a", "left")
	require.Len(t, *w.member(2).router.routes.learned.Load(), 2)

	// The map catches up: what was learned is dropped.
	w.member(2).lagging = nil
	w.publish()
	require.Empty(t, *w.member(2).router.routes.learned.Load())
	require.Equal(t, "right", get(t, w.member(1).router, "z"))
}

func TestChangeOfOwnerIsFollowed(t *testing.T) {
	w := newWorld(t, 3, "m")
	w.member(3).without[100] = true // it knows the owner of shard 100 only from answers
	put(t, w.member(3).router, "a", "1")
	for _, owner := range []uint64{2, 3, 1, 2} {
		if owner == 3 {
			continue
		}
		w.setOwner(100, owner)
		put(t, w.member(3).router, "a", fmt.Sprint(owner))
		require.Equal(t, owner, w.member(3).router.routes.owner(100).member)
	}
}

func TestRequestsWaitForMovingKeys(t *testing.T) {
	w := newWorld(t, 2)
	w.edit(100, func(s *fakeShard) { s.fail = func(uint64, *shard.Request) error { return shard.ErrSpanMoving } })
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { put(t, w.members[i%2].router, fmt.Sprintf("k%d", i), "v") })
	}
	require.Eventually(t, func() bool {
		return w.member(1).router.news.waiting.Load()+w.member(2).router.news.waiting.Load() == 20
	}, time.Minute, time.Millisecond)
	w.edit(100, func(s *fakeShard) { s.fail = nil })
	w.publish()
	wg.Wait()
	require.Equal(t, 20, w.writes)
}

// TestLostAnswer breaks the connection after requests were sent on it.
func TestLostAnswer(t *testing.T) {
	for _, delivered := range []bool{true, false} {
		t.Run(fmt.Sprintf("delivered=%v", delivered), func(t *testing.T) {
			w := newWorld(t, 2)
			gateway, owner := w.member(2), w.member(1)
			var once sync.Once
			lose := func() (lost bool) {
				once.Do(func() { lost = true })
				return lost
			}
			if delivered {
				// The owner's answer is lost, which the gateway learns by the connection.
				owner.loseFrames(func(to uint64, _ []byte) bool {
					if !lose() {
						return false
					}
					gateway.deliver(func() { gateway.router.PeerDown(1, peer.ChannelRequest) })
					return true
				})
			} else {
				gateway.loseFrames(func(uint64, []byte) bool { return lose() })
			}
			_, err := gateway.router.Put(context.Background(), &pb.PutRequest{Key: []byte("a"), Value: []byte("1")})
			requireStatus(t, rpctypes.ErrGRPCTimeoutDueToConnectionLost, err)
			want := 0
			if delivered {
				want = 1
			}
			require.Equal(t, want, w.writes, "a write that may have happened was sent again")

			// A read is tried again.
			once = sync.Once{}
			require.Equal(t, strings.Repeat("1", want), get(t, gateway.router, "a"))
			// So is a transaction that only reads.
			once = sync.Once{}
			_, err = gateway.router.Txn(context.Background(), &pb.TxnRequest{Success: []*pb.RequestOp{
				{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}}}})
			require.NoError(t, err)
			once = sync.Once{}
			_, err = gateway.router.Txn(context.Background(), &pb.TxnRequest{Failure: []*pb.RequestOp{op1("a")}})
			requireStatus(t, rpctypes.ErrGRPCTimeoutDueToConnectionLost, err)
		})
	}
}

func TestAmbiguousAtTheOwner(t *testing.T) {
	w := newWorld(t, 2)
	w.edit(100, func(s *fakeShard) {
		s.fail = func(uint64, *shard.Request) error {
			return &shard.AmbiguousError{Shard: 100, Cause: errors.New("deposed")}
		}
	})
	for _, m := range w.members {
		_, err := m.router.Put(context.Background(), &pb.PutRequest{Key: []byte("a")})
		requireStatus(t, rpctypes.ErrGRPCTimeoutDueToLeaderFail, err)
	}
}

func TestUnreachableOwner(t *testing.T) {
	w := newWorld(t, 2)
	w.member(2).setDown(1, true)
	done := make(chan error, 1)
	go func() {
		_, err := w.member(2).router.Put(context.Background(), &pb.PutRequest{Key: []byte("a")})
		done <- err
	}()
	require.Eventually(t, func() bool { return w.member(2).router.news.waiting.Load() == 1 }, time.Minute, time.Millisecond)
	w.member(2).setDown(1, false)
	require.NoError(t, <-done)
	require.Equal(t, 1, w.writes)
}

func TestTimeIsOver(t *testing.T) {
	w := newWorld(t, 2)
	hold := make(chan struct{})
	defer close(hold)
	w.edit(100, func(s *fakeShard) { s.hold = hold })
	for _, m := range w.members {
		m.router.cfg.RequestTimeout = 30 * time.Millisecond
		_, err := m.router.Put(context.Background(), &pb.PutRequest{Key: []byte("a")})
		requireStatus(t, rpctypes.ErrGRPCTimeout, err)
		m.router.cfg.RequestTimeout = time.Hour
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		_, err = m.router.Put(ctx, &pb.PutRequest{Key: []byte("a")})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
	}
	w.member(2).router.cfg.RequestTimeout = 30 * time.Millisecond
	w.edit(100, func(s *fakeShard) { s.fail = func(uint64, *shard.Request) error { return shard.ErrSpanMoving } })
	_, err := w.member(2).router.Put(context.Background(), &pb.PutRequest{Key: []byte("a")})
	requireStatus(t, rpctypes.ErrGRPCTimeout, err)
	w.edit(100, func(s *fakeShard) { s.hold = nil })
}

func TestCancelReachesTheOwner(t *testing.T) {
	w := newWorld(t, 2)
	hold := make(chan struct{})
	defer close(hold)
	contexts := make(chan context.Context, 1)
	w.edit(100, func(s *fakeShard) {
		s.hold = hold
		s.fail = func(_ uint64, req *shard.Request) error { contexts <- req.Ctx; return nil }
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	began := time.Now()
	go func() {
		_, err := w.member(2).router.Put(ctx, &pb.PutRequest{Key: []byte("a")})
		done <- err
	}()
	at := <-contexts
	require.NoError(t, at.Err())
	deadline, ok := at.Deadline()
	require.True(t, ok)
	limit := w.member(2).router.cfg.RequestTimeout + ownerGrace
	require.WithinRange(t, deadline, began.Add(limit-time.Second), time.Now().Add(limit+time.Second))
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	<-at.Done()
	require.ErrorIs(t, at.Err(), context.Canceled)
}

func TestInFlightIsBounded(t *testing.T) {
	w := newWorld(t, 2)
	l := w.member(2).router.link(1)
	l.mu.Lock()
	for i := range maxCalls {
		l.mu.calls[uint64(i)] = newCall()
	}
	l.mu.Unlock()
	_, err := w.member(2).router.Put(context.Background(), &pb.PutRequest{Key: []byte("a")})
	requireStatus(t, rpctypes.ErrGRPCRequestTooManyRequests, err)
	l.mu.Lock()
	clear(l.mu.calls)
	l.mu.bytes = maxCallBytes
	l.mu.Unlock()
	_, err = w.member(2).router.Put(context.Background(), &pb.PutRequest{Key: []byte("a")})
	requireStatus(t, rpctypes.ErrGRPCRequestTooManyRequests, err)
	l.mu.Lock()
	l.mu.bytes = 0
	l.mu.Unlock()

	back := w.member(1).router.link(2)
	back.mu.Lock()
	for i := range maxServed {
		back.mu.served[uint64(i)] = &served{}
	}
	back.mu.Unlock()
	_, err = w.member(2).router.Put(context.Background(), &pb.PutRequest{Key: []byte("a")})
	requireStatus(t, rpctypes.ErrGRPCRequestTooManyRequests, err)
	back.mu.Lock()
	clear(back.mu.served)
	back.mu.Unlock()
	put(t, w.member(2).router, "a", "v")
}

// TestReplyWaitsForConnection answers a request of a gateway that the owner
// cannot reach yet.
func TestReplyWaitsForConnection(t *testing.T) {
	w := newWorld(t, 2)
	w.member(1).setDown(2, true)
	done := make(chan error, 1)
	go func() {
		_, err := w.member(2).router.Put(context.Background(), &pb.PutRequest{Key: []byte("a")})
		done <- err
	}()
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.writes == 1
	}, time.Minute, time.Millisecond)
	w.member(1).setDown(2, false)
	require.NoError(t, <-done)
	require.Equal(t, 1, w.writes)
}

func TestTransactionOfNothing(t *testing.T) {
	w := newWorld(t, 2)
	put(t, w.member(1).router, "a", "v")
	for _, m := range w.members {
		txn, err := m.router.Txn(context.Background(), &pb.TxnRequest{})
		require.NoError(t, err)
		require.True(t, txn.Succeeded)
		require.Equal(t, w.rev, txn.Header.Revision)
	}
}

func TestCompact(t *testing.T) {
	w := newWorld(t, 2)
	r := w.member(2).router
	for range 5 {
		put(t, r, "a", "v")
	}
	compact := func(rev int64) error {
		_, err := r.Compact(context.Background(), &pb.CompactionRequest{Revision: rev, Physical: true})
		return err
	}
	require.NoError(t, compact(0))
	requireStatus(t, rpctypes.ErrGRPCCompacted, compact(-1))
	requireStatus(t, rpctypes.ErrGRPCFutureRev, compact(7))
	require.NoError(t, compact(4))
	requireStatus(t, rpctypes.ErrGRPCCompacted, compact(4))
	requireStatus(t, rpctypes.ErrGRPCCompacted, compact(0))
	m, err := r.Compact(context.Background(), &pb.CompactionRequest{Revision: 5})
	require.NoError(t, err)
	require.Equal(t, int64(6), m.Header.Revision)
	_, err = r.Range(context.Background(), &pb.RangeRequest{Key: []byte("a"), Revision: 4})
	requireStatus(t, rpctypes.ErrGRPCCompacted, err)
	_, err = r.Range(context.Background(), &pb.RangeRequest{Key: []byte("a"), Revision: 7})
	requireStatus(t, rpctypes.ErrGRPCFutureRev, err)
}

func TestResolveAsksEachMemberOnce(t *testing.T) {
	w := newWorld(t, 3, "b", "c", "d", "e", "f")
	gateway := w.member(1)
	var mu sync.Mutex
	frames := make(map[uint64]int)
	gateway.loseFrames(func(to uint64, _ []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		frames[to]++
		return false
	})
	got := make(map[uint64]shard.Resolved)
	answer := func(r shard.Resolved) {
		mu.Lock()
		defer mu.Unlock()
		got[r.Shard] = r
	}
	gateway.router.Resolve(context.Background(), 7, []uint64{100, 101, 102, 103, 104, 105, 999}, answer)
	require.Len(t, got, 6)
	require.Equal(t, map[uint64]int{2: 1, 3: 1}, frames)
	require.Equal(t, shard.Resolved{Shard: 101, Generation: 1, Applied: w.index, Revision: 7,
		Span: keyspace.Span{Start: keyspace.User([]byte("b")), End: keyspace.User([]byte("c"))}}, got[101])

	// An owner that has changed is learned.
	gateway.without[101] = true
	gateway.router.routes.learnOwner(101, 3, 1)
	w.setOwner(101, 2)
	clear(got)
	gateway.router.Resolve(context.Background(), 7, []uint64{101}, answer)
	require.Empty(t, got)
	gateway.router.Resolve(context.Background(), 7, []uint64{101}, answer)
	require.Len(t, got, 1)
}

// TestResolveDoesNotWaitForAll: a shard that cannot tell does not hold up those
// that can.
func TestResolveDoesNotWaitForAll(t *testing.T) {
	w := newWorld(t, 2, "b", "c", "d", "e")
	hold := make(chan struct{})
	w.edit(101, func(s *fakeShard) { s.hold = hold }) // owned by member 2
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan uint64, 5)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.member(1).router.Resolve(ctx, 1, []uint64{100, 101, 102, 103, 104}, func(r shard.Resolved) { got <- r.Shard })
	}()
	for range 4 {
		require.NotEqual(t, uint64(101), <-got)
	}
	cancel()
	<-done
	close(hold)
	require.Empty(t, got)
}

func TestSerializable(t *testing.T) {
	w := newWorld(t, 2, "m")
	for _, k := range []string{"a", "b", "x", "y"} {
		put(t, w.member(1).router, k, k)
	}
	r := w.member(2).router
	w.member(2).setDown(1, true) // no owner of "a" in reach
	all := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, Serializable: true}
	m, err := r.Range(context.Background(), all)
	require.NoError(t, err)
	require.Len(t, m.Kvs, 4)
	require.Equal(t, int64(4), m.Count)
	require.Equal(t, w.rev, m.Header.Revision)
	all.Revision = 3
	m, err = r.Range(context.Background(), all)
	require.NoError(t, err)
	require.Len(t, m.Kvs, 2)
	all.Revision, all.Limit, all.SortOrder = 0, 3, pb.RangeRequest_DESCEND
	m, err = r.Range(context.Background(), all)
	require.NoError(t, err)
	require.Equal(t, "y", string(m.Kvs[0].Key))
	require.True(t, m.More)

	// Below the compaction revision, or without a copy, the owners are asked.
	r.cfg.RequestTimeout = 20 * time.Millisecond
	w.compact = w.rev + 1
	_, err = r.Range(context.Background(), all)
	require.Error(t, err)
	w.compact = 0
	w.member(2).without[100] = true
	_, err = r.Range(context.Background(), all)
	requireStatus(t, rpctypes.ErrGRPCTimeout, err)
	r.cfg.RequestTimeout = time.Minute
	w.member(2).setDown(1, false)
	m, err = r.Range(context.Background(), all)
	require.NoError(t, err)
	require.Len(t, m.Kvs, 3)
}

// TestSerializableWhereNothingWasEverWritten: a member that lost the others right after the first start knows of nothing
// resolved, and still knows that the cluster was empty at its first revision.
func TestSerializableWhereNothingWasEverWritten(t *testing.T) {
	w := newWorld(t, 2, "m")
	w.rev = 0 // no shard has applied a write
	w.member(2).setDown(1, true)
	m, err := w.member(2).router.Range(context.Background(), &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, Serializable: true})
	require.NoError(t, err)
	require.Empty(t, m.Kvs)
	require.EqualValues(t, emptyRevision, m.Header.Revision)
}

// TestIdleShardIsRefreshed: the resolved revision of a shard without writes does
// not keep a serializable read in the past.
func TestIdleShardIsRefreshed(t *testing.T) {
	table := newResolvedTable()
	v := &fakeView{fakeReader: fakeReader{at: 5}, applied: 20, desc: &kvdpb.Descriptor{Generation: 2, Start: keyspace.Min(), End: keyspace.Max()}}
	require.Equal(t, int64(5), table.at(1, v))
	always := func(uint64) bool { return true }
	res := shard.Resolved{Shard: 1, Generation: 2, Span: keyspace.All(), Applied: 20, Revision: 90}
	table.learn([]shard.Resolved{res}, always)
	require.Equal(t, int64(90), table.at(1, v))
	v.applied = 19 // this copy has not applied what the owner had
	require.Equal(t, int64(5), table.at(1, v))
	v.applied, v.desc = 21, &kvdpb.Descriptor{Generation: 3, Start: keyspace.Min(), End: keyspace.Max()}
	require.Equal(t, int64(5), table.at(1, v))
	table.learn(nil, func(uint64) bool { return false })
	require.Empty(t, table.shards)

	w := newWorld(t, 2, "m")
	for range 3 {
		put(t, w.member(1).router, "a", "v")
	}
	for tick := range uint64(idleTicks) {
		w.member(2).router.refreshOnce(context.Background(), tick)
	}
	require.Len(t, w.member(2).router.stale.shards, 2)
}

// TestIdleShardsAreSeldomAskedAbout: shards that nobody reads serializably are asked about at each fifth tick; the first
// read asks for itself, and then they are asked about at each tick for a while.
func TestIdleShardsAreSeldomAskedAbout(t *testing.T) {
	w := newWorld(t, 2, "b", "c", "d", "e", "f", "g", "h", "i", "j") // ten shards
	gateway := w.member(2)
	questions := func(f func()) int {
		before := w.resolves.Load()
		f()
		return int(w.resolves.Load() - before)
	}
	ticks := func(n uint64) func() {
		return func() {
			for tick := range n {
				gateway.router.refreshOnce(context.Background(), tick)
			}
		}
	}
	require.Equal(t, 10, questions(ticks(idleTicks)))
	put(t, w.member(1).router, "a", "v")
	read := func() {
		m, err := gateway.router.Range(context.Background(), &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, Serializable: true})
		require.NoError(t, err)
		require.Equal(t, w.rev, m.Header.Revision)
		require.Len(t, m.Kvs, 1)
	}
	require.Equal(t, 10, questions(read), "the first read asks")
	require.Zero(t, questions(read), "the second does not")
	require.Equal(t, 10*idleTicks, questions(ticks(idleTicks)))
	began := gateway.router.stale.began
	gateway.router.stale.began = began.Add(-wantedFor)
	require.Equal(t, 10, questions(ticks(idleTicks)), "nobody has read for long")

	// A member that lost the others answers soon from what it knows, and then at once.
	gateway.setDown(1, true)
	require.Equal(t, 5, questions(read), "the owners that can be asked")
	require.Zero(t, questions(read))
}

func TestAdmin(t *testing.T) {
	w := newWorld(t, 2, "m")
	ctx := context.Background()
	for _, m := range w.members {
		infos, version, err := m.router.Shards(ctx)
		require.NoError(t, err)
		require.Equal(t, w.version, version)
		require.Len(t, infos, 2)
		require.Equal(t, "of member 1", infos[0].Status.Phase)
		require.Equal(t, "of member 2", infos[1].Status.Phase)
		_, err = m.router.Shard(ctx, 7)
		require.Equal(t, codes.NotFound, status.Code(err))
	}
	left, right, err := w.member(1).router.Split(ctx, []byte("t")) // owned by member 2
	require.NoError(t, err)
	require.Equal(t, uint64(101), left.Shard)
	require.Equal(t, keyspace.User([]byte("t")), right.Start)
	_, _, err = w.member(1).router.Split(ctx, []byte("t"))
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	info, err := w.member(1).router.Shard(ctx, right.Shard)
	require.NoError(t, err)
	require.Equal(t, "of member 2", info.Status.Phase)
}

func TestHashIsEqualOnAllMembers(t *testing.T) {
	w := newWorld(t, 2, "m")
	for _, k := range []string{"a", "b", "x", "y"} {
		put(t, w.member(1).router, k, k)
	}
	for _, rev := range []int64{0, 3} {
		a, err := w.member(1).router.HashKV(context.Background(), rev)
		require.NoError(t, err)
		b, err := w.member(2).router.HashKV(context.Background(), rev)
		require.NoError(t, err)
		require.Equal(t, a, b)
		require.NotZero(t, a.Sum)
	}
	_, err := w.member(2).router.HashKV(context.Background(), 99)
	requireStatus(t, rpctypes.ErrGRPCFutureRev, err)
	// A shard without replica here is hashed where there is one.
	want, err := w.member(1).router.HashKV(context.Background(), 0)
	require.NoError(t, err)
	w.member(2).without[100] = true
	got, err := w.member(2).router.HashKV(context.Background(), 0)
	require.NoError(t, err)
	require.Equal(t, want, got)
	w.member(2).setDown(1, true)
	require.NoError(t, w.member(2).conns[1].Close())
	_, err = w.member(2).router.HashKV(context.Background(), 0)
	require.Error(t, err)
}

func TestCloseEndsRequests(t *testing.T) {
	w := newWorld(t, 2)
	hold := make(chan struct{})
	defer close(hold)
	w.edit(100, func(s *fakeShard) { s.hold = hold })
	done := make(chan error, 2)
	for _, m := range w.members {
		go func() {
			_, err := m.router.Put(context.Background(), &pb.PutRequest{Key: []byte("a")})
			done <- err
		}()
	}
	require.Eventually(t, func() bool {
		l := w.member(2).router.link(1)
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.mu.calls) == 1
	}, time.Minute, time.Millisecond)
	w.member(2).router.Close()
	err := <-done
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	w.member(1).router.Close()
	requireStatus(t, rpctypes.ErrGRPCStopped, <-done)
}

// TestFencedReplicaIsNotRead: a member whose replica was found to differ has the owner read, also what need not be linearizable.
func TestFencedReplicaIsNotRead(t *testing.T) {
	w := newWorld(t, 2)
	for i := range 2 * copyThreshold {
		put(t, w.member(1).router, fmt.Sprintf("k%02d", i), "v")
	}
	r := w.member(2).router
	fenced := true
	r.cfg.Fenced = func(uint64) bool { return fenced }
	for _, serializable := range []bool{true, false} {
		req := &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Serializable: serializable}
		fenced = true
		before := w.member(2).views
		m, err := r.Range(context.Background(), req)
		require.NoError(t, err)
		require.Len(t, m.Kvs, 2*copyThreshold)
		require.Equal(t, before, w.member(2).views)
		fenced = false
		_, err = r.Range(context.Background(), req)
		require.NoError(t, err)
		require.Greater(t, w.member(2).views, before, "it is read again once it is sound")
	}
}
