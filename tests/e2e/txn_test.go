package e2e

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var errCompacted = rpctypes.ErrGRPCCompacted

// testTxnCompares checks each comparison on a key that is there, on one that is not, and on ranges.
func testTxnCompares(t *testing.T, e *env, p string) {
	create := e.put(t, p+"k", "a")
	mod := e.put(t, p+"k", "m")
	for i := range 4 {
		e.put(t, fmt.Sprintf("%sr/%d", p, i), fmt.Sprint(i))
	}
	k, none := p+"k", p+"none"
	ranged := func(c clientv3.Cmp) clientv3.Cmp { return c.WithPrefix() }
	for _, c := range []struct {
		name string
		cmp  clientv3.Cmp
		want bool
	}{
		{"version = 2", clientv3.Compare(clientv3.Version(k), "=", 2), true},
		{"version > 1", clientv3.Compare(clientv3.Version(k), ">", 1), true},
		{"version < 2", clientv3.Compare(clientv3.Version(k), "<", 2), false},
		{"version != 2", clientv3.Compare(clientv3.Version(k), "!=", 2), false},
		{"created", clientv3.Compare(clientv3.CreateRevision(k), "=", create), true},
		{"created later", clientv3.Compare(clientv3.CreateRevision(k), ">", create), false},
		{"modified", clientv3.Compare(clientv3.ModRevision(k), "=", mod), true},
		{"modified earlier", clientv3.Compare(clientv3.ModRevision(k), "<", mod), false},
		{"value", clientv3.Compare(clientv3.Value(k), "=", "m"), true},
		{"value less", clientv3.Compare(clientv3.Value(k), "<", "n"), true},
		{"value greater", clientv3.Compare(clientv3.Value(k), ">", "m"), false},
		{"lease none", clientv3.Compare(clientv3.LeaseValue(k), "=", 0), true},
		{"lease some", clientv3.Compare(clientv3.LeaseValue(k), "!=", 0), false},
		{"no key: version 0", clientv3.Compare(clientv3.Version(none), "=", 0), true},
		{"no key: created 0", clientv3.Compare(clientv3.CreateRevision(none), "=", 0), true},
		{"no key: modified 0", clientv3.Compare(clientv3.ModRevision(none), "=", 0), true},
		{"no key: a value", clientv3.Compare(clientv3.Value(none), "=", ""), false},
		{"no key: not a value", clientv3.Compare(clientv3.Value(none), "!=", "x"), false},
		{"no key: value less", clientv3.Compare(clientv3.Value(none), "<", "x"), false},
		{"range: all created", ranged(clientv3.Compare(clientv3.CreateRevision(p+"r/"), ">", 0)), true},
		{"range: all values", ranged(clientv3.Compare(clientv3.Value(p+"r/"), "<", "4")), true},
		{"range: one value is not", ranged(clientv3.Compare(clientv3.Value(p+"r/"), "<", "3")), false},
		{"empty range: modified 0", ranged(clientv3.Compare(clientv3.ModRevision(p+"s/"), "=", 0)), true},
		{"empty range: modified > 0", ranged(clientv3.Compare(clientv3.ModRevision(p+"s/"), ">", 0)), false},
	} {
		resp := e.commit(t, e.cli.Txn(within(t, patience)).If(c.cmp).Then(clientv3.OpGet(k)).Else(clientv3.OpGet(none)))
		if resp.Succeeded != c.want {
			t.Errorf("%s: %v", c.name, resp.Succeeded)
		}
		if n := len(resp.Responses[0].GetResponseRange().Kvs); (n == 1) != resp.Succeeded {
			t.Errorf("%s: the wrong branch ran", c.name)
		}
	}
	// All compares must hold.
	resp := e.commit(t, e.cli.Txn(within(t, patience)).If(clientv3.Compare(clientv3.Version(k), "=", 2), clientv3.Compare(clientv3.Version(none), "=", 1)))
	if resp.Succeeded {
		t.Error("one of two compares holds, the txn succeeded")
	}
}

