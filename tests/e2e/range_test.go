package e2e

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// twin is the dumb model of a key space: a sorted slice.
type twin []*mvccpb.KeyValue

func (tw *twin) put(key, value string, rev int64) {
	i, found := slices.BinarySearchFunc(*tw, key, func(kv *mvccpb.KeyValue, k string) int { return strings.Compare(string(kv.Key), k) })
	if !found {
		*tw = slices.Insert(*tw, i, &mvccpb.KeyValue{Key: []byte(key), CreateRevision: rev})
	}
	old := (*tw)[i]
	(*tw)[i] = &mvccpb.KeyValue{Key: old.Key, Value: []byte(value), CreateRevision: old.CreateRevision, ModRevision: rev, Version: old.Version + 1}
}

func (tw *twin) delete(key string) {
	*tw = slices.DeleteFunc(*tw, func(kv *mvccpb.KeyValue) bool { return string(kv.Key) == key })
}

// answer is what etcd answers to a range request: the range, then the filters, then the order, then the limit; count ignores all of that.
func (tw twin) answer(r *pb.RangeRequest) (kvs []*mvccpb.KeyValue, count int64, more bool) {
	for _, kv := range tw {
		in := bytes.Equal(kv.Key, r.Key)
		if len(r.RangeEnd) > 0 {
			in = bytes.Compare(kv.Key, r.Key) >= 0 && bytes.Compare(kv.Key, r.RangeEnd) < 0
		}
		if in {
			kvs = append(kvs, kv)
		}
	}
	count = int64(len(kvs))
	if r.CountOnly {
		return nil, count, false
	}
	kvs = slices.DeleteFunc(kvs, func(kv *mvccpb.KeyValue) bool {
		return r.MaxModRevision != 0 && kv.ModRevision > r.MaxModRevision || kv.ModRevision < r.MinModRevision ||
			r.MaxCreateRevision != 0 && kv.CreateRevision > r.MaxCreateRevision || kv.CreateRevision < r.MinCreateRevision
	})
	by := map[pb.RangeRequest_SortTarget]func(a, b *mvccpb.KeyValue) int{
		pb.RangeRequest_KEY:     func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) },
		pb.RangeRequest_VALUE:   func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) },
		pb.RangeRequest_MOD:     func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) },
		pb.RangeRequest_CREATE:  func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) },
		pb.RangeRequest_VERSION: func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.Version, b.Version) },
	}[r.SortTarget]
	slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) int {
		if r.SortOrder == pb.RangeRequest_DESCEND {
			return by(b, a)
		}
		return by(a, b)
	})
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, more = kvs[:r.Limit], true
	}
	if r.KeysOnly {
		for i, kv := range kvs {
			kvs[i] = &mvccpb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version}
		}
	}
	return kvs, count, more
}

// testRangeAgainstTwin asks for ranges in random combinations of bounds, limit, order and filters, and compares with the twin.
func testRangeAgainstTwin(t *testing.T, e *env, p string) {
	e.split(t, p+"k08", p+"k16", p+"k24", p+"k24\x00")
	rng := rand.New(rand.NewPCG(11, 7))
	var tw twin
	key := func() string { return fmt.Sprintf("%sk%02d", p, rng.IntN(32)) }
	first := e.revision(t)
	// Versions and values are made distinct where a sort depends on them, because ties may come in any order.
	for i := range 32 {
		k := fmt.Sprintf("%sk%02d", p, (i*13)%32)
		for v := range 1 + (i*7)%32/8 {
			val := fmt.Sprintf("%03d", (i*29+v*37)%1000)
			tw.put(k, val, e.put(t, k, val))
		}
	}
	for range 4 {
		k := key()
		e.del(t, k)
		tw.delete(k)
	}
	last := e.revision(t)
	bound := func() int64 {
		if rng.IntN(4) > 0 {
			return 0
		}
		return first + rng.Int64N(last-first+2)
	}
	for i := range 600 {
		r := &pb.RangeRequest{Key: []byte(key()), RangeEnd: []byte(key())}
		switch rng.IntN(8) {
		case 0:
			r.RangeEnd = nil
		case 1, 2, 3:
			r.Key, r.RangeEnd = []byte(p), []byte(clientv3.GetPrefixRangeEnd(p))
		case 4:
			r.RangeEnd = []byte(clientv3.GetPrefixRangeEnd(p))
		}
		if rng.IntN(2) == 0 {
			r.Limit = rng.Int64N(40)
		}
		r.SortTarget = pb.RangeRequest_SortTarget(rng.IntN(5))
		r.SortOrder = pb.RangeRequest_SortOrder(rng.IntN(3))
		if r.SortOrder == pb.RangeRequest_NONE && r.Limit > 0 {
			r.SortTarget = pb.RangeRequest_KEY // etcd cuts before it sorts in that case, which no client asks for
		}
		r.KeysOnly, r.CountOnly = rng.IntN(5) == 0, rng.IntN(8) == 0
		r.MinModRevision, r.MaxModRevision = bound(), bound()
		r.MinCreateRevision, r.MaxCreateRevision = bound(), bound()
		got, err := pb.NewKVClient(e.pinned[i%3].ActiveConnection()).Range(within(t, patience), r)
		if err != nil {
			t.Fatalf("%v: %v", r, err)
		}
		kvs, count, more := tw.answer(r)
		same := len(got.Kvs) == len(kvs) && got.Count == count && got.More == more && got.Header.Revision == last
		tied := r.SortTarget == pb.RangeRequest_VERSION || r.SortTarget == pb.RangeRequest_VALUE
		for i := 0; same && i < len(kvs); i++ {
			if tied {
				same = got.Kvs[i].Version == kvs[i].Version || r.SortTarget == pb.RangeRequest_VALUE
				continue
			}
			same = proto.Equal(got.Kvs[i], kvs[i])
		}
		if !same {
			t.Fatalf("%v:\n got %v\nwant %v, count %d, more %v, revision %d", r, got, kvs, count, more, last)
		}
		if r.SortTarget == pb.RangeRequest_VALUE && !r.KeysOnly && !slices.IsSortedFunc(got.Kvs, func(a, b *mvccpb.KeyValue) int {
			if r.SortOrder == pb.RangeRequest_DESCEND {
				a, b = b, a
			}
			return bytes.Compare(a.Value, b.Value)
		}) {
			t.Fatalf("%v: not sorted by value: %v", r, got.Kvs)
		}
	}
}

