package shard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard/command"
)

// chaos drives a group of three through random changes of leader, lost
// proposals, pauses and jumps of the sequencer's clock, under load, then heals it
// and checks against the final history:
//
//   - every acknowledged write stands at its revision;
//   - a write that was told to go elsewhere did not happen;
//   - every read is exactly the state at its revision;
//   - revisions follow real time: what began after something ended is newer;
//   - all replicas hold the same.
//
// The seed is printed; KVD_SEED repeats a run as far as scheduling allows.
type chaos struct {
	t       *testing.T
	seq     *fakeSequencer
	g       *fakeGroup
	done    atomic.Int64 // largest revision of anything that ended
	stop    chan struct{}
	clients sync.WaitGroup
	// probes counts the attempts of probeDeposed, probed those that got to read.
	probes, probed int

	mu struct {
		sync.Mutex
		reads    []chaosRead
		writes   []chaosWrite
		resolved []Resolved
		unsure   int
	}
}

type chaosRead struct {
	key      string
	revision int64
	value    string // empty: absent
	count    int64  // -1 for a point read
}

type chaosWrite struct {
	key, value string
	revision   int64 // 0: did not happen
}

const chaosKeys = 40

func chaosKey(i int) string { return fmt.Sprintf("key-%02d", i) }

func TestChaos(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("KVD_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("KVD_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))

	c := &chaos{t: t, seq: newFakeSequencer(), g: newFakeGroup(t), stop: make(chan struct{})}
	for range 3 {
		c.g.addNode(c.seq, func(cfg *Config) {
			cfg.Limits.BatchWrites = 2
			cfg.Limits.Heads = 8
		})
	}
	for i := range 24 {
		c.clients.Go(func() { c.client(rand.New(rand.NewPCG(seed, uint64(2+i))), i) })
	}
	c.g.lead(c.g.nodes[0])
	end := time.Now().Add(2 * time.Second)
	for i := 0; time.Now().Before(end); i++ {
		if i%6 == 5 {
			c.calm(rng)
			continue
		}
		c.disturb(rng)
		pause(context.Background(), time.Duration(rng.IntN(15))*time.Millisecond)
	}
	c.heal(rng)
	close(c.stop)
	c.clients.Wait()
	c.check()
}

// disturb does one random thing.
func (c *chaos) disturb(rng *rand.Rand) {
	n := c.g.nodes[rng.IntN(len(c.g.nodes))]
	switch rng.IntN(26) {
	case 24, 25:
		to := c.g.nodes[rng.IntN(len(c.g.nodes))]
		c.clients.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			// It fails when others disturb it.
			_ = n.replica.Release(ctx, to.cfg.Replica, nil)
		})
	case 20, 21:
		// The leader is cut off and does not know; another one is elected.
		if l := c.g.leading(); l != nil && l != n {
			l.isolate(true)
			c.g.truncate()
			c.g.lead(n)
			for i := 0; i < 40 && !n.replica.Serving(); i++ {
				c.seq.advance(30 * time.Millisecond)
				pause(context.Background(), 3*time.Millisecond)
			}
			c.probeDeposed(l, n)
		}
	case 22, 23:
		n.isolate(false)
	case 0:
		c.g.lead(nil)
	case 1:
		// A new leader whose log lacks what was not committed; a part of it may
		// arrive late, as forwarded messages do.
		var late []fakeEntry
		c.g.do(func() {
			late = append(late, c.g.mu.entries[c.g.mu.committed:]...)
			c.g.mu.entries = c.g.mu.entries[:c.g.mu.committed]
			c.g.mu.hold = false
		})
		c.g.lead(n)
		for _, e := range late {
			if rng.IntN(2) == 0 {
				c.g.do(func() {
					c.g.mu.entries = append(c.g.mu.entries, e)
					c.g.mu.committed = len(c.g.mu.entries)
				})
			} else if rng.IntN(2) == 0 {
				e.proposal.finish(multiraft.Outcome{Kind: multiraft.Unknown, Err: multiraft.ErrTimeout})
			}
		}
	case 2:
		c.g.lead(n)
		c.g.commitAll()
	case 3:
		n.pause(true)
	case 4, 5, 12, 13:
		if !n.isIsolated() {
			n.pause(false)
		}
	case 6:
		c.g.do(func() { c.g.mu.lose = multiraft.OutcomeKind(2 + rng.IntN(2)) })
	case 7, 14, 15:
		c.g.do(func() { c.g.mu.lose = 0 })
	case 8:
		c.g.do(func() { c.g.mu.hold = true })
	case 9, 16, 17:
		c.g.commitAll()
	case 10:
		c.seq.set(func() { c.seq.mu.remote = !c.seq.mu.remote })
	case 11:
		// The lost sequencer's successor goes on above its window.
		c.seq.set(func() {
			c.seq.mu.epoch++
			c.seq.mu.last += 10
			c.seq.mu.reading = time.Duration(rng.IntN(1000)) * time.Millisecond
		})
	}
	if rng.IntN(3) == 0 {
		c.seq.advance(time.Duration(rng.IntN(500)) * time.Millisecond)
	}
}

