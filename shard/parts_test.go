package shard

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// The heads never say anything else than a map that forgets nothing, and what
// they call unchanged has not changed since the window began.
func TestHeadsAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, twin := newHeads(rapid.IntRange(1, 5).Draw(t, "limit")), map[string]mvcc.Head{}
		key := rapid.StringMatching("[a-h]")
		rev := int64(0)
		// began is what the keys were when each window began.
		began := map[uint64]map[string]mvcc.Head{1: {}}
		note := func() {
			if began[h.mu.window] == nil {
				began[h.mu.window] = maps.Clone(twin)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"applied": func(t *rapid.T) {
				rev++
				var effects []mvcc.Effect
				for _, k := range rapid.SliceOfNDistinct(key, 1, 3, rapid.ID[string]).Draw(t, "keys") {
					if rapid.Bool().Draw(t, "tombstone") {
						effects = append(effects, mvcc.Effect{Key: []byte(k), Tombstone: true})
						twin[k] = mvcc.Head{}
						continue
					}
					e := mvcc.Effect{Key: []byte(k), Version: rapid.Int64Range(1, 9).Draw(t, "version")}
					effects = append(effects, e)
					twin[k] = mvcc.Head{Create: rev, Mod: rev, Version: e.Version, Exists: true}
				}
				h.applied(rev, effects)
				note()
			},
			"looked up": func(t *rapid.T) {
				k := key.Draw(t, "key")
				h.put([]byte(k), twin[k])
				note()
			},
			"window of age": func(t *rapid.T) {
				h.endWindow(h.mu.window - uint64(rapid.IntRange(0, 1).Draw(t, "late")))
				note()
			},
			"": func(t *rapid.T) {
				require.LessOrEqual(t, len(h.mu.slots), h.limit)
				require.Len(t, h.mu.index, len(h.mu.slots))
				for k := range "abcdefgh" {
					k := string("abcdefgh"[k])
					got := h.get([]byte(k))
					if got.known {
						require.Equal(t, twin[k], got.head, k)
					}
					if got.unchanged {
						require.Equal(t, twin[k], began[got.window][k], "%s in window %d", k, got.window)
					}
				}
			},
		})
	})
}

func TestWorkersAreBounded(t *testing.T) {
	w := NewWorkers(3)
	var running, most, ran atomic.Int64
	var wg sync.WaitGroup
	block := make(chan struct{})
	for range 50 {
		wg.Add(1)
		w.Go(func() {
			defer wg.Done()
			n := running.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			<-block
			running.Add(-1)
			ran.Add(1)
		})
	}
	close(block)
	wg.Wait()
	require.Equal(t, int64(50), ran.Load())
	require.LessOrEqual(t, most.Load(), int64(3))
}

func TestBoundsRefuse(t *testing.T) {
	r, seq, _ := single(t, func(c *Config) {
		c.Limits.Writes, c.Limits.WriteBytes, c.Limits.Reads = 3, 1000, 2
	})
	seq.set(func() { seq.mu.held = make(chan struct{}) })
	var answers []<-chan answer
	for i := range 3 {
		answers = append(answers, call(r, putReq(fmt.Sprint(i), "v")))
	}
	require.ErrorIs(t, (<-call(r, putReq("4", "v"))).err, rpctypes.ErrGRPCRequestTooManyRequests)
	for i := range 2 {
		answers = append(answers, call(r, getReq(fmt.Sprintf("r%d", i))))
	}
	require.ErrorIs(t, (<-call(r, getReq("r"))).err, rpctypes.ErrGRPCRequestTooManyRequests)
	seq.set(func() { close(seq.mu.held); seq.mu.held = nil })
	for _, a := range answers {
		await(t, a)
	}
	// By size: one large request passes alone, and not beside another one.
	seq.set(func() { seq.mu.held = make(chan struct{}) })
	large := call(r, putReq("large", string(make([]byte, 2000))))
	require.ErrorIs(t, (<-call(r, putReq("x", "v"))).err, rpctypes.ErrGRPCRequestTooManyRequests)
	seq.set(func() { close(seq.mu.held); seq.mu.held = nil })
	await(t, large)
	await(t, call(r, putReq("x", "v")))
}

func TestTransactionsWithRevisions(t *testing.T) {
	r, seq, _ := single(t, nil)
	await(t, call(r, putReq("a", "1")))
	await(t, call(r, putReq("a", "2")))
	// A transaction that writes and reads an older revision.
	txn := func(rev int64) *Request {
		return &Request{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("b"), Value: []byte("x")}}},
			{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a"), Revision: rev}}},
		}}}
	}
	reply := await(t, call(r, txn(2)))
	require.Equal(t, "1", string(reply.Txn.Responses[1].GetResponseRange().Kvs[0].Value))
	require.Equal(t, int64(4), reply.Revision)
	require.ErrorIs(t, (<-call(r, txn(9))).err, rpctypes.ErrGRPCFutureRev)
	seq.set(func() { seq.mu.compact = 3 })
	require.ErrorIs(t, (<-call(r, txn(2))).err, rpctypes.ErrGRPCCompacted)
}

func TestRequestsOutsideTheShard(t *testing.T) {
	half := wholeShard()
	half.End = keyspace.User([]byte("m"))
	r, _, _ := single(t, func(c *Config) { c.Descriptor = half })
	for _, req := range []*Request{putReq("m", "1"), getReq("z"), listReq("a", "n"),
		{Delete: &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte{0}}}} {
		var wrong *WrongRangeError
		require.ErrorAs(t, (<-call(r, req)).err, &wrong)
		require.True(t, proto.Equal(half, wrong.Descriptors[0]))
	}
	await(t, call(r, putReq("l", "1")))
	await(t, call(r, listReq("a", "m")))
	// An empty range lies everywhere.
	require.Zero(t, await(t, call(r, listReq("z", "a"))).Range.Count)
}

