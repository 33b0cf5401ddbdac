package eval

import (
	"bytes"
	"context"
	"fmt"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// history is the dumb twin of a store: every state, whole, by revision.
type history struct {
	states []map[string]*mvccpb.KeyValue // states[i] is the state at revision i+1
}

func newHistory() *history { return &history{states: []map[string]*mvccpb.KeyValue{{}}} }

func (h *history) rev() int64 { return int64(len(h.states)) }

func (h *history) at(rev int64) map[string]*mvccpb.KeyValue {
	if rev == 0 {
		rev = h.rev()
	}
	return h.states[rev-1]
}

func (h *history) apply(effects []mvcc.Effect) int64 {
	next := map[string]*mvccpb.KeyValue{}
	for k, v := range h.at(0) {
		next[k] = v
	}
	rev := h.rev() + 1
	for _, e := range effects {
		if e.Tombstone {
			delete(next, string(e.Key))
			continue
		}
		kv := &mvccpb.KeyValue{Key: e.Key, Value: e.Value, CreateRevision: e.Create, ModRevision: rev, Version: e.Version, Lease: e.Lease}
		if e.Create == 0 {
			kv.CreateRevision = rev
		}
		next[string(e.Key)] = kv
	}
	h.states = append(h.states, next)
	return rev
}

func (h *history) Head(key []byte) (mvcc.Head, error) {
	kv := h.at(0)[string(key)]
	if kv == nil {
		return mvcc.Head{}, nil
	}
	return mvcc.Head{Create: kv.CreateRevision, Mod: kv.ModRevision, Version: kv.Version, Lease: kv.Lease, Exists: true}, nil
}

func copyKV(kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: bytes.Clone(kv.Key), Value: kv.Value, CreateRevision: kv.CreateRevision,
		ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
	}
}

func (h *history) Get(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	if kv := h.at(rev)[string(key)]; kv != nil {
		return copyKV(kv), nil
	}
	return nil, nil
}