// probeDeposed writes at the new owner a key that nobody else uses, and reads it
// at the old one, which does not know of its successor.
func (c *chaos) probeDeposed(old, successor *fakeNode) {
	c.probes++
	key := fmt.Sprintf("key-probe-%d", c.probes)
	if _, err := c.send(successor, putReq(key, key)); err != nil {
		return
	}
	c.probed++
	if reply, err := c.send(old, getReq(key)); err == nil && len(reply.Range.Kvs) == 0 {
		c.t.Errorf("the deposed owner answered a read at %d without a write that had ended", reply.Revision)
	}
}

// calm ends all disturbance and waits until somebody serves.
func (c *chaos) calm(rng *rand.Rand) *fakeNode {
	c.g.do(func() { c.g.mu.lose = 0 })
	c.g.commitAll()
	for _, n := range c.g.nodes {
		n.isolate(false)
	}
	n := c.g.nodes[rng.IntN(len(c.g.nodes))]
	if l := c.g.leading(); l != nil && rng.IntN(2) == 0 {
		n = l
	} else {
		c.g.lead(nil)
		c.g.lead(n)
	}
	until(c.t, "serving", func() bool {
		c.seq.advance(10 * time.Millisecond)
		return n.replica.Serving()
	})
	pause(context.Background(), 10*time.Millisecond)
	return n
}

// heal demands progress, and that all replicas get there.
func (c *chaos) heal(rng *rand.Rand) {
	n := c.calm(rng)
	reply, err := c.send(n, putReq("last", "1"))
	require.NoError(c.t, err)
	until(c.t, "all replicas applied", func() bool {
		for _, o := range c.g.nodes {
			if _, rev := o.replica.Applied(); rev < reply.Revision {
				return false
			}
		}
		return true
	})
}

func (c *chaos) send(n *fakeNode, req *Request) (*Reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	req.Ctx = ctx
	select {
	case a := <-call(n.replica, req):
		return a.reply, a.err
	case <-ctx.Done():
		// A write that has asked for its revision is answered when it applies.
		return nil, ctx.Err()
	}
}

// client sends requests to random members until it is told to stop.
func (c *chaos) client(rng *rand.Rand, id int) {
	for i := 0; ; i++ {
		select {
		case <-c.stop:
			return
		default:
		}
		n := c.g.nodes[rng.IntN(len(c.g.nodes))]
		if !n.replica.Serving() {
			pause(context.Background(), time.Millisecond)
			if rng.IntN(4) > 0 {
				continue
			}
		}
		began := c.done.Load()
		key, value := chaosKey(rng.IntN(chaosKeys)), fmt.Sprintf("%d-%d", id, i)
		var reply *Reply
		var err error
		switch rng.IntN(6) {
		case 4:
			c.resolve(n, began)
			continue
		case 5:
			if reply, err = c.readCopy(rng, n, key); err != nil {
				continue
			}
		case 0:
			if reply, err = c.send(n, getReq(key)); err == nil {
				r := chaosRead{key: key, revision: reply.Revision, count: -1}
				if len(reply.Range.Kvs) > 0 {
					r.value = string(reply.Range.Kvs[0].Value)
				}
				c.noteRead(r)
			}
		case 1:
			if reply, err = c.send(n, listReq("key", "kez")); err == nil {
				for _, kv := range reply.Range.Kvs {
					c.noteRead(chaosRead{key: string(kv.Key), revision: reply.Revision, value: string(kv.Value), count: -1})
				}
				c.noteRead(chaosRead{revision: reply.Revision, count: reply.Range.Count})
			}
		case 2:
			// A transaction that writes only if the key has an even version.
			reply, err = c.send(n, &Request{Txn: &pb.TxnRequest{
				Compare: []*pb.Compare{{Key: []byte(key), Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL,
					TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 0}}},
				Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{
					RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}}},
				Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{
					RequestRange: &pb.RangeRequest{Key: []byte(key)}}}},
			}})
			if err == nil && !reply.Txn.Succeeded {
				c.noteRead(chaosRead{key: key, revision: reply.Revision, count: -1,
					value: string(reply.Txn.Responses[0].GetResponseRange().Kvs[0].Value)})
			} else {
				c.noteWrite(key, value, reply, err)
			}
		default:
			reply, err = c.send(n, putReq(key, value))
			c.noteWrite(key, value, reply, err)
		}
		if err != nil {
			continue
		}
		if reply.Revision < began {
			c.t.Errorf("revision %d after %d had ended", reply.Revision, began)
		}
		for {
			d := c.done.Load()
			if d >= reply.Revision || c.done.CompareAndSwap(d, reply.Revision) {
				break
			}
		}
	}
}

// resolve notes what a member says is resolved.
func (c *chaos) resolve(n *fakeNode, rev int64) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if res, err := n.replica.Resolve(ctx, rev); err == nil {
		if res.Revision < rev {
			c.t.Errorf("resolved %d, asked for %d", res.Revision, rev)
		}
		c.mu.Lock()
		c.mu.resolved = append(c.mu.resolved, res)
		c.mu.Unlock()
	}
}