// testOldRevisions reads every revision of a short history, whole and in parts, through every member.
func testOldRevisions(t *testing.T, e *env, p string) {
	rng := rand.New(rand.NewPCG(3, 1))
	var tw twin
	states := map[int64]twin{}
	first := e.revision(t)
	states[first] = nil
	for i := range 80 {
		switch i { // the history runs across splits
		case 20:
			e.split(t, p+"4")
		case 40:
			e.split(t, p+"2", p+"6")
		}
		k := fmt.Sprintf("%s%d", p, rng.IntN(8))
		if rng.IntN(4) == 0 {
			del := e.del(t, k)
			if del.Deleted > 0 {
				tw.delete(k)
			}
			states[del.Header.Revision] = slices.Clone(tw)
			continue
		}
		rev := e.put(t, k, fmt.Sprint(i))
		tw.put(k, fmt.Sprint(i), rev)
		states[rev] = slices.Clone(tw)
	}
	last := e.revision(t)
	for rev := first; rev <= last; rev++ {
		state, ok := states[rev]
		if !ok {
			t.Fatalf("no request got revision %d", rev)
		}
		cli := e.pinned[rev%3]
		r := &pb.RangeRequest{Key: []byte(p), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(p)), Revision: rev}
		if rev%2 == 0 {
			r.Limit, r.SortOrder = 3, pb.RangeRequest_DESCEND
		}
		got, err := pb.NewKVClient(cli.ActiveConnection()).Range(within(t, patience), r)
		if err != nil {
			t.Fatalf("range at %d: %v", rev, err)
		}
		kvs, count, more := state.answer(r)
		if fmt.Sprint(got.Kvs) != fmt.Sprint(kvs) || got.Count != count || got.More != more || got.Header.Revision != last {
			t.Fatalf("range at %d:\n got %v\nwant %v, count %d, more %v, header revision %d", rev, got, kvs, count, more, last)
		}
		one, err := cli.Get(within(t, patience), p+"3", clientv3.WithRev(rev), clientv3.WithSerializable())
		if err != nil {
			t.Fatalf("get at %d: %v", rev, err)
		}
		if want, _, _ := state.answer(&pb.RangeRequest{Key: []byte(p + "3")}); fmt.Sprint(one.Kvs) != fmt.Sprint(want) {
			t.Fatalf("get at %d: %v, want %v", rev, one.Kvs, want)
		}
	}
}