func (h *history) Range(_ context.Context, span keyspace.Span, o mvcc.RangeOptions, fn func(*mvccpb.KeyValue) bool) error {
	var keys []string
	for k := range h.at(o.Rev) {
		if span.Contains([]byte(k)) {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	if o.Desc {
		sort.Sort(sort.Reverse(sort.StringSlice(keys)))
	}
	for i, k := range keys {
		if o.Limit > 0 && int64(i) >= o.Limit {
			break
		}
		kv := copyKV(h.at(o.Rev)[k])
		if o.KeysOnly {
			kv.Value = nil
		}
		if !fn(kv) {
			break
		}
	}
	return nil
}

func (h *history) Count(_ context.Context, span keyspace.Span, rev int64) (int64, error) {
	n := int64(0)
	for k := range h.at(rev) {
		if span.Contains([]byte(k)) {
			n++
		}
	}
	return n, nil
}

func put(key, value string) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
}

func opPut(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

func opRange(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func opDelete(r *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

func opTxn(r *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}

func versionIs(key string, v int64) *pb.Compare {
	return &pb.Compare{Key: []byte(key), Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: v}}
}

func mustPut(t *testing.T, h *history, r *pb.PutRequest) *pb.PutResponse {
	t.Helper()
	res, err := Put(h, r)
	require.NoError(t, err)
	res.Finish(h.apply(res.Effects))
	return res.Put
}

func mustTxn(t *testing.T, h *history, r *pb.TxnRequest) *pb.TxnResponse {
	t.Helper()
	res, err := Txn(t.Context(), h, r, Bounds{Current: h.rev(), Compact: 1})
	require.NoError(t, err)
	if len(res.Effects) == 0 {
		res.Finish(h.rev())
	} else {
		res.Finish(h.apply(res.Effects))
	}
	return res.Txn
}

func TestPutKeepsCreateAndRaisesVersion(t *testing.T) {
	h := newHistory()
	require.EqualValues(t, 2, mustPut(t, h, put("a", "1")).Header.Revision)
	r := put("a", "2")
	r.PrevKv = true
	resp := mustPut(t, h, r)
	require.EqualValues(t, 3, resp.Header.Revision)
	require.Equal(t, "a", string(resp.PrevKv.Key))
	require.Equal(t, "1", string(resp.PrevKv.Value))
	kv, _ := h.Get(keyspace.User([]byte("a")), 0)
	require.EqualValues(t, 2, kv.CreateRevision)
	require.EqualValues(t, 3, kv.ModRevision)
	require.EqualValues(t, 2, kv.Version)
}

func TestIgnoreValueAndLease(t *testing.T) {
	h := newHistory()
	_, err := Put(h, &pb.PutRequest{Key: []byte("a"), IgnoreValue: true})
	require.Equal(t, rpctypes.ErrGRPCKeyNotFound, err)
	mustPut(t, h, put("a", "1"))
	mustPut(t, h, &pb.PutRequest{Key: []byte("a"), IgnoreValue: true})
	kv, _ := h.Get(keyspace.User([]byte("a")), 0)
	require.Equal(t, "1", string(kv.Value))
	require.EqualValues(t, 2, kv.Version)
	_, err = Put(h, &pb.PutRequest{Key: []byte("a"), Lease: 7})
	require.Equal(t, rpctypes.ErrGRPCLeaseNotFound, err)
}

func TestTxnSeesItsOwnWritesButComparesTheStateBefore(t *testing.T) {
	h := newHistory()
	mustPut(t, h, put("a", "old"))
	mustPut(t, h, put("c", "old"))
	all := func() *pb.RequestOp { return opRange(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z")}) }
	resp := mustTxn(t, h, &pb.TxnRequest{Success: []*pb.RequestOp{
		all(),
		opPut(put("b", "new")),
		all(),
		opDelete(&pb.DeleteRangeRequest{Key: []byte("c"), PrevKv: true}),
		all(),
		opTxn(&pb.TxnRequest{
			Compare: []*pb.Compare{versionIs("b", 0)},
			Success: []*pb.RequestOp{opPut(put("d", "nested"))},
		}),
		opRange(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Limit: 2}),
	}})
	require.True(t, resp.Succeeded)
	require.EqualValues(t, 4, resp.Header.Revision)

	got := func(i int) string {
		r := resp.Responses[i].GetResponseRange()
		var out bytes.Buffer
		for _, kv := range r.Kvs {
			fmt.Fprintf(&out, "%s=%s@%d/%d/%d ", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version)
		}
		fmt.Fprintf(&out, "count %d more %v rev %d", r.Count, r.More, r.Header.Revision)
		return out.String()
	}
	require.Equal(t, "a=old@2/2/1 c=old@3/3/1 count 2 more false rev 3", got(0))
	require.Equal(t, "a=old@2/2/1 b=new@4/4/1 c=old@3/3/1 count 3 more false rev 4", got(2))
	require.Equal(t, "a=old@2/2/1 b=new@4/4/1 count 2 more false rev 4", got(4))
	require.True(t, resp.Responses[5].GetResponseTxn().Succeeded, "nested compares see the state before the transaction")
	require.Equal(t, "a=old@2/2/1 b=new@4/4/1 count 3 more true rev 4", got(6))
	require.Equal(t, "old", string(resp.Responses[3].GetResponseDeleteRange().PrevKvs[0].Value))
}

func TestFailedCompareTakesNoEffect(t *testing.T) {
	h := newHistory()
	mustPut(t, h, put("a", "1"))
	res, err := Txn(t.Context(), h, &pb.TxnRequest{
		Compare: []*pb.Compare{versionIs("a", 9)},
		Success: []*pb.RequestOp{opPut(put("a", "2"))},
		Failure: []*pb.RequestOp{opDelete(&pb.DeleteRangeRequest{Key: []byte("x"), RangeEnd: []byte("z")})},
	}, Bounds{Current: h.rev()})
	require.NoError(t, err)
	require.Empty(t, res.Effects)
	require.False(t, res.Txn.Succeeded)
}

func TestCompares(t *testing.T) {
	h := newHistory()
	mustPut(t, h, put("a", "1"))
	mustPut(t, h, put("b", "1"))
	value := func(key, end, v string, result pb.Compare_CompareResult) *pb.Compare {
		return &pb.Compare{Key: []byte(key), RangeEnd: []byte(end), Result: result, Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte(v)}}
	}
	for _, c := range []struct {
		compare *pb.Compare
		want    bool
	}{
		{value("a", "", "1", pb.Compare_EQUAL), true},
		{value("a", "c", "1", pb.Compare_EQUAL), true},
		{value("a", "c", "2", pb.Compare_LESS), true},
		{value("a", "c", "1", pb.Compare_GREATER), false},
		{value("nokey", "", "1", pb.Compare_NOT_EQUAL), false},
		{versionIs("nokey", 0), true},
		{versionIs("a", 2), false},
		{&pb.Compare{Key: []byte("b"), Target: pb.Compare_MOD, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_ModRevision{ModRevision: 2}}, true},
		{&pb.Compare{Key: []byte("b"), Target: pb.Compare_CREATE, Result: pb.Compare_NOT_EQUAL, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 3}}, false},
		{&pb.Compare{Key: []byte("b"), Target: pb.Compare_LEASE, TargetUnion: &pb.Compare_Lease{}}, true},
	} {
		resp := mustTxn(t, h, &pb.TxnRequest{Compare: []*pb.Compare{c.compare}})
		require.Equal(t, c.want, resp.Succeeded, "%v", c.compare)
	}
}

func TestTxnChecksComeFirst(t *testing.T) {
	h := newHistory()
	mustPut(t, h, put("a", "1"))
	for _, c := range []struct {
		op   *pb.RequestOp
		want error
	}{
		{opRange(&pb.RangeRequest{Key: []byte("a"), Revision: 99}), rpctypes.ErrGRPCFutureRev},
		{opRange(&pb.RangeRequest{Key: []byte("a"), Revision: 1}), rpctypes.ErrGRPCCompacted},
		{opPut(&pb.PutRequest{Key: []byte("x"), IgnoreLease: true}), rpctypes.ErrGRPCKeyNotFound},
		{opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opRange(&pb.RangeRequest{Key: []byte("a"), Revision: 99})}}), rpctypes.ErrGRPCFutureRev},
	} {
		req := &pb.TxnRequest{Success: []*pb.RequestOp{opPut(put("b", "1")), c.op}}
		_, err := Txn(t.Context(), h, req, Bounds{Current: h.rev(), Compact: 2})
		require.Equal(t, c.want, err)
	}
	require.True(t, NeedsBounds(&pb.TxnRequest{Failure: []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opRange(&pb.RangeRequest{Revision: 1})}})}}))
	require.False(t, NeedsBounds(&pb.TxnRequest{Success: []*pb.RequestOp{opRange(&pb.RangeRequest{})}}))
}

