package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/history"
)

const (
	keys           = 40
	requestTimeout = 3 * time.Second
)

func keyName(i int) string { return fmt.Sprintf("k%02d", i) }

// traffic is what the clients of a round do.
type traffic struct {
	recorder *history.Recorder
	// oneShard is set when the server refuses transactions over several shards: clients then keep to one key.
	oneShard atomic.Bool
	seen     atomic.Int64 // the largest revision that any client was told
	values   atomic.Int64
}

// client sends one request after the other through one member.
type client struct {
	t      *traffic
	id     int
	member string
	kv     pb.KVClient
	rng    *rand.Rand
	known  map[string]*mvccpb.KeyValue
}

func (t *traffic) client(id int, member string, cli *clientv3.Client, rng *rand.Rand) *client {
	return &client{t: t, id: id, member: member, kv: clientv3.RetryKVClient(cli), rng: rng, known: map[string]*mvccpb.KeyValue{}}
}

// work sends requests until stop is closed, a few hundred a second at most for all clients together: the history has to be judged as well.
func (c *client) work(stop <-chan struct{}, wg *sync.WaitGroup) {
	defer wg.Done()
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case <-stop:
			return
		case <-pace.C:
		}
		_, _ = c.do(context.Background(), c.request())
	}
}

// do sends a request, and remembers what it learned.
func (c *client) do(ctx context.Context, req history.Request) (*history.Operation, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	op, err := c.t.recorder.Do(ctx, c.kv, c.id, c.member, req)
	if history.IsUnimplemented(err) {
		c.t.oneShard.Store(true)
	}
	if err != nil {
		return op, fmt.Errorf("%s through %s: %w", op, c.member, err)
	}
	if r := op.Response.Range; r != nil {
		for _, kv := range r.Kvs {
			c.known[string(kv.Key)] = kv
		}
	}
	rev := op.Revision()
	for old := c.t.seen.Load(); rev > old && !c.t.seen.CompareAndSwap(old, rev); old = c.t.seen.Load() {
	}
	return op, nil
}

// value is one that nobody else puts.
func (c *client) value() []byte { return fmt.Appendf(nil, "c%d-%d", c.id, c.t.values.Add(1)) }

func (c *client) key() []byte { return []byte(keyName(c.rng.IntN(keys))) }

// span is a range of keys, mostly small.
func (c *client) span() (from, to int) {
	n := 2 + c.rng.IntN(6)
	if c.rng.IntN(5) == 0 {
		n = 2 + c.rng.IntN(keys)
	}
	from = c.rng.IntN(keys)
	return from, min(from+n, keys)
}

// request makes the next request.
func (c *client) request() history.Request {
	switch n := c.rng.IntN(100); {
	case n < 20:
		return history.Request{Range: &pb.RangeRequest{Key: c.key()}}
	case n < 32:
		return history.Request{Range: c.rangeRequest()}
	case n < 40:
		r := c.rangeRequest()
		r.Serializable = true
		return history.Request{Range: r}
	case n < 46:
		r := c.rangeRequest()
		// Now and then a revision that is not there yet.
		r.Revision = max(1, c.t.seen.Load()+2-c.rng.Int64N(60)*c.rng.Int64N(4))
		return history.Request{Range: r}
	case n < 66:
		return history.Request{Put: c.put(c.key())}
	case n < 72:
		return history.Request{Delete: &pb.DeleteRangeRequest{Key: c.key(), PrevKv: c.rng.IntN(2) == 0}}
	case n < 74 && !c.t.oneShard.Load():
		from, to := c.span()
		return history.Request{Delete: &pb.DeleteRangeRequest{Key: []byte(keyName(from)), RangeEnd: []byte(keyName(to)), PrevKv: c.rng.IntN(2) == 0}}
	case n < 84:
		return history.Request{Txn: c.swap()}
	}
	return history.Request{Txn: c.txn(2)}
}

func (c *client) put(key []byte) *pb.PutRequest {
	return &pb.PutRequest{Key: key, Value: c.value(), PrevKv: c.rng.IntN(2) == 0}
}

func (c *client) rangeRequest() *pb.RangeRequest {
	from, to := c.span()
	r := &pb.RangeRequest{Key: []byte(keyName(from)), RangeEnd: []byte(keyName(to))}
	switch c.rng.IntN(6) {
	case 0:
		r.Limit = 1 + c.rng.Int64N(5)
	case 1:
		r.CountOnly = true
	case 2:
		r.KeysOnly = true
	case 3:
		r.SortOrder, r.SortTarget = pb.RangeRequest_DESCEND, pb.RangeRequest_MOD
		r.Limit = c.rng.Int64N(4)
	}
	return r
}