// readCopy reads a key at a member's own copy, as the owner confirmed it.
func (c *chaos) readCopy(rng *rand.Rand, owner *fakeNode, key string) (*Reply, error) {
	confirm := listReq("key", "kez")
	confirm.Confirm = true
	reply, err := c.send(owner, confirm)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	cp, err := c.g.nodes[rng.IntN(len(c.g.nodes))].replica.Copy(ctx, reply.Generation, reply.Applied, reply.Revision)
	if err != nil {
		return nil, err
	}
	defer cp.Close()
	kv, err := cp.Get(keyspace.User([]byte(key)), reply.Revision)
	if err != nil {
		return nil, err
	}
	r := chaosRead{key: key, revision: reply.Revision, count: -1}
	if kv != nil {
		r.value = string(kv.Value)
	}
	c.noteRead(r)
	return reply, nil
}

func (c *chaos) noteRead(r chaosRead) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.reads = append(c.mu.reads, r)
}

func (c *chaos) noteWrite(key, value string, reply *Reply, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ambiguous *AmbiguousError
	switch {
	case err == nil:
		c.mu.writes = append(c.mu.writes, chaosWrite{key, value, reply.Revision})
	case errors.As(err, &ambiguous), errors.Is(err, context.DeadlineExceeded):
		c.mu.unsure++
	default:
		c.mu.writes = append(c.mu.writes, chaosWrite{key, value, 0})
	}
}

func (c *chaos) check() {
	t := c.t
	n := c.g.nodes[0]
	sn := n.replica.Store().NewSnapshot()
	defer sn.Close()
	span := keyspace.Users()
	hash, err := sn.Hash(context.Background(), span, 0)
	require.NoError(t, err)
	for _, o := range c.g.nodes[1:] {
		other := o.replica.Store().NewSnapshot()
		h, err := other.Hash(context.Background(), span, 0)
		other.Close()
		require.NoError(t, err)
		require.Equal(t, hash, h, "node %d differs", o.index)
		require.Zero(t, o.replica.Stats().RevisionAlarms)
	}
	happened := map[string]bool{}
	acked := 0
	for _, w := range c.mu.writes {
		if w.revision == 0 {
			continue
		}
		acked++
		kv, err := sn.Get(keyspace.User([]byte(w.key)), w.revision)
		require.NoError(t, err)
		require.NotNil(t, kv, "acknowledged write of %s at %d is gone", w.key, w.revision)
		require.Equal(t, w.revision, kv.ModRevision)
		require.Equal(t, w.value, string(kv.Value))
	}
	_, last := n.replica.Applied()
	_, err = sn.Events(context.Background(), span, 1, last, 1<<30, eventsInto(happened))
	require.NoError(t, err)
	for _, w := range c.mu.writes {
		require.Equal(t, w.revision != 0, happened[w.value], "write %q, told revision %d", w.value, w.revision)
	}
	for _, r := range c.mu.reads {
		if r.count >= 0 {
			count, err := sn.Count(context.Background(), keyspace.UserSpan([]byte("key"), []byte("kez")), r.revision)
			require.NoError(t, err)
			require.Equal(t, count, r.count, "count at %d", r.revision)
			continue
		}
		kv, err := sn.Get(keyspace.User([]byte(r.key)), r.revision)
		require.NoError(t, err)
		value := ""
		if kv != nil {
			value = string(kv.Value)
		}
		require.Equal(t, value, r.value, "read of %s at %d", r.key, r.revision)
	}
	c.checkResolved()
	t.Logf("%d writes acknowledged, %d refused, %d unsure, %d reads, %d of them at deposed owners, %d log entries",
		acked, len(c.mu.writes)-acked, c.mu.unsure, len(c.mu.reads), c.probed, len(c.g.mu.entries))
	require.Greater(t, acked, 20)
	require.Greater(t, len(c.mu.reads), 20)
}

// checkResolved replays the log: no write at or below a resolved revision applied
// behind the index that was named with it.
func (c *chaos) checkResolved() {
	var s state
	index := make(map[int64]uint64)
	for i, e := range c.g.mu.entries {
		var b command.Batch
		if command.IsBatch(e.cmd) {
			require.NoError(c.t, b.Decode(e.cmd))
			if s.checkWrites(&b) == Accepted {
				for _, txn := range b.Txns {
					index[txn.Revision] = uint64(i + 1)
				}
			}
		}
		describeCommand(&s, e.cmd)
	}
	for _, res := range c.mu.resolved {
		for rev, i := range index {
			if rev <= res.Revision && i > res.Applied {
				c.t.Fatalf("resolved %d at index %d, but revision %d applied at %d", res.Revision, res.Applied, rev, i)
			}
		}
	}
	require.Greater(c.t, len(c.mu.resolved), 20)
}

// eventsInto notes the values that were ever written.
func eventsInto(happened map[string]bool) mvcc.VisitEvent {
	return func(_, _ int64, kv *mvccpb.KeyValue, tombstone bool) bool {
		if !tombstone {
			happened[string(kv.Value)] = true
		}
		return true
	}
}
