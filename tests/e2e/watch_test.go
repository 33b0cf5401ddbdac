package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func prefixEnd(p string) []byte { return []byte(clientv3.GetPrefixRangeEnd(p)) }

// testWatchOrderAndKinds: one key, a range, a prefix and everything from a key on see what is theirs, in order.
func testWatchOrderAndKinds(t *testing.T, e *env, p string) {
	e.split(t, p+"b", p+"c")
	ctx := within(t, patience)
	watches := map[string]clientv3.WatchChan{
		"key":    e.cli.Watch(ctx, p+"b", clientv3.WithCreatedNotify()),
		"range":  e.cli.Watch(ctx, p+"a", clientv3.WithRange(p+"c"), clientv3.WithCreatedNotify()),
		"prefix": e.cli.Watch(ctx, p, clientv3.WithPrefix(), clientv3.WithCreatedNotify()),
	}
	for name, ch := range watches {
		if resp := <-ch; !resp.Created {
			t.Fatalf("%s: the first response is %v", name, resp)
		}
	}
	r1 := e.put(t, p+"a", "1")
	r2 := e.put(t, p+"c", "2")
	r3 := e.put(t, p+"b", "3")
	e.del(t, p+"none")
	r4 := e.del(t, p+"b").Header.Revision
	r5 := e.put(t, p+"a", "5")
	if r5 != r1+4 {
		t.Errorf("revisions %d to %d", r1, r5)
	}
	for name, want := range map[string]string{
		"key":    fmt.Sprintf("put b=3@%d, delete b@%d", r3, r4),
		"range":  fmt.Sprintf("put a=1@%d, put b=3@%d, delete b@%d, put a=5@%d", r1, r3, r4, r5),
		"prefix": fmt.Sprintf("put a=1@%d, put c=2@%d, put b=3@%d, delete b@%d, put a=5@%d", r1, r2, r3, r4, r5),
	} {
		if got := collect(t, watches[name], strings.Count(want, ",")+1); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

func testWatchPrevKVAndFilters(t *testing.T, e *env, p string) {
	e.split(t, p+"b")
	start := e.put(t, p+"a", "1")
	r2 := e.put(t, p+"a", "2")
	r3 := e.put(t, p+"b", "3")
	r4 := e.del(t, p+"a").Header.Revision
	r5 := e.put(t, p+"a", "5")
	ctx := within(t, patience)
	for _, c := range []struct {
		name string
		opts []clientv3.OpOption
		want string
	}{
		{"plain", nil, fmt.Sprintf("put a=1@%d, put a=2@%d, put b=3@%d, delete a@%d, put a=5@%d", start, r2, r3, r4, r5)},
		{"prev_kv", []clientv3.OpOption{clientv3.WithPrevKV()}, fmt.Sprintf("put a=1@%d, put a=2@%d (was 1@%d), put b=3@%d, delete a@%d (was 2@%d), put a=5@%d", start, r2, start, r3, r4, r2, r5)},
		{"no puts", []clientv3.OpOption{clientv3.WithFilterPut()}, fmt.Sprintf("delete a@%d", r4)},
		{"no deletes", []clientv3.OpOption{clientv3.WithFilterDelete()}, fmt.Sprintf("put a=1@%d, put a=2@%d, put b=3@%d, put a=5@%d", start, r2, r3, r5)},
	} {
		ch := e.cli.Watch(ctx, p, append(c.opts, clientv3.WithPrefix(), clientv3.WithRev(start))...)
		if got := collect(t, ch, strings.Count(c.want, ",")+1); got != c.want {
			t.Errorf("%s, from the past:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
	// The same live.
	live := e.cli.Watch(ctx, p, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithFilterPut(), clientv3.WithCreatedNotify())
	<-live
	e.put(t, p+"b", "6")
	r7 := e.del(t, p+"b").Header.Revision
	if got, want := collect(t, live, 1), fmt.Sprintf("delete b@%d (was 6@%d)", r7, r7-1); got != want {
		t.Errorf("live: got %s, want %s", got, want)
	}
}

// testWatchFromThePast: a watch from any revision goes on into the present without loss or repetition.
func testWatchFromThePast(t *testing.T, e *env, p string) {
	var want []string
	var revs []int64
	put := func(i int) {
		key := fmt.Sprintf("%s%d", p, (i*7)%10)
		rev := e.put(t, key, fmt.Sprint(i))
		revs = append(revs, rev)
		want = append(want, fmt.Sprintf("put %s=%d@%d", short([]byte(key)), i, rev))
	}
	const before, during = 150, 50
	for i := range before {
		if i == before/2 {
			e.split(t, p+"3", p+"7")
		}
		put(i)
	}
	ctx := within(t, patience)
	starts := []int{0, 1, before / 2, before - 1}
	var chans []clientv3.WatchChan
	for n, s := range starts {
		chans = append(chans, e.pinned[n%3].Watch(ctx, p, clientv3.WithPrefix(), clientv3.WithRev(revs[s])))
	}
	for i := range during {
		if i == during/2 {
			e.split(t, p+"5")
		}
		put(before + i)
	}
	for n, s := range starts {
		if got, w := collect(t, chans[n], before+during-s), strings.Join(want[s:], ", "); got != w {
			t.Errorf("from event %d:\n got %s\nwant %s", s, got, w)
		}
	}
}

// testWatchFutureRevision: nothing below the start revision is delivered, and what is at it is.
func testWatchFutureRevision(t *testing.T, e *env, p string) {
	e.split(t, p+"b")
	now := e.revision(t)
	ctx := within(t, patience)
	ch := e.cli.Watch(ctx, p, clientv3.WithPrefix(), clientv3.WithRev(now+4), clientv3.WithCreatedNotify())
	if resp := <-ch; !resp.Created {
		t.Fatalf("first response %v", resp)
	}
	for i := range 6 {
		e.put(t, fmt.Sprintf("%s%c", p, 'a'+i%2), fmt.Sprint(i+1))
	}
	want := fmt.Sprintf("put b=4@%d, put a=5@%d, put b=6@%d", now+4, now+5, now+6)
	if got := collect(t, ch, 3); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// testWatchAtomic: the events of one transaction come in one response, in the order of the keys' operations, live and from the past.
func testWatchAtomic(t *testing.T, e *env, p string) {
	w := openRaw(t, e.cli)
	w.created(&pb.WatchCreateRequest{Key: []byte(p), RangeEnd: prefixEnd(p)})
	start := e.revision(t) + 1
	for i := range 10 {
		var ops []clientv3.Op
		for k := range 5 {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s%d", p, k), fmt.Sprint(i)))
		}
		e.commit(t, e.cli.Txn(within(t, patience)).Then(ops...))
	}
	past := openRaw(t, e.cli)
	past.created(&pb.WatchCreateRequest{Key: []byte(p), RangeEnd: prefixEnd(p), StartRevision: start})
	for name, w := range map[string]*rawWatch{"live": w, "past": past} {
		seen := map[int64]bool{}
		for n := 0; n < 50; {
			resp := w.next()
			inThis := map[int64]int{}
			for _, ev := range resp.Events {
				inThis[ev.Kv.ModRevision]++
				n++
			}
			for rev, count := range inThis {
				if count != 5 || seen[rev] {
					t.Errorf("%s: %d of 5 events of revision %d came together, seen before: %v", name, count, rev, seen[rev])
				}
				seen[rev] = true
			}
			if resp.Header.Revision < start {
				t.Errorf("%s: header %v", name, resp.Header)
			}
		}
	}
}

// testWatchFragments: a response over the request limit is cut if the watch asked for it, and only then.
func testWatchFragments(t *testing.T, e *env, p string) {
	value := strings.Repeat("f", 100<<10)
	var ops []clientv3.Op
	for i := range 14 {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s%02d", p, i), value))
	}
	e.commit(t, e.cli.Txn(within(t, patience)).Then(ops...))
	rev := e.commit(t, e.cli.Txn(within(t, patience)).Then(ops...)).Header.Revision
	for _, fragment := range []bool{true, false} {
		w := openRaw(t, e.cli)
		w.created(&pb.WatchCreateRequest{Key: []byte(p), RangeEnd: prefixEnd(p), StartRevision: rev, PrevKv: true, Fragment: fragment})
		var keys []string
		responses := 0
		for len(keys) < 14 {
			resp := w.next()
			responses++
			for _, ev := range resp.Events {
				if ev.Kv.ModRevision != rev || ev.PrevKv == nil || ev.PrevKv.ModRevision != rev-1 {
					t.Fatalf("event of revision %d without the right prev_kv", ev.Kv.ModRevision)
				}
				keys = append(keys, string(ev.Kv.Key))
			}
			if last := len(keys) == 14; resp.Fragment == last {
				t.Errorf("fragment=%v: after %d of 14 events the response says fragment=%v", fragment, len(keys), resp.Fragment)
			}
		}
		if !slices.IsSorted(keys) || len(slices.Compact(keys)) != 14 {
			t.Errorf("fragment=%v: keys %q", fragment, keys)
		}
		if fragment && responses < 2 || !fragment && responses != 1 {
			t.Errorf("fragment=%v: 2.8 MB came in %d responses", fragment, responses)
		}
	}
	// The stock client puts fragments together.
	ch := e.cli.Watch(within(t, patience), p, clientv3.WithPrefix(), clientv3.WithRev(rev), clientv3.WithPrevKV(), clientv3.WithFragment())
	if resp := <-ch; len(resp.Events) != 14 {
		t.Errorf("the stock client got %d events, %v", len(resp.Events), resp.Err())
	}
}

// testWatchProgress: a progress notification at R says that everything up to R was delivered; periodically and on request.
func testWatchProgress(t *testing.T, e *env, p string) {
	e.split(t, p+"b")
	w := openRaw(t, e.pinned[1])
	w.created(&pb.WatchCreateRequest{Key: []byte(p), RangeEnd: prefixEnd(p), ProgressNotify: true})
	e.put(t, p+"a", "1")
	// What other keys do moves the progress of this watch.
	last := e.put(t, "elsewhere", "1")
	events := 0
	for {
		resp := w.next()
		events += len(resp.Events)
		if len(resp.Events) == 0 && resp.Header.Revision >= last {
			break
		}
	}
	if events != 1 {
		t.Errorf("progress reached %d after %d events of 1", last, events)
	}
	// On request, again and again, while puts go on: never ahead of what was delivered.
	r := openRaw(t, e.pinned[2])
	r.created(&pb.WatchCreateRequest{Key: []byte(p), RangeEnd: prefixEnd(p)})
	ctx := within(t, patience)
	const puts = 60
	revs := make(chan int64, puts)
	putErr := make(chan error, 1)
	go func() {
		defer close(revs)
		for i := range puts {
			resp, err := e.pinned[i%3].Put(ctx, fmt.Sprintf("%s%c", p, 'a'+i%2), "v")
			if err != nil {
				putErr <- err
				return
			}
			revs <- resp.Header.Revision
		}
		putErr <- nil
	}()
	var delivered int64
	seen := 0
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var acked []int64
	for seen < puts {
		select {
		case rev, ok := <-revs:
			if ok {
				acked = append(acked, rev)
			} else {
				revs = nil
			}
		case <-ticker.C:
			r.progress()
		case resp := <-r.in:
			if resp == nil {
				t.Fatal("the watch stream ended")
			}
			if len(resp.Events) == 0 {
				for _, rev := range acked {
					if rev <= resp.Header.Revision && rev > delivered {
						t.Fatalf("progress at %d, but the event of %d has not come (delivered up to %d)", resp.Header.Revision, rev, delivered)
					}
				}
				delivered = max(delivered, resp.Header.Revision)
				continue
			}
			for _, ev := range resp.Events {
				if ev.Kv.ModRevision <= delivered {
					t.Fatalf("event of %d after progress or event at %d", ev.Kv.ModRevision, delivered)
				}
				delivered = ev.Kv.ModRevision
				seen++
			}
		}
	}
	if err := <-putErr; err != nil {
		t.Fatal(err)
	}
	// An idle watch: the request resolves to the current revision.
	last = e.put(t, "elsewhere", "2")
	eventually(t, patience, func(context.Context) error {
		r.progress()
		if resp := r.next(); resp.Header.Revision < last {
			return fmt.Errorf("progress is at %d, the revision is %d", resp.Header.Revision, last)
		}
		return nil
	})
}

func testWatchCancel(t *testing.T, e *env, p string) {
	e.split(t, p+"b")
	w := openRaw(t, e.cli)
	one := w.created(&pb.WatchCreateRequest{Key: []byte(p), RangeEnd: prefixEnd(p)}).WatchId
	two := w.created(&pb.WatchCreateRequest{Key: []byte(p), RangeEnd: prefixEnd(p)}).WatchId
	if one == two {
		t.Fatalf("two watches have id %d", one)
	}
	w.cancel(one)
	resp := w.next()
	if !resp.Canceled || resp.WatchId != one || resp.CompactRevision != 0 {
		t.Fatalf("cancelling: %v", resp)
	}
	w.cancel(one) // once more, and one that never was: nothing happens
	w.cancel(12345)
	rev := e.put(t, p+"b", "x")
	resp = w.next()
	if resp.WatchId != two || len(resp.Events) != 1 || resp.Events[0].Kv.ModRevision != rev {
		t.Errorf("after cancelling the other watch: %v", resp)
	}
	// Its id can be used again.
	if id := w.created(&pb.WatchCreateRequest{Key: []byte(p + "a"), WatchId: 77}).WatchId; id != 77 {
		t.Errorf("asked for id 77, got %d", id)
	}
	w.create(&pb.WatchCreateRequest{Key: []byte(p + "a"), WatchId: 77})
	if resp = w.next(); !resp.Created || !resp.Canceled || resp.WatchId != -1 || resp.CancelReason != "mvcc: duplicate watch ID provided on the WatchStream" {
		t.Errorf("an id in use: %v", resp)
	}
	// The stock client: cancelling one watch leaves the others.
	ctx, cancel := context.WithCancel(within(t, patience))
	a := e.cli.Watch(ctx, p+"a", clientv3.WithCreatedNotify())
	b := e.cli.Watch(within(t, patience), p+"a", clientv3.WithCreatedNotify())
	<-a
	<-b
	cancel()
	for range a {
	}
	rev = e.put(t, p+"a", "y")
	if got, want := collect(t, b, 1), fmt.Sprintf("put a=y@%d", rev); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// testWatchManyPerStream: hundreds of watches on one stream each see what is theirs.
func testWatchManyPerStream(t *testing.T, e *env, p string) {
	e.split(t, p+"100", p+"200")
	const watches = 300
	w := openRaw(t, e.cli)
	keyOf := map[int64]string{}
	go func() {
		for i := range watches {
			w.create(&pb.WatchCreateRequest{Key: fmt.Appendf(nil, "%s%03d", p, i), WatchId: int64(i) + 1})
		}
	}()
	for i := range watches {
		resp := w.next()
		if !resp.Created || resp.Canceled {
			t.Fatalf("watch %d: %v", i, resp)
		}
		keyOf[resp.WatchId] = fmt.Sprintf("%s%03d", p, resp.WatchId-1)
	}
	if len(keyOf) != watches {
		t.Fatalf("%d ids for %d watches", len(keyOf), watches)
	}
	var wg sync.WaitGroup
	errs := make([]error, 10)
	for n := range errs {
		wg.Go(func() {
			for i := n; i < watches; i += len(errs) {
				_, err := e.cli.Put(t.Context(), fmt.Sprintf("%s%03d", p, i), "v")
				errs[n] = errors.Join(errs[n], err)
			}
		})
	}
	got := map[int64]int{}
	for n := 0; n < watches; {
		resp := w.next()
		for _, ev := range resp.Events {
			if string(ev.Kv.Key) != keyOf[resp.WatchId] {
				t.Fatalf("watch of %q got %q", keyOf[resp.WatchId], ev.Kv.Key)
			}
			got[resp.WatchId]++
			n++
		}
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if len(got) != watches {
		t.Errorf("%d of %d watches saw their event", len(got), watches)
	}
}

// testWatchRefusals: what cannot be watched is refused on the stream, which goes on.
func testWatchRefusals(t *testing.T, e *env, p string) {
	w := openRaw(t, e.cli)
	for _, c := range []struct {
		name   string
		req    *pb.WatchCreateRequest
		reason string
	}{
		{"an empty range", &pb.WatchCreateRequest{Key: []byte(p + "b"), RangeEnd: []byte(p + "a")}, "mvcc: watcher range is empty"},
		{"a range of nothing", &pb.WatchCreateRequest{Key: []byte(p + "b"), RangeEnd: []byte(p + "b")}, "mvcc: watcher range is empty"},
		{"a negative revision", &pb.WatchCreateRequest{Key: []byte(p), StartRevision: -1}, rpctypes.ErrCompacted.Error()},
	} {
		w.create(c.req)
		if resp := w.next(); !resp.Created || !resp.Canceled || resp.WatchId != -1 || resp.CancelReason != c.reason {
			t.Errorf("%s: %v, want %q", c.name, resp, c.reason)
		}
	}
	// Without a key the watch begins at the first key there is.
	w.created(&pb.WatchCreateRequest{RangeEnd: []byte{0}})
	rev := e.put(t, p+"a", "1")
	if resp := w.next(); len(resp.Events) != 1 || resp.Events[0].Kv.ModRevision != rev {
		t.Errorf("a watch of everything: %v", resp)
	}
}

// testWatchThroughAllMembers: watches through different members see the same events in the same order while many clients write and shards are split.
func testWatchThroughAllMembers(t *testing.T, e *env, p string) {
	e.split(t, p+"20")
	ctx := within(t, patience)
	start := e.revision(t) + 1
	var chans []clientv3.WatchChan
	for _, cli := range e.pinned {
		chans = append(chans, cli.Watch(ctx, p, clientv3.WithPrefix(), clientv3.WithRev(start)))
	}
	const writers, each = 8, 60
	var mu sync.Mutex
	acked := map[int64]string{}
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for n := range writers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 9))
			for i := range each {
				key := fmt.Sprintf("%s%02d", p, rng.IntN(60))
				resp, err := e.pinned[rng.IntN(3)].Put(ctx, key, fmt.Sprintf("%d-%d", n, i))
				if err != nil {
					errs[n] = err
					return
				}
				mu.Lock()
				acked[resp.Header.Revision] = fmt.Sprintf("put %s=%d-%d@%d", short([]byte(key)), n, i, resp.Header.Revision)
				mu.Unlock()
			}
		})
	}
	e.split(t, p+"40", p+"10", p+"30")
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if len(acked) != writers*each {
		t.Fatalf("%d revisions for %d puts", len(acked), writers*each)
	}
	var want []string
	for i := range int64(len(acked)) {
		ev, ok := acked[start+i]
		if !ok {
			t.Fatalf("no put got revision %d", start+i)
		}
		want = append(want, ev)
	}
	for m, ch := range chans {
		if got := collect(t, ch, len(want)); got != strings.Join(want, ", ") {
			t.Errorf("through member %d:\n got %s\nwant %s", m+1, got, strings.Join(want, ", "))
		}
	}
}

// testWatchSlowReader: a watch that nobody reads for a while loses nothing, and others on the same connection do not wait for it.
func testWatchSlowReader(t *testing.T, e *env, p string) {
	e.split(t, p+"b")
	slow, quick := openRaw(t, e.pinned[0]), openRaw(t, e.pinned[0])
	slow.created(&pb.WatchCreateRequest{Key: []byte(p), RangeEnd: prefixEnd(p)})
	quick.created(&pb.WatchCreateRequest{Key: []byte(p), RangeEnd: prefixEnd(p)})
	const puts = 120
	value := strings.Repeat("s", 64<<10)
	first := e.revision(t) + 1
	for i := range puts { // 7.5 MB: more than a stream's buffers hold
		rev := e.put(t, fmt.Sprintf("%s%c", p, 'a'+i%2), value)
		for got := int64(0); got < rev; {
			for _, ev := range quick.next().Events {
				got = ev.Kv.ModRevision
			}
		}
	}
	next := first
	for next < first+puts {
		for _, ev := range slow.next().Events {
			if ev.Kv.ModRevision != next {
				t.Fatalf("revision %d came, %d was next", ev.Kv.ModRevision, next)
			}
			next++
		}
	}
}

// testListThenWatch: a list at R and a watch from R+1 together miss nothing and repeat nothing, as every informer relies on.
func testListThenWatch(t *testing.T, e *env, p string) {
	e.split(t, p+"3", p+"6")
	ctx := within(t, patience)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for n := range errs {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := e.pinned[n%3].Put(ctx, fmt.Sprintf("%s%d", p, (i*3+n)%10), fmt.Sprintf("%d-%d", n, i)); err != nil {
					errs[n] = err
					return
				}
			}
		})
	}
	type informer struct {
		state map[string]int64
		ch    clientv3.WatchChan
	}
	var informers []informer
	for i := range 12 {
		opts := []clientv3.OpOption{clientv3.WithPrefix()}
		if i%2 == 1 {
			opts = append(opts, clientv3.WithSerializable())
		}
		list, err := e.pinned[i%3].Get(ctx, p, opts...)
		if err != nil {
			t.Fatal(err)
		}
		inf := informer{state: map[string]int64{}}
		for _, kv := range list.Kvs {
			inf.state[string(kv.Key)] = kv.Version
		}
		inf.ch = e.pinned[(i+1)%3].Watch(ctx, p, clientv3.WithPrefix(), clientv3.WithRev(list.Header.Revision+1))
		informers = append(informers, inf)
	}
	close(stop)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	final := e.put(t, p+"9", "final")
	for i, inf := range informers {
		for at := int64(0); at < final; {
			resp, ok := <-inf.ch
			if !ok || resp.Err() != nil {
				t.Fatalf("informer %d: %v", i, resp.Err())
			}
			for _, ev := range resp.Events {
				key := string(ev.Kv.Key)
				if ev.Kv.Version != inf.state[key]+1 {
					t.Fatalf("informer %d: %q goes from version %d to %d", i, key, inf.state[key], ev.Kv.Version)
				}
				inf.state[key] = ev.Kv.Version
				at = ev.Kv.ModRevision
			}
		}
	}
}
