package history

import (
	"bytes"
	"cmp"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Apply executes a request on the state as etcd would with the given revision, and gives the answer (without headers) and the events that it makes, in the order
// of the request. The state is not changed; without events there is no new one.
func (s *State) Apply(req Request, rev int64) (Response, []*mvccpb.Event) {
	e := &execution{now: &State{Revision: s.Revision, kvs: s.kvs, older: s.older}, rev: rev, old: s}
	var r Response
	switch {
	case req.Range != nil:
		r.Range = e.rangeKeys(req.Range)
	case req.Put != nil:
		r.Put = e.put(req.Put)
	case req.Delete != nil:
		r.Delete = e.deleteRange(req.Delete)
	case req.Txn != nil:
		r.Txn = e.txn(req.Txn)
	case req.Revoke != nil:
		r.Revoke = e.revoke(req.Revoke)
	}
	return r, e.events
}

// execution is a request under way: later parts of a transaction see what earlier ones did.
type execution struct {
	now, old *State
	rev      int64
	events   []*mvccpb.Event
}

func (e *execution) write(ev *mvccpb.Event) {
	older := e.now.older
	e.now = e.now.after(e.now.Revision, []*mvccpb.Event{ev})
	e.now.older = older
	e.events = append(e.events, ev)
}

func (e *execution) rangeKeys(r *pb.RangeRequest) *pb.RangeResponse {
	from := e.now
	if r.Revision > 0 {
		from = e.old.at(r.Revision)
	}
	if from == nil {
		from = newState()
	}
	found := from.span(r.Key, r.RangeEnd)
	resp := &pb.RangeResponse{Count: int64(len(found))}
	if r.CountOnly {
		return resp
	}
	found = slices.DeleteFunc(slices.Clone(found), func(kv *mvccpb.KeyValue) bool {
		return r.MinModRevision > 0 && kv.ModRevision < r.MinModRevision || r.MaxModRevision > 0 && kv.ModRevision > r.MaxModRevision ||
			r.MinCreateRevision > 0 && kv.CreateRevision < r.MinCreateRevision || r.MaxCreateRevision > 0 && kv.CreateRevision > r.MaxCreateRevision
	})
	sortRange(r, found)
	if r.Limit > 0 && int64(len(found)) > r.Limit {
		found, resp.More = found[:r.Limit], true
	}
	for _, kv := range found {
		if r.KeysOnly {
			kv = &mvccpb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease}
		}
		resp.Kvs = append(resp.Kvs, kv)
	}
	return resp
}

func sortRange(r *pb.RangeRequest, kvs []*mvccpb.KeyValue) {
	order := r.SortOrder
	if r.SortTarget != pb.RangeRequest_KEY && order == pb.RangeRequest_NONE {
		order = pb.RangeRequest_ASCEND
	}
	if order == pb.RangeRequest_NONE {
		return
	}
	by := func(a, b *mvccpb.KeyValue) int {
		switch r.SortTarget {
		case pb.RangeRequest_VERSION:
			return cmp.Compare(a.Version, b.Version)
		case pb.RangeRequest_CREATE:
			return cmp.Compare(a.CreateRevision, b.CreateRevision)
		case pb.RangeRequest_MOD:
			return cmp.Compare(a.ModRevision, b.ModRevision)
		case pb.RangeRequest_VALUE:
			return bytes.Compare(a.Value, b.Value)
		}
		return bytes.Compare(a.Key, b.Key)
	}
	slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) int {
		if order == pb.RangeRequest_DESCEND {
			return by(b, a)
		}
		return by(a, b)
	})
}

func (e *execution) put(r *pb.PutRequest) *pb.PutResponse {
	resp := &pb.PutResponse{}
	prev := e.now.get(r.Key)
	kv := &mvccpb.KeyValue{Key: r.Key, Value: r.Value, CreateRevision: e.rev, ModRevision: e.rev, Version: 1, Lease: r.Lease}
	if prev != nil {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
		if r.IgnoreValue {
			kv.Value = prev.Value
		}
		if r.IgnoreLease {
			kv.Lease = prev.Lease
		}
		if r.PrevKv {
			resp.PrevKv = prev
		}
	}
	e.write(&mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv})
	return resp
}

func (e *execution) deleteRange(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	resp := &pb.DeleteRangeResponse{}
	for _, kv := range slices.Clone(e.now.span(r.Key, r.RangeEnd)) {
		resp.Deleted++
		if r.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, kv)
		}
		e.write(&mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: kv.Key, ModRevision: e.rev}})
	}
	return resp
}

func (e *execution) revoke(r *pb.LeaseRevokeRequest) *pb.LeaseRevokeResponse {
	for _, kv := range e.old.attached(r.ID) {
		e.write(&mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: kv.Key, ModRevision: e.rev}})
	}
	return &pb.LeaseRevokeResponse{}
}

// txn chooses all branches, those of nested transactions too, by the state before the whole transaction, as etcd does.
func (e *execution) txn(t *pb.TxnRequest) *pb.TxnResponse {
	resp := &pb.TxnResponse{Succeeded: true}
	for _, c := range t.Compare {
		if !e.old.holds(c) {
			resp.Succeeded = false
			break
		}
	}
	branch := t.Success
	if !resp.Succeeded {
		branch = t.Failure
	}
	for _, op := range branch {
		var out pb.ResponseOp
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: e.rangeKeys(r.RequestRange)}
		case *pb.RequestOp_RequestPut:
			out.Response = &pb.ResponseOp_ResponsePut{ResponsePut: e.put(r.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			out.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: e.deleteRange(r.RequestDeleteRange)}
		case *pb.RequestOp_RequestTxn:
			out.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: e.txn(r.RequestTxn)}
		}
		resp.Responses = append(resp.Responses, &out)
	}
	return resp
}

// holds evaluates a compare: over a range every key must satisfy it, and a key that does not exist counts as one of version 0 without a value.
func (s *State) holds(c *pb.Compare) bool {
	found := s.span(c.Key, c.RangeEnd)
	if len(found) == 0 {
		if c.Target == pb.Compare_VALUE {
			return false // what does not exist has no value, not even an empty one
		}
		return holdsFor(c, &mvccpb.KeyValue{})
	}
	for _, kv := range found {
		if !holdsFor(c, kv) {
			return false
		}
	}
	return true
}

func holdsFor(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	var order int
	switch c.Target {
	case pb.Compare_VALUE:
		order = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		order = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		order = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		order = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		order = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	}
	return order < 0
}
