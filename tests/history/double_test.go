package history

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// double is an etcd without faults that executes one request after the other and remembers everything; tests spoil what it remembers.
type double struct {
	t          *testing.T
	now        int64
	state      *State
	operations []*Operation
	responses  []WatchResponse
}

func newDouble(t *testing.T) *double { return &double{t: t, state: newState()} }

// do executes a request, and gives its operation: one that takes 10 ns, with a pause of 10 ns behind it.
func (d *double) do(req Request) *Operation {
	rev := d.state.Revision + 1
	resp, events := d.state.Apply(req, rev)
	op := &Operation{Client: len(d.operations) % 3, Member: "m1", Call: d.now, Return: d.now + 10, Request: req, Response: Response{}}
	d.now += 20
	header := &pb.ResponseHeader{Revision: d.state.Revision}
	if len(events) > 0 {
		header.Revision = rev
		r := WatchResponse{Time: d.now, Revision: rev}
		for _, e := range events {
			out := &mvccpb.Event{Type: e.Type, Kv: proto.Clone(e.Kv).(*mvccpb.KeyValue)}
			if prev := d.state.get(e.Kv.Key); prev != nil {
				out.PrevKv = proto.Clone(prev).(*mvccpb.KeyValue)
			}
			r.Events = append(r.Events, out)
		}
		d.responses = append(d.responses, r)
		d.state = d.state.after(rev, events)
	}
	switch {
	case req.Range != nil:
		op.Response.Range = proto.Clone(resp.Range).(*pb.RangeResponse)
		op.Response.Range.Header = header
	case req.Revoke != nil:
		// What ends a lease is no operation of a client.
		return op
	case req.Put != nil:
		op.Response.Put = proto.Clone(resp.Put).(*pb.PutResponse)
		op.Response.Put.Header = header
	case req.Delete != nil:
		op.Response.Delete = proto.Clone(resp.Delete).(*pb.DeleteRangeResponse)
		op.Response.Delete.Header = header
	case req.Txn != nil:
		op.Response.Txn = proto.Clone(resp.Txn).(*pb.TxnResponse)
		op.Response.Txn.Header = header
	default:
		op.Response.Compact = &pb.CompactionResponse{Header: header}
	}
	d.operations = append(d.operations, op)
	return op
}

// lost makes the last operation one whose answer was lost.
func lost(op *Operation) *Operation {
	op.Outcome, op.Error, op.Response = Unknown, "connection lost", Response{}
	return op
}

func (d *double) watch(req WatchRequest) *Watch {
	w := &Watch{Member: "m1", Request: req}
	w.Responses = append(w.Responses, WatchResponse{Created: true, Revision: 1})
	for _, r := range d.responses {
		out := WatchResponse{Time: r.Time, Revision: r.Revision}
		for _, e := range r.Events {
			c := proto.Clone(e).(*mvccpb.Event)
			if !req.PrevKV {
				c.PrevKv = nil
			}
			if e.Kv.ModRevision >= req.Revision && w.wants(e) {
				out.Events = append(out.Events, c)
			}
		}
		if len(out.Events) > 0 {
			w.Responses = append(w.Responses, out)
		}
		if req.ProgressNotify && r.Revision%5 == 0 && r.Revision >= req.Revision {
			w.Responses = append(w.Responses, WatchResponse{Time: r.Time, Revision: r.Revision, Progress: true})
		}
	}
	return w
}

func (d *double) log() *Log {
	d.t.Helper()
	l, err := NewLog([]*Watch{d.watch(WatchRequest{Key: "\x00", End: "\x00", Revision: 1})})
	if err != nil {
		d.t.Fatal(err)
	}
	return l
}

func get(key, end string, rev int64) Request {
	return Request{Range: &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end), Revision: rev}}
}

func put(key, value string) Request {
	return Request{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(value), PrevKv: true}}
}

func del(key, end string) Request {
	return Request{Delete: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end), PrevKv: true}}
}

func txn(cmp *pb.Compare, ops ...Request) Request {
	t := &pb.TxnRequest{}
	if cmp != nil {
		t.Compare = append(t.Compare, cmp)
	}
	for _, r := range ops {
		t.Success = append(t.Success, Part(r))
	}
	return Request{Txn: t}
}

func version(key string, v int64) *pb.Compare {
	return &pb.Compare{Key: []byte(key), Target: pb.Compare_VERSION, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Version{Version: v}}
}

// run makes a history of n requests of all kinds.
func (d *double) run(seed uint64, n int) {
	rng := rand.New(rand.NewPCG(seed, 0))
	key := func() string { return fmt.Sprintf("k%d", rng.IntN(8)) }
	for i := range n {
		v := fmt.Sprintf("v%d", i)
		switch rng.IntN(8) {
		case 0, 1:
			d.do(put(key(), v))
		case 2:
			d.do(del(key(), ""))
		case 3:
			d.do(get("k", "l", 0))
		case 4:
			d.do(get(key(), "", max(1, d.state.Revision-rng.Int64N(5))))
		case 5:
			d.do(txn(version(key(), rng.Int64N(2)), put("k1", v), del("k4", "k7"), get("k", "l", 0), txn(version("k2", 0), put("k2", v+"n"))))
		case 6:
			d.do(del("k2", "k4"))
		case 7:
			op := d.do(put(key(), v))
			lost(op)
		}
	}
}

func mustPass(t *testing.T, operations []*Operation, log *Log) Report {
	t.Helper()
	report, err := Check(operations, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func clone(op *Operation) *Operation {
	c := *op
	switch {
	case c.Response.Range != nil:
		c.Response.Range = proto.Clone(c.Response.Range).(*pb.RangeResponse)
	case c.Response.Put != nil:
		c.Response.Put = proto.Clone(c.Response.Put).(*pb.PutResponse)
	case c.Response.Delete != nil:
		c.Response.Delete = proto.Clone(c.Response.Delete).(*pb.DeleteRangeResponse)
	case c.Response.Txn != nil:
		c.Response.Txn = proto.Clone(c.Response.Txn).(*pb.TxnResponse)
	}
	return &c
}

func cloneAll(ops []*Operation) []*Operation {
	out := slices.Clone(ops)
	for i := range out {
		out[i] = clone(out[i])
	}
	return out
}