func TestCopyVouchesOnlyForItsGeneration(t *testing.T) {
	seq := newFakeSequencer()
	g := newFakeGroup(t)
	owner, follower := g.addNode(seq, nil), g.addNode(seq, nil)
	g.lead(owner)
	until(t, "serving", owner.replica.Serving)
	await(t, call(owner.replica, putReq("a", "1")))
	confirm := getReq("a")
	confirm.Confirm = true
	reply := await(t, call(owner.replica, confirm))
	require.Nil(t, reply.Range)
	ctx := context.Background()
	c, err := follower.replica.Copy(ctx, reply.Generation, reply.Applied, reply.Revision)
	require.NoError(t, err)
	require.Equal(t, reply.Revision, c.Revision())
	kv, err := c.Get(keyspace.User([]byte("a")), reply.Revision)
	require.NoError(t, err)
	require.Equal(t, "1", string(kv.Value))
	c.Close()

	child := &kvdpb.Descriptor{Shard: 8, Parent: fakeShard, Start: keyspace.User([]byte("m")), End: keyspace.Max()}
	require.NoError(t, owner.replica.Split(ctx, child, 2, nil))
	index, _ := owner.replica.Applied()
	_, err = follower.replica.Copy(ctx, reply.Generation, index, reply.Revision)
	require.ErrorIs(t, err, ErrStaleCopy)
	c, err = follower.replica.Copy(ctx, 2, index, 0)
	require.NoError(t, err)
	require.Equal(t, keyspace.User([]byte("m")), c.Span().End)
	c.Close()

	require.NoError(t, owner.replica.Compact(ctx, 5))
	index, _ = owner.replica.Applied()
	_, err = follower.replica.Copy(ctx, 0, index, 4)
	require.ErrorIs(t, err, ErrStaleCopy)
	short, cancel := context.WithCancel(ctx)
	cancel()
	_, err = follower.replica.Copy(short, 0, index+1, 0)
	require.ErrorIs(t, err, context.Canceled)
}

// A replica of a split-born shard that has no seed must not go on: it would miss
// the data of before the split.
func TestInitFailsHardWithoutSeed(t *testing.T) {
	seq := newFakeSequencer()
	born := wholeShard()
	born.Parent = 3
	n := newFakeGroup(t).addNode(seq, func(c *Config) { c.Descriptor = born })
	cmd, err := proto.Marshal(&kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Init{Init: &kvdpb.ShardInit{Descriptor_: born}}})
	require.NoError(t, err)
	err = n.replica.Apply(entryOf(1, cmd))
	require.ErrorContains(t, err, "has no seed")
	require.Error(t, n.replica.Apply(entryOf(1, []byte{0xff})), "a command that nobody understands")
	require.Error(t, n.replica.Apply(entryOf(1, []byte{1, 0xff})), "a batch that nobody understands")
	index, _ := n.replica.Applied()
	require.Zero(t, index)
}

// Decisions that are learned at the same time get into the log in the order of
// their revisions, whoever of those who bring them is faster.
func TestDecisionsLearnedTogetherKeepTheirOrder(t *testing.T) {
	r, seq, _ := single(t, nil)
	await(t, call(r, putReq("x", "0")))
	step := func(txn string, p *kvdpb.PartRequest) *Request {
		p.Txn, p.Epoch = []byte(txn), 1
		return &Request{Part: p}
	}
	const together = 8
	rev := int64(10)
	for round := range 200 {
		txns := make([]string, together)
		for i := range txns {
			txns[i] = fmt.Sprintf("t%d.%d", round, i)
			key := fmt.Appendf(nil, "k%d", i)
			await(t, call(r, step(txns[i], &kvdpb.PartRequest{Step: &kvdpb.PartRequest_Latch{Latch: &kvdpb.PartLatch{
				Spans: []*kvdpb.KeySpan{keySpan(key, true)},
			}}})))
			await(t, call(r, step(txns[i], &kvdpb.PartRequest{Step: &kvdpb.PartRequest_Prepare{Prepare: &kvdpb.PartPrepare{Prepared: &kvdpb.Prepared{
				Anchor: keyspace.User([]byte("zz")), Participants: []*kvdpb.KeySpan{keySpan([]byte("a"), false)},
				Effects: []*kvdpb.KeyEffect{{Key: keyspace.User(key), Version: 1}},
			}}}})))
		}
		seq.set(func() { seq.mu.last = rev + together })
		var answers []<-chan answer
		start := make(chan struct{})
		var mu sync.Mutex
		var ready, wg sync.WaitGroup
		for i, txn := range txns {
			req := step(txn, &kvdpb.PartRequest{Step: &kvdpb.PartRequest_Decide{Decide: &kvdpb.PartDecide{Revision: rev + int64(i)}}})
			ready.Add(1)
			wg.Go(func() {
				ready.Done()
				<-start
				a := call(r, req)
				mu.Lock()
				defer mu.Unlock()
				answers = append(answers, a)
			})
		}
		ready.Wait()
		close(start)
		wg.Wait()
		for _, a := range answers {
			await(t, a)
		}
		rev += together
		require.Zero(t, r.Stats().RevisionAlarms, "round %d", round)
	}
}
