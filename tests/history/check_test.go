package history

import (
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestGoodHistoriesPass(t *testing.T) {
	for seed := range uint64(20) {
		d := newDouble(t)
		d.run(seed, 400)
		report := mustPass(t, d.operations, d.log())
		if report.Happened == 0 || report.Answered < 200 || report.Revisions < 100 {
			t.Errorf("seed %d says little: %+v", seed, report)
		}
	}
}

// TestOverlappingOperations: requests that overlap may take effect in any order, so nothing is wrong when a read overlaps a write.
func TestOverlappingOperations(t *testing.T) {
	d := newDouble(t)
	d.do(put("a", "1"))
	r := d.do(get("a", "", 0))
	w := d.do(put("a", "2"))
	w.Call, w.Return, r.Call, r.Return = 100, 200, 150, 300
	mustPass(t, d.operations, d.log())
}

// TestCheckFindsPlantedBugs: each kind of broken promise, planted in a good history, is found, and named.
func TestCheckFindsPlantedBugs(t *testing.T) {
	for _, c := range []struct {
		name, want string
		plant      func(d *double) []*Operation
	}{
		{"a stale read", "asked later lies before", func(d *double) []*Operation {
			d.do(put("a", "1"))
			old := clone(d.do(get("a", "", 0)))
			d.do(put("a", "2"))
			old.Call, old.Return = d.now, d.now+10
			return append(d.operations[:1:1], d.operations[2], old)
		}},
		{"a read of what was not there", "the answer should be", func(d *double) []*Operation {
			d.do(put("a", "1"))
			d.do(get("a", "", 0)).Response.Range.Kvs[0].Value = []byte("2")
			return d.operations
		}},
		{"a range without one of its keys", "the answer should be", func(d *double) []*Operation {
			d.do(put("a", "1"))
			d.do(put("b", "1b"))
			r := d.do(get("a", "z", 0)).Response.Range
			r.Kvs, r.Count = r.Kvs[:1], 1
			return d.operations
		}},
		{"an old state read wrongly", "the answer should be", func(d *double) []*Operation {
			d.do(put("a", "1"))
			d.do(put("a", "2"))
			d.do(get("a", "", 2)).Response.Range.Kvs[0].Value = []byte("2")
			return d.operations
		}},
		{"a serializable read that is not what it says", "the answer should be", func(d *double) []*Operation {
			d.do(put("a", "1"))
			d.do(put("a", "2"))
			op := d.do(get("a", "", 0))
			op.Request.Range.Serializable = true
			op.Response.Range.Header.Revision--
			return d.operations
		}},
		{"a lost write", "no watch saw an event of it", func(d *double) []*Operation {
			d.do(put("a", "1"))
			d.do(put("b", "2"))
			d.responses = d.responses[:1]
			return d.operations
		}},
		{"a write executed twice", "executed twice", func(d *double) []*Operation {
			op := lost(d.do(put("a", "1")))
			d.do(put("a", "1"))
			return []*Operation{op}
		}},
		{"a refused write that happened", "answered otherwise, or refused", func(d *double) []*Operation {
			op := lost(d.do(put("a", "1")))
			op.Outcome = Refused
			return d.operations
		}},
		{"a write of nobody", "nobody put", func(d *double) []*Operation {
			d.do(put("a", "1"))
			return nil
		}},
		{"a deletion of nobody", "belongs to no request", func(d *double) []*Operation {
			d.do(put("a", "1"))
			d.do(del("a", ""))
			return d.operations[:1]
		}},
		{"a deletion seen before it was asked for", "belongs to no request", func(d *double) []*Operation {
			d.do(put("a", "1"))
			op := lost(d.do(del("a", "")))
			d.do(get("a", "", 0))
			op.Call = d.now + 100
			return d.operations
		}},
		{"one revision for two writes", "given to two writes", func(d *double) []*Operation {
			d.do(put("a", "1"))
			d.do(put("b", "2"))
			d.operations[1].Response.Put.Header.Revision = 2
			return d.operations
		}},
		{"a later write with the smaller revision", "asked later lies before", func(d *double) []*Operation {
			a, b := d.do(put("a", "1")), d.do(put("b", "2"))
			a.Call, a.Return = b.Return+10, b.Return+20
			return d.operations
		}},
		{"a transaction on a false compare", "the answer should be", func(d *double) []*Operation {
			d.do(put("a", "1"))
			op := d.do(txn(version("a", 1), put("b", "2")))
			op.Request.Txn.Compare[0] = version("a", 7)
			return d.operations
		}},
		{"half of a transaction", "makes", func(d *double) []*Operation {
			d.do(txn(nil, put("a", "1"), put("b", "2")))
			d.responses[0].Events = d.responses[0].Events[:1]
			return d.operations
		}},
		{"a previous value that was not", "the answer should be", func(d *double) []*Operation {
			d.do(put("a", "1"))
			d.do(put("a", "2"))
			d.do(put("a", "3")).Response.Put.PrevKv.Value = []byte("1")
			return d.operations
		}},
		{"a read of a compacted revision", "had been compacted", func(d *double) []*Operation {
			d.do(put("a", "1"))
			d.do(put("a", "2"))
			d.do(Request{Compact: &pb.CompactionRequest{Revision: 3}})
			d.do(get("a", "", 2))
			return d.operations
		}},
		{"compacted by nobody", "nobody had compacted", func(d *double) []*Operation {
			d.do(put("a", "1"))
			op := d.do(get("a", "", 2))
			op.Outcome, op.Response, op.Error = Refused, Response{}, rpctypes.ErrGRPCCompacted.Error()
			return d.operations
		}},
		{"a future revision that is past", "was past", func(d *double) []*Operation {
			d.do(put("a", "1"))
			op := d.do(get("a", "", 2))
			op.Outcome, op.Response, op.Error = Refused, Response{}, rpctypes.ErrGRPCFutureRev.Error()
			return d.operations
		}},
		{"an effect that the answer does not speak of", "speaks of no effect", func(d *double) []*Operation {
			d.do(put("a", "1"))
			op := d.do(del("b", ""))
			op.Request.Delete.Key = []byte("a")
			return d.operations
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDouble(t)
			ops := c.plant(d)
			_, err := Check(ops, nil, d.log())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want something with %q", err, c.want)
			}
		})
	}
}