// swap is a compare-and-swap of one key by what this client saw of it last, or the creation of one that it knows nothing of.
func (c *client) swap() *pb.TxnRequest {
	key := c.key()
	compare := &pb.Compare{Key: key, Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_CreateRevision{}}
	if kv := c.known[string(key)]; kv != nil {
		compare = &pb.Compare{Key: key, Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: kv.ModRevision}}
	}
	get := history.Part(history.Request{Range: &pb.RangeRequest{Key: key}})
	return &pb.TxnRequest{
		Compare: []*pb.Compare{compare},
		Success: []*pb.RequestOp{history.Part(history.Request{Put: c.put(key)}), get},
		Failure: []*pb.RequestOp{get},
	}
}

// txn is a transaction over several keys; where the server keeps transactions in one shard, all of one key.
func (c *client) txn(depth int) *pb.TxnRequest {
	t := &txnMaker{client: c}
	if c.t.oneShard.Load() {
		key := c.rng.IntN(keys)
		t.free = []int{key}
		t.readable = func() (int, int) { return key, key + 1 }
	} else {
		t.free = c.rng.Perm(keys)[:8]
		t.readable = c.span
		if c.rng.IntN(3) == 0 {
			from, to := c.span()
			t.wide = &pb.DeleteRangeRequest{Key: []byte(keyName(from)), RangeEnd: []byte(keyName(to)), PrevKv: true}
			t.free = slices.DeleteFunc(t.free, func(k int) bool { return from <= k && k < to })
		}
	}
	return t.make(depth)
}

// txnMaker makes a transaction that etcd accepts: no key is written twice on any path.
type txnMaker struct {
	*client
	free     []int                  // keys that nothing of the transaction writes yet
	wide     *pb.DeleteRangeRequest // a range of which none is free, to be deleted once
	readable func() (from, to int)
}

func (t *txnMaker) make(depth int) *pb.TxnRequest {
	out := &pb.TxnRequest{}
	for range t.rng.IntN(3) {
		out.Compare = append(out.Compare, t.compare())
	}
	readOnly := t.rng.IntN(5) == 0
	branch := func() (ops []*pb.RequestOp) {
		for range 1 + t.rng.IntN(4) {
			ops = append(ops, t.part(depth, readOnly))
		}
		return ops
	}
	out.Success, out.Failure = branch(), branch()
	return out
}

func (t *txnMaker) part(depth int, readOnly bool) *pb.RequestOp {
	from, to := t.readable()
	read := history.Request{Range: &pb.RangeRequest{Key: []byte(keyName(from)), RangeEnd: []byte(keyName(to))}}
	n := t.rng.IntN(10)
	switch {
	case n < 2 && depth > 0:
		return history.Part(history.Request{Txn: t.make(depth - 1)})
	case n == 9 && t.wide != nil && !readOnly:
		wide := t.wide
		t.wide = nil
		return history.Part(history.Request{Delete: wide})
	case readOnly || n < 4 || len(t.free) == 0:
		return history.Part(read)
	}
	key := t.free[0]
	t.free = t.free[1:]
	if n < 8 {
		return history.Part(history.Request{Put: t.put([]byte(keyName(key)))})
	}
	return history.Part(history.Request{Delete: &pb.DeleteRangeRequest{Key: []byte(keyName(key))}})
}

func (t *txnMaker) compare() *pb.Compare {
	from, to := t.readable()
	key := keyName(from)
	if kv := t.known[key]; kv != nil && t.rng.IntN(2) == 0 {
		return &pb.Compare{Key: []byte(key), Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Value{Value: kv.Value}}
	}
	c := &pb.Compare{Key: []byte(key), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{Version: t.rng.Int64N(3)}}
	if t.rng.IntN(3) == 0 {
		// A compare of a range: all of its keys are older than some revision.
		c = &pb.Compare{Key: []byte(key), RangeEnd: []byte(keyName(to)), Target: pb.Compare_MOD, Result: pb.Compare_LESS, TargetUnion: &pb.Compare_ModRevision{ModRevision: t.t.seen.Load() - t.rng.Int64N(20)}}
	}
	return c
}

// burstRequest is a put to one of a few keys.
func (c *client) burstRequest() history.Request {
	return history.Request{Put: &pb.PutRequest{Key: []byte(keyName(7 * c.rng.IntN(keys/7))), Value: c.value()}}
}