// testTxnEffects: operations run in order, see those before them, and share one revision.
func testTxnEffects(t *testing.T, e *env, p string) {
	old := e.put(t, p+"a", "old")
	resp := e.commit(t, e.cli.Txn(within(t, patience)).Then(
		clientv3.OpGet(p+"a"),
		clientv3.OpPut(p+"a", "new", clientv3.WithPrevKV()),
		clientv3.OpGet(p+"a"),
		clientv3.OpPut(p+"b", "b"),
		clientv3.OpGet(p, clientv3.WithPrefix()),
		clientv3.OpDelete(p+"c"),
		clientv3.OpGet(p+"a", clientv3.WithRev(old)),
		clientv3.OpGet(p, clientv3.WithPrefix(), clientv3.WithCountOnly()),
	))
	rev := old + 1
	if resp.Header.Revision != rev {
		t.Errorf("revision %d after %d", resp.Header.Revision, old)
	}
	get := func(i int) string { return values(resp.Responses[i].GetResponseRange().Kvs) }
	if get(0) != "a=old" || get(2) != "a=new" || get(4) != "a=new b=b" || get(6) != "a=old" {
		t.Errorf("reads inside the txn: %q %q %q %q", get(0), get(2), get(4), get(6))
	}
	if pk := resp.Responses[1].GetResponsePut().PrevKv; pk == nil || string(pk.Value) != "old" {
		t.Errorf("prev_kv %v", pk)
	}
	if n := resp.Responses[5].GetResponseDeleteRange().Deleted; n != 0 {
		t.Errorf("deleted %d", n)
	}
	if n := resp.Responses[7].GetResponseRange().Count; n != 2 {
		t.Errorf("count %d", n)
	}
	for _, kv := range e.get(t, p, clientv3.WithPrefix()).Kvs {
		if kv.ModRevision != rev {
			t.Errorf("%q modified at %d, not %d", kv.Key, kv.ModRevision, rev)
		}
	}
	// Deleting and reading what is gone.
	resp = e.commit(t, e.cli.Txn(within(t, patience)).Then(
		clientv3.OpDelete(p, clientv3.WithPrefix(), clientv3.WithPrevKV()),
		clientv3.OpGet(p, clientv3.WithPrefix()),
	))
	if d := resp.Responses[0].GetResponseDeleteRange(); d.Deleted != 2 || values(d.PrevKvs) != "a=new b=b" {
		t.Errorf("deleted %v", d)
	}
	if got := resp.Responses[1].GetResponseRange(); got.Count != 0 {
		t.Errorf("after the delete: %v", got)
	}
	// A branch that fails half way changes nothing.
	before := e.revision(t)
	_, err := e.kv().Txn(within(t, patience), &pb.TxnRequest{Success: []*pb.RequestOp{
		opPut(p+"half", "x"),
		{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(p), Revision: before + 1000}}},
	}})
	wantStatus(t, "a txn that reads the future", err, rpctypes.ErrGRPCFutureRev)
	if got := e.get(t, p+"half"); got.Count != 0 || got.Header.Revision != before {
		t.Errorf("half a txn was done: %v", got)
	}
}

func testTxnNested(t *testing.T, e *env, p string) {
	e.put(t, p+"a", "1")
	inner := clientv3.OpTxn(
		[]clientv3.Cmp{clientv3.Compare(clientv3.Value(p+"a"), "=", "1")},
		[]clientv3.Op{clientv3.OpPut(p+"inner", "then"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(p+"deep", "yes")}, nil)},
		[]clientv3.Op{clientv3.OpPut(p+"inner", "else")},
	)
	resp := e.commit(t, e.cli.Txn(within(t, patience)).If(clientv3.Compare(clientv3.Version(p+"a"), "=", 1)).
		Then(clientv3.OpPut(p+"outer", "1"), inner, clientv3.OpGet(p, clientv3.WithPrefix())))
	if !resp.Succeeded || !resp.Responses[1].GetResponseTxn().Succeeded {
		t.Errorf("got %v", resp)
	}
	if got := values(resp.Responses[2].GetResponseRange().Kvs); got != "a=1 deep=yes inner=then outer=1" {
		t.Errorf("after it, inside: %s", got)
	}
	for _, kv := range e.get(t, p, clientv3.WithPrefix()).Kvs {
		if short(kv.Key) != "a" && kv.ModRevision != resp.Header.Revision {
			t.Errorf("%q modified at %d, not %d", kv.Key, kv.ModRevision, resp.Header.Revision)
		}
	}
	// A nested compare looks at the state before the transaction's own puts.
	e.commit(t, e.cli.Txn(within(t, patience)).Then(
		clientv3.OpPut(p+"a", "2"),
		clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Value(p+"a"), "=", "2")}, []clientv3.Op{clientv3.OpPut(p+"saw", "2")}, []clientv3.Op{clientv3.OpPut(p+"saw", "1")}),
	))
	if got := values(e.get(t, p+"saw").Kvs); got != "saw=1" {
		t.Errorf("the nested compare saw %s", got)
	}
	// The other branch, nested, without effects: a read.
	before := e.revision(t)
	resp = e.commit(t, e.cli.Txn(within(t, patience)).Then(
		clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Version(p+"a"), "=", 0)}, []clientv3.Op{clientv3.OpPut(p+"never", "")}, []clientv3.Op{clientv3.OpGet(p + "a")}),
	))
	if resp.Header.Revision != before || values(resp.Responses[0].GetResponseTxn().Responses[0].GetResponseRange().Kvs) != "a=2" {
		t.Errorf("nested read: revision %d after %d, %v", resp.Header.Revision, before, resp)
	}
}