func TestOneKeyTwiceIsRefused(t *testing.T) {
	h := newHistory()
	_, err := Txn(t.Context(), h, &pb.TxnRequest{Success: []*pb.RequestOp{opPut(put("a", "1")), opPut(put("a", "2"))}}, Bounds{Current: 1})
	require.Equal(t, rpctypes.ErrGRPCDuplicateKey, err)
	_, err = Txn(t.Context(), h, &pb.TxnRequest{Success: []*pb.RequestOp{opPut(put("a", "1")), opDelete(&pb.DeleteRangeRequest{Key: []byte("a")})}}, Bounds{Current: 1})
	require.Equal(t, rpctypes.ErrGRPCDuplicateKey, err)
}

// The range is held against the plainest reading of etcd's documentation:
// everything in the span, filtered, sorted, then cut.
func TestRangeAgainstTwin(t *testing.T) {
	h := newHistory()
	for i := range 60 {
		key := fmt.Sprintf("k%02d", (i*7)%25)
		if i%6 == 5 {
			res, err := DeleteRange(t.Context(), h, &pb.DeleteRangeRequest{Key: []byte(key)})
			require.NoError(t, err)
			if len(res.Effects) > 0 {
				h.apply(res.Effects)
			}
			continue
		}
		mustPut(t, h, put(key, fmt.Sprint(i%4)))
	}
	rapid.Check(t, func(rt *rapid.T) {
		req := &pb.RangeRequest{
			Key:               fmt.Appendf(nil, "k%02d", rapid.IntRange(0, 24).Draw(rt, "key")),
			Revision:          rapid.Int64Range(0, h.rev()).Draw(rt, "rev"),
			Limit:             rapid.Int64Range(0, 30).Draw(rt, "limit"),
			SortTarget:        pb.RangeRequest_SortTarget(rapid.IntRange(0, 4).Draw(rt, "target")),
			SortOrder:         pb.RangeRequest_SortOrder(rapid.IntRange(0, 2).Draw(rt, "order")),
			KeysOnly:          rapid.Bool().Draw(rt, "keys only"),
			CountOnly:         rapid.IntRange(0, 4).Draw(rt, "count only") == 0,
			MinModRevision:    rapid.SampledFrom([]int64{0, 0, 20}).Draw(rt, "min mod"),
			MaxModRevision:    rapid.SampledFrom([]int64{0, 0, 40}).Draw(rt, "max mod"),
			MinCreateRevision: rapid.SampledFrom([]int64{0, 0, 10}).Draw(rt, "min create"),
			MaxCreateRevision: rapid.SampledFrom([]int64{0, 0, 30}).Draw(rt, "max create"),
		}
		switch rapid.IntRange(0, 3).Draw(rt, "end") {
		case 1:
			req.RangeEnd = []byte{0}
		case 2, 3:
			req.RangeEnd = fmt.Appendf(nil, "k%02d", rapid.IntRange(0, 25).Draw(rt, "range end"))
		}
		got, err := Range(t.Context(), h, req, req.Revision)
		if err != nil {
			rt.Fatal(err)
		}
		var all []*mvccpb.KeyValue
		_ = h.Range(t.Context(), keyspace.UserSpan(req.Key, req.RangeEnd), mvcc.RangeOptions{Rev: req.Revision}, func(kv *mvccpb.KeyValue) bool {
			all = append(all, userKV(kv))
			return true
		})
		if got.Count != int64(len(all)) {
			rt.Fatalf("count %d, want %d", got.Count, len(all))
		}
		var want []*mvccpb.KeyValue
		for _, kv := range all {
			if (req.MinModRevision == 0 || kv.ModRevision >= req.MinModRevision) && (req.MaxModRevision == 0 || kv.ModRevision <= req.MaxModRevision) &&
				(req.MinCreateRevision == 0 || kv.CreateRevision >= req.MinCreateRevision) && (req.MaxCreateRevision == 0 || kv.CreateRevision <= req.MaxCreateRevision) {
				want = append(want, kv)
			}
		}
		field := func(kv *mvccpb.KeyValue) string {
			switch req.SortTarget {
			case pb.RangeRequest_VERSION:
				return fmt.Sprintf("%08d", kv.Version)
			case pb.RangeRequest_CREATE:
				return fmt.Sprintf("%08d", kv.CreateRevision)
			case pb.RangeRequest_MOD:
				return fmt.Sprintf("%08d", kv.ModRevision)
			case pb.RangeRequest_VALUE:
				return string(kv.Value)
			}
			return string(kv.Key)
		}
		sort.SliceStable(want, func(i, j int) bool {
			if req.SortOrder == pb.RangeRequest_DESCEND {
				i, j = j, i
			}
			return field(want[i]) < field(want[j])
		})
		if req.CountOnly {
			if len(got.Kvs) != 0 {
				rt.Fatal("count_only returned keys")
			}
			return
		}
		more := len(req.RangeEnd) > 0 && req.Limit > 0 && int64(len(want)) > req.Limit
		if got.More != more {
			rt.Fatalf("more %v, want %v", got.More, more)
		}
		if more {
			want = want[:req.Limit]
		}
		if len(got.Kvs) != len(want) {
			rt.Fatalf("%d values, want %d", len(got.Kvs), len(want))
		}
		for i, kv := range got.Kvs {
			if field(kv) != field(want[i]) && !(req.KeysOnly && req.SortTarget == pb.RangeRequest_VALUE) {
				rt.Fatalf("value %d is %v, want %v", i, kv, want[i])
			}
			if req.KeysOnly && len(kv.Value) > 0 {
				rt.Fatal("keys_only returned a value")
			}
		}
	})
}

func TestSpansCoverEveryBranch(t *testing.T) {
	touches := Spans(&pb.TxnRequest{
		Compare: []*pb.Compare{versionIs("a", 0)},
		Success: []*pb.RequestOp{opPut(put("b", "")), opRange(&pb.RangeRequest{Key: []byte("c"), RangeEnd: []byte("d")})},
		Failure: []*pb.RequestOp{opTxn(&pb.TxnRequest{Success: []*pb.RequestOp{opDelete(&pb.DeleteRangeRequest{Key: []byte("e")})}})},
	})
	var got []string
	for _, x := range touches {
		got = append(got, fmt.Sprintf("%q %v", x.Span.Start, x.Write))
	}
	require.Equal(t, []string{`"\x01a" false`, `"\x01b" true`, `"\x01c" false`, `"\x01e" true`}, got)
}