// testRangeStream: a stream carries what Range answers, in several chunks when it is large; header, count and more come last.
func testRangeStream(t *testing.T, e *env, p string) {
	const keys = 700
	value := strings.Repeat("v", 4<<10)
	ops := 0
	var batch []clientv3.Op
	for i := range keys {
		batch = append(batch, clientv3.OpPut(fmt.Sprintf("%s%04d", p, i), value))
		if len(batch) == 100 {
			e.commit(t, e.cli.Txn(within(t, patience)).Then(batch...))
			ops, batch = ops+100, nil
		}
	}
	if ops != keys {
		t.Fatalf("wrote %d", ops)
	}
	e.split(t, p+"0200", p+"0400", p+"0600")
	rev := e.put(t, p+"0350", "short")
	for _, c := range []struct {
		name string
		req  *pb.RangeRequest
	}{
		{"everything", &pb.RangeRequest{Key: []byte(p), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(p))}},
		{"a limit", &pb.RangeRequest{Key: []byte(p), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(p)), Limit: 450}},
		{"an old revision", &pb.RangeRequest{Key: []byte(p), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(p)), Revision: rev - 1}},
		{"keys only", &pb.RangeRequest{Key: []byte(p), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(p)), KeysOnly: true}},
		{"count only", &pb.RangeRequest{Key: []byte(p), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(p)), CountOnly: true}},
		{"one key", &pb.RangeRequest{Key: []byte(p + "0100")}},
		{"nothing", &pb.RangeRequest{Key: []byte(p + "none")}},
		{"ascending, told so", &pb.RangeRequest{Key: []byte(p), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(p)), SortOrder: pb.RangeRequest_ASCEND}},
	} {
		want, err := e.kv().Range(within(t, patience), c.req)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		stream, err := e.kv().RangeStream(within(t, patience), c.req)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got := &pb.RangeResponse{}
		chunks := 0
		for {
			m, err := stream.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if got.Header != nil {
				t.Errorf("%s: a chunk after the one with the header", c.name)
			}
			chunks++
			proto.Merge(got, m.RangeResponse)
		}
		want.Header.MemberId, got.Header.MemberId = 0, 0 // the balancer may have chosen another member
		if !proto.Equal(got, want) {
			t.Errorf("%s: the stream has %d keys, count %d, more %v, header %v; range has %d, %d, %v, %v",
				c.name, len(got.Kvs), got.Count, got.More, got.Header, len(want.Kvs), want.Count, want.More, want.Header)
		}
		if c.name == "everything" && chunks < 2 {
			t.Errorf("2.8 MB came in %d chunk", chunks)
		}
	}
}

// testCompaction: what is below the compacted revision is gone for everybody who asks after the compaction was answered.
func testCompaction(t *testing.T, e *env, p string) {
	e.split(t, p+"b")
	e.put(t, p+"a", "1")
	e.put(t, p+"b", "1")
	e.put(t, p+"dead", "1")
	old := e.put(t, p+"a", "2")
	e.del(t, p+"dead")
	at := e.put(t, p+"b", "2")
	last := e.put(t, p+"a", "3")
	e.del(t, p+"b")
	compact := func(rev int64, physical bool) error {
		_, err := e.kv().Compact(within(t, patience), &pb.CompactionRequest{Revision: rev, Physical: physical})
		return err
	}
	if err := compact(at, true); err != nil {
		t.Fatalf("compacting at %d: %v", at, err)
	}
	for m, cli := range e.pinned {
		kv := pb.NewKVClient(cli.ActiveConnection())
		for _, rev := range []int64{old, at - 1} {
			_, err := kv.Range(within(t, patience), &pb.RangeRequest{Key: []byte(p), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(p)), Revision: rev})
			wantStatus(t, fmt.Sprintf("range at %d through member %d", rev, m+1), err, errCompacted)
			_, err = kv.Txn(within(t, patience), &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(p + "a"), Revision: rev}}}}})
			wantStatus(t, fmt.Sprintf("txn that reads at %d through member %d", rev, m+1), err, errCompacted)
		}
		got, err := cli.Get(within(t, patience), p, clientv3.WithPrefix(), clientv3.WithRev(at))
		if err != nil {
			t.Fatal(err)
		}
		if s := values(got.Kvs); s != "a=2 b=2" {
			t.Errorf("at the compacted revision: %s", strings.ReplaceAll(s, p, ""))
		}
		got, err = cli.Get(within(t, patience), p, clientv3.WithPrefix(), clientv3.WithRev(last))
		if err != nil {
			t.Fatal(err)
		}
		if s := values(got.Kvs); s != "a=3 b=2" {
			t.Errorf("above the compacted revision: %s", s)
		}
	}
	wantStatus(t, "compacting again at the same revision", compact(at, false), errCompacted)
	wantStatus(t, "compacting below", compact(old, false), errCompacted)
	if rev := e.revision(t); rev != last+1 {
		t.Errorf("compacting moved the revision from %d to %d", last+1, rev)
	}
	// A watch from below is cancelled and told the compacted revision; one from it is not.
	w := openRaw(t, e.cli)
	w.create(&pb.WatchCreateRequest{Key: []byte(p), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(p)), StartRevision: old})
	resp := w.next()
	if resp.Created && !resp.Canceled {
		resp = w.next()
	}
	if !resp.Canceled || resp.CompactRevision != at {
		t.Errorf("a watch from %d, compacted to %d: %v", old, at, resp)
	}
	ch := e.cli.Watch(within(t, patience), p, clientv3.WithPrefix(), clientv3.WithRev(at))
	if got := collect(t, ch, 3); got != fmt.Sprintf("put b=2@%d, put a=3@%d, delete b@%d", at, last, last+1) {
		t.Errorf("a watch from the compacted revision saw %s", got)
	}
	eventually(t, patience, func(ctx context.Context) error { return compact(last, false) })
}

// values writes pairs without the test's prefix.
func values(kvs []*mvccpb.KeyValue) string {
	var s []string
	for _, kv := range kvs {
		s = append(s, short(kv.Key)+"="+string(kv.Value))
	}
	return strings.Join(s, " ")
}

// short is a key without the test's prefix.
func short(key []byte) string {
	if _, s, ok := strings.Cut(string(key), "/"); ok {
		return s
	}
	return string(key)
}
