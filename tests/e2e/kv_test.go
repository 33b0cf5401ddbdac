package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// clientRange is a half-open range for the client.
func clientRange(end string) clientv3.OpOption { return clientv3.WithRange(end) }

func testPutGetDelete(t *testing.T, e *env, p string) {
	k := p + "k"
	first := e.put(t, k, "one")
	second := e.put(t, k, "two")
	if second != first+1 {
		t.Errorf("revisions %d, %d", first, second)
	}
	kv := e.get(t, k).Kvs[0]
	if string(kv.Key) != k || string(kv.Value) != "two" || kv.CreateRevision != first || kv.ModRevision != second || kv.Version != 2 || kv.Lease != 0 {
		t.Errorf("got %v", kv)
	}
	resp, err := e.cli.Put(within(t, patience), k, "three", clientv3.WithPrevKV())
	if err != nil {
		t.Fatal(err)
	}
	if resp.PrevKv == nil || string(resp.PrevKv.Value) != "two" || resp.PrevKv.Version != 2 {
		t.Errorf("prev_kv %v", resp.PrevKv)
	}
	if resp, err = e.cli.Put(within(t, patience), p+"new", "", clientv3.WithPrevKV()); err != nil || resp.PrevKv != nil {
		t.Errorf("prev_kv of a new key %v, %v", resp.PrevKv, err)
	}
	e.put(t, k, "", clientv3.WithIgnoreValue())
	if kv := e.get(t, k).Kvs[0]; string(kv.Value) != "three" || kv.Version != 4 {
		t.Errorf("after a put that ignores the value: %v", kv)
	}
	e.put(t, k, "four", clientv3.WithIgnoreLease())

	del := e.del(t, k, clientv3.WithPrevKV())
	if del.Deleted != 1 || len(del.PrevKvs) != 1 || string(del.PrevKvs[0].Value) != "four" {
		t.Errorf("delete: %v", del)
	}
	if got := e.get(t, k); len(got.Kvs) != 0 || got.Count != 0 || got.Header.Revision != del.Header.Revision {
		t.Errorf("after delete: %v", got)
	}
	again := e.put(t, k, "five")
	if kv := e.get(t, k).Kvs[0]; kv.CreateRevision != again || kv.Version != 1 {
		t.Errorf("created anew: %v", kv)
	}
	// A value of zero length and a long key.
	long := p + string(bytes.Repeat([]byte("l"), 32<<10))
	e.put(t, long, "")
	if got := e.get(t, long); len(got.Kvs) != 1 || len(got.Kvs[0].Value) != 0 || string(got.Kvs[0].Key) != long {
		t.Errorf("a long key with an empty value: %d keys", len(got.Kvs))
	}
	for i := range 5 {
		e.put(t, fmt.Sprintf("%srange/%d", p, i), "v")
	}
	del = e.del(t, p+"range/1", clientv3.WithRange(p+"range/4"), clientv3.WithPrevKV())
	if del.Deleted != 3 || len(del.PrevKvs) != 3 || string(del.PrevKvs[0].Key) != p+"range/1" {
		t.Errorf("delete of a range: %v", del)
	}
	if got := e.get(t, p+"range/", clientv3.WithPrefix()); got.Count != 2 {
		t.Errorf("%d keys are left", got.Count)
	}
}

// testRevisionsAreDense: every transaction that changes something takes the next revision, and nothing else takes one.
func testRevisionsAreDense(t *testing.T, e *env, p string) {
	e.split(t, p+"m")
	rev := e.revision(t)
	step := func(what string, got, by int64) {
		t.Helper()
		if got != rev+by {
			t.Errorf("%s: revision %d after %d, want %d", what, got, rev, rev+by)
		}
		rev = got
	}
	for i := range 20 {
		step("put", e.put(t, fmt.Sprintf("%s%c", p, 'a'+i), "v"), 1)
	}
	step("put of the same value", e.put(t, p+"a", "v"), 1)
	step("get", e.get(t, p+"a").Header.Revision, 0)
	step("delete", e.del(t, p+"a").Header.Revision, 1)
	step("delete of nothing", e.del(t, p+"a").Header.Revision, 0)
	txn := func() clientv3.Txn { return e.cli.Txn(within(t, patience)) }
	missing := clientv3.Compare(clientv3.Version(p+"b"), "=", 0)
	step("txn that fails", e.commit(t, txn().If(missing).Then(clientv3.OpPut(p+"b", "x"))).Header.Revision, 0)
	step("txn of several puts", e.commit(t, txn().Then(clientv3.OpPut(p+"b", "x"), clientv3.OpPut(p+"c", "x"), clientv3.OpDelete(p+"d"))).Header.Revision, 1)
	step("txn that reads", e.commit(t, txn().Then(clientv3.OpGet(p+"b"))).Header.Revision, 0)
	step("txn that deletes nothing", e.commit(t, txn().Then(clientv3.OpDelete(p+"a"))).Header.Revision, 0)
	step("txn without anything", e.commit(t, txn()).Header.Revision, 0)
	if e.sharded {
		e.split(t, p+"f")
		step("split", e.revision(t), 0)
	}
	step("put", e.put(t, p+"a", "v"), 1)
}