// TestPorcupineAlone: the second opinion finds by itself what it is there for.
func TestPorcupineAlone(t *testing.T) {
	d := newDouble(t)
	d.run(3, 300)
	opinion := func(ops []*Operation) []error {
		c := &checker{log: d.log(), operations: ops, owner: map[int64]*Operation{}, owned: map[*Operation]bool{}}
		for _, op := range ops {
			if op.Outcome == Answered {
				c.answered(op)
			}
		}
		c.adopt()
		c.violations = nil
		c.porcupine()
		return c.violations
	}
	if errs := opinion(d.operations); errs != nil {
		t.Fatal(errs)
	}
	late := cloneAll(d.operations)
	i := slices.IndexFunc(late, func(op *Operation) bool { return op.Request.Range != nil && op.Request.Range.Revision == 0 })
	late[i].Call, late[i].Return = d.now, d.now+1
	if opinion(late) == nil {
		t.Error("a stale read passed")
	}
	wrong := cloneAll(d.operations)
	i = slices.IndexFunc(wrong, func(op *Operation) bool { return op.Request.Range != nil && len(op.Response.Range.Kvs) > 0 })
	wrong[i].Response.Range.Kvs = nil
	if opinion(wrong) == nil {
		t.Error("an answer that lacks its keys passed")
	}
}

// TestLogOfMembersThatDisagree: two members that tell different events of one revision are found before anything is replayed.
func TestLogOfMembersThatDisagree(t *testing.T) {
	d := newDouble(t)
	d.do(put("a", "1"))
	everything := WatchRequest{Key: "\x00", End: "\x00", Revision: 1}
	one, other := d.watch(everything), d.watch(everything)
	other.Responses[1].Events[0].Kv.Value = []byte("2")
	if _, err := NewLog([]*Watch{one, other}); err == nil || !strings.Contains(err.Error(), "another watch saw") {
		t.Errorf("got %v", err)
	}
}

// TestUnknownDeletionsAreMatched: the first of two revisions could belong to either deletion, the second to one of them only, which the first must give back.
func TestUnknownDeletionsAreMatched(t *testing.T) {
	d := newDouble(t)
	d.do(put("a", "1"))
	lost(d.do(del("a", "")))
	d.do(put("a", "2"))
	d.do(put("b", "3"))
	both := lost(d.do(del("a", "c")))
	both.Call = 0 // so that it is tried first
	if report := mustPass(t, d.operations, d.log()); report.Happened != 2 {
		t.Errorf("%+v", report)
	}
	if _, err := Check(append(d.operations[:1:1], d.operations[2:]...), nil, d.log()); err == nil {
		t.Error("two revisions belong to one deletion")
	}
}