// testEveryByteInKeys: keys are bytes, ordered as bytes.
func testEveryByteInKeys(t *testing.T, e *env, p string) {
	e.split(t, p+"\x00", p+"\x00\x01", p+"\x7f", p+"\xff", p+"\xff\xff")
	var keys []string
	for b := range 256 {
		keys = append(keys, p+string([]byte{byte(b)}), p+string([]byte{0, byte(b)}), p+string([]byte{0xff, byte(b)}))
	}
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for w := range errs {
		wg.Go(func() {
			for i := w; i < len(keys); i += len(errs) {
				_, err := e.cli.Put(t.Context(), keys[i], fmt.Sprintf("%x", keys[i]))
				errs[w] = errors.Join(errs[w], err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	got := e.get(t, p, clientv3.WithPrefix())
	if len(got.Kvs) != len(keys) || got.Count != int64(len(keys)) {
		t.Fatalf("%d keys, count %d, want %d", len(got.Kvs), got.Count, len(keys))
	}
	for i, kv := range got.Kvs {
		if string(kv.Key) != keys[i] || string(kv.Value) != fmt.Sprintf("%x", keys[i]) {
			t.Fatalf("key %d is %q with value %q, want %q", i, kv.Key, kv.Value, keys[i])
		}
	}
	for _, key := range keys[:20] {
		if got := e.get(t, key); len(got.Kvs) != 1 {
			t.Errorf("key %q is not found", key)
		}
	}
	// Beyond every prefix: the largest keys, and "from here to the end".
	last := "\xff\xff\xff" + p
	e.put(t, last, "last")
	if got := e.get(t, "\xff", clientv3.WithFromKey()); len(got.Kvs) != 1 || string(got.Kvs[0].Key) != last {
		t.Errorf("from \\xff on: %d keys", len(got.Kvs))
	}
	if del := e.del(t, "\xff\xff", clientv3.WithFromKey()); del.Deleted != 1 {
		t.Errorf("deleted %d from \\xff\\xff on", del.Deleted)
	}
	first := "\x00"
	e.put(t, first, "first")
	if got := e.get(t, "\x00", clientv3.WithFromKey(), clientv3.WithLimit(1)); len(got.Kvs) != 1 || string(got.Kvs[0].Key) != first {
		t.Errorf("the first key of all: %v", got.Kvs)
	}
	e.del(t, first)
}

func testEmptyRanges(t *testing.T, e *env, p string) {
	e.split(t, p+"b")
	for _, k := range []string{"a", "b", "c"} {
		e.put(t, p+k, k)
	}
	rev := e.revision(t)
	for _, c := range []struct{ key, end string }{{"b", "b"}, {"c", "a"}, {"b", "a"}, {"d", "e"}, {"b\x00", "c"}} {
		got, err := e.kv().Range(within(t, patience), &pb.RangeRequest{Key: []byte(p + c.key), RangeEnd: []byte(p + c.end)})
		if err != nil || len(got.Kvs) != 0 || got.Count != 0 || got.More || got.Header.Revision != rev {
			t.Errorf("range %q to %q: %v, %v", c.key, c.end, got, err)
		}
		del, err := e.kv().DeleteRange(within(t, patience), &pb.DeleteRangeRequest{Key: []byte(p + c.key), RangeEnd: []byte(p + c.end)})
		if err != nil || del.Deleted != 0 || del.Header.Revision != rev {
			t.Errorf("delete %q to %q: %v, %v", c.key, c.end, del, err)
		}
		txn, err := e.kv().Txn(within(t, patience), &pb.TxnRequest{Success: []*pb.RequestOp{opGet(p+c.key, p+c.end), opDelete(p+c.key, p+c.end)}})
		if err != nil || txn.Header.Revision != rev || txn.Responses[0].GetResponseRange().Count != 0 {
			t.Errorf("txn over %q to %q: %v, %v", c.key, c.end, txn, err)
		}
	}
	if got := e.get(t, p, clientv3.WithPrefix()); got.Count != 3 {
		t.Errorf("%d keys are left of 3", got.Count)
	}
}

// testConcurrentCounters: transactions of many clients on few keys lose no update, and the revisions they get are dense.
func testConcurrentCounters(t *testing.T, e *env, p string) {
	e.split(t, p+"1", p+"2")
	const clients, rounds, keys = 12, 15, 3
	for i := range keys {
		e.put(t, fmt.Sprintf("%s%d", p, i), "0")
	}
	before := e.revision(t)
	ctx := within(t, patience)
	var mu sync.Mutex
	var revisions []int64
	var wg sync.WaitGroup
	errs := make([]error, clients)
	for c := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(c), 3))
			for range rounds {
				key := fmt.Sprintf("%s%d", p, rng.IntN(keys))
				for {
					cli := e.pinned[rng.IntN(len(e.pinned))]
					got, err := cli.Get(ctx, key)
					if err != nil {
						errs[c] = err
						return
					}
					kv := got.Kvs[0]
					resp, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).
						Then(clientv3.OpPut(key, fmt.Sprint(kv.Version))).Commit()
					if err != nil {
						errs[c] = err
						return
					}
					if resp.Succeeded {
						mu.Lock()
						revisions = append(revisions, resp.Header.Revision)
						mu.Unlock()
						break
					}
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	var versions int64
	for i := range keys {
		kv := e.get(t, fmt.Sprintf("%s%d", p, i)).Kvs[0]
		versions += kv.Version
		if string(kv.Value) != fmt.Sprint(kv.Version-1) {
			t.Errorf("key %d has value %s at version %d", i, kv.Value, kv.Version)
		}
	}
	if versions != clients*rounds+keys {
		t.Errorf("%d updates are left of %d", versions-keys, clients*rounds)
	}
	slices.Sort(revisions)
	for i, r := range revisions {
		if r != before+int64(i)+1 {
			t.Fatalf("the %d. update has revision %d after %d", i+1, r, before)
		}
	}
}

// testReadYourWrites: what one member has answered, every other member shows at once.
func testReadYourWrites(t *testing.T, e *env, p string) {
	e.split(t, p+"k05", p+"k10")
	rng := rand.New(rand.NewPCG(5, 5))
	for i := range 60 {
		key := fmt.Sprintf("%sk%02d", p, rng.IntN(15))
		put, err := e.pinned[i%3].Put(within(t, patience), key, fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		for m, cli := range e.pinned {
			got, err := cli.Get(within(t, patience), key)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != fmt.Sprint(i) || got.Kvs[0].ModRevision != put.Header.Revision || got.Header.Revision != put.Header.Revision {
				t.Fatalf("put %d through member %d at revision %d, member %d shows %v", i, i%3+1, put.Header.Revision, m+1, got)
			}
		}
	}
}

// testSerializable: a serializable read may be stale, but is exact at the revision it names, and catches up.
func testSerializable(t *testing.T, e *env, p string) {
	e.split(t, p+"b")
	var last int64
	for i := range 50 {
		e.put(t, p+"a", fmt.Sprint(i))
		last = e.put(t, p+"b", fmt.Sprint(i))
		for _, cli := range e.pinned {
			got, err := cli.Get(within(t, patience), p, clientv3.WithPrefix(), clientv3.WithSerializable())
			if err != nil {
				t.Fatal(err)
			}
			exact := e.get(t, p, clientv3.WithPrefix(), clientv3.WithRev(got.Header.Revision))
			if fmt.Sprint(got.Kvs) != fmt.Sprint(exact.Kvs) {
				t.Fatalf("serializable at %d: %v, exactly %v", got.Header.Revision, got.Kvs, exact.Kvs)
			}
		}
	}
	for m, cli := range e.pinned {
		eventually(t, patience, func(ctx context.Context) error {
			got, err := cli.Get(ctx, p, clientv3.WithPrefix(), clientv3.WithSerializable())
			if err != nil {
				return err
			}
			if got.Header.Revision < last || len(got.Kvs) != 2 || string(got.Kvs[1].Value) != "49" {
				return fmt.Errorf("member %d still shows revision %d", m+1, got.Header.Revision)
			}
			return nil
		})
	}
}
