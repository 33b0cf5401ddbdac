package lease

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// fakeRouter is a cluster of shards that keep leases as dumbly as can be: records
// in one map, attached keys in another, the key space cut at some keys.
type fakeRouter struct {
	m *Manager

	mu sync.Mutex
	// cuts are the encoded keys at which shards begin, but the first.
	cuts     [][]byte
	records  map[int64]*kvdpb.LeaseRecord
	attached map[string]int64
	revision int64
	page     int
	// steps notes what was asked for, txns the keys that each transaction deleted.
	steps []string
	txns  [][]string
	// fail is asked before each step and each transaction ("txn"), which then
	// fails with what it answers; lose afterwards.
	fail, lose func(step string) error
	// working counts the transactions that are under way, most is how many were at
	// a time; they wait for gate if it is not nil.
	working, most int
	gate          chan struct{}
}

var errLost = errors.New("the answer was lost")

func newFake(t interface{ Cleanup(func()) }, cuts ...string) *fakeRouter {
	f := &fakeRouter{records: map[int64]*kvdpb.LeaseRecord{}, attached: map[string]int64{}, revision: 1, page: 2}
	for _, c := range cuts {
		f.cuts = append(f.cuts, keyspace.User([]byte(c)))
	}
	f.m = New(Config{Router: f, MinTTL: 1500e6})
	t.Cleanup(f.m.Close)
	return f
}

// shardEnd is where the shard that holds key ends.
func (f *fakeRouter) shardEnd(key []byte) []byte {
	for _, c := range f.cuts {
		if bytes.Compare(key, c) < 0 {
			return c
		}
	}
	return keyspace.Max()
}

// cut adds a shard that begins at a lease's record.
func (f *fakeRouter) cut(id int64) { f.cuts = append(f.cuts, keyspace.Lease(id)) }

// attach puts keys on a lease and registers the shards that hold them.
func (f *fakeRouter) attach(id int64, keys ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range keys {
		f.attached[string(keyspace.User([]byte(k)))] = id
		span := &kvdpb.LeaseSpan{Start: keyspace.User([]byte(k)), End: f.shardEnd(keyspace.User([]byte(k)))}
		if users := keyspace.Users(); bytes.Compare(span.End, users.End) > 0 {
			span.End = users.End
		}
		f.records[id].Spans = append(f.records[id].Spans, span)
	}
}

func (f *fakeRouter) Lease(ctx context.Context, key []byte, call *kvdpb.LeaseCall) (*kvdpb.LeaseAnswer, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := stepName(call)
	f.steps = append(f.steps, name)
	if f.fail != nil {
		if err := f.fail(name); err != nil {
			return nil, false, err
		}
	}
	answer, err := f.stepLocked(key, call)
	if answer == nil {
		answer = &kvdpb.LeaseAnswer{}
	}
	answer.Revision = f.revision
	if f.lose != nil && err == nil {
		if lost := f.lose(name); lost != nil {
			return nil, true, lost
		}
	}
	return answer, false, err
}

func stepName(call *kvdpb.LeaseCall) string {
	switch s := call.GetStep().(type) {
	case *kvdpb.LeaseCall_Grant:
		return "grant"
	case *kvdpb.LeaseCall_KeepAlive:
		return "keep-alive"
	case *kvdpb.LeaseCall_Describe:
		return "describe"
	case *kvdpb.LeaseCall_Revoke:
		return "revoke"
	case *kvdpb.LeaseCall_List:
		return "list"
	case *kvdpb.LeaseCall_Attached:
		if s.Attached.Fence {
			return "fence"
		}
		return "attached"
	case *kvdpb.LeaseCall_Drop:
		return "drop"
	case *kvdpb.LeaseCall_Inspect:
		return "inspect"
	case *kvdpb.LeaseCall_Register:
		return "register"
	}
	return "nothing"
}

func (f *fakeRouter) one(id int64) (*kvdpb.LeaseAnswer, error) {
	r := f.records[id]
	if r == nil {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	return &kvdpb.LeaseAnswer{Leases: []*kvdpb.LeaseInfo{{Record: proto.Clone(r).(*kvdpb.LeaseRecord), RemainingMs: r.Ttl * 1000}}}, nil
}

func (f *fakeRouter) stepLocked(key []byte, call *kvdpb.LeaseCall) (*kvdpb.LeaseAnswer, error) {
	switch s := call.GetStep().(type) {
	case *kvdpb.LeaseCall_Grant:
		if f.records[s.Grant.Id] != nil {
			return nil, rpctypes.ErrGRPCLeaseExist
		}
		f.records[s.Grant.Id] = &kvdpb.LeaseRecord{Id: s.Grant.Id, Ttl: s.Grant.Ttl, Nonce: s.Grant.Nonce}
	case *kvdpb.LeaseCall_KeepAlive:
		return f.one(s.KeepAlive)
	case *kvdpb.LeaseCall_Describe:
		return f.one(s.Describe)
	case *kvdpb.LeaseCall_Inspect:
		return f.one(s.Inspect)
	case *kvdpb.LeaseCall_Revoke:
		r := f.records[s.Revoke]
		if r == nil {
			return nil, rpctypes.ErrGRPCLeaseNotFound
		}
		r.Revoking = true
		Shards{f.m}.Revoke(r.Id)
	case *kvdpb.LeaseCall_Drop:
		delete(f.records, s.Drop)
	case *kvdpb.LeaseCall_Register:
		r := f.records[s.Register.Id]
		if r == nil || r.Revoking {
			return nil, rpctypes.ErrGRPCLeaseNotFound
		}
		r.Spans = append(r.Spans, s.Register.Span)
	case *kvdpb.LeaseCall_List:
		return f.listLocked(key, s.List.After), nil
	case *kvdpb.LeaseCall_Attached:
		return f.attachedLocked(s.Attached), nil
	}
	return nil, nil
}

func (f *fakeRouter) listLocked(at, after []byte) *kvdpb.LeaseAnswer {
	end := f.shardEnd(at)
	if all := keyspace.Leases(); bytes.Compare(end, all.End) > 0 {
		end = all.End
	}
	answer := &kvdpb.LeaseAnswer{End: end}
	var ids []int64
	for id := range f.records {
		if k := keyspace.Lease(id); bytes.Compare(k, after) > 0 && bytes.Compare(k, at) >= 0 && bytes.Compare(k, end) < 0 {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b int64) int { return bytes.Compare(keyspace.Lease(a), keyspace.Lease(b)) })
	answer.More = len(ids) > f.page
	for _, id := range ids[:min(len(ids), f.page)] {
		answer.Leases = append(answer.Leases, &kvdpb.LeaseInfo{Record: f.records[id], RemainingMs: f.records[id].Ttl * 1000})
	}
	return answer
}

func (f *fakeRouter) attachedLocked(a *kvdpb.LeaseAttached) *kvdpb.LeaseAnswer {
	end := f.shardEnd(a.Span.Start)
	if bytes.Compare(end, a.Span.End) > 0 {
		end = a.Span.End
	}
	answer := &kvdpb.LeaseAnswer{End: end}
	for k, id := range f.attached {
		if id == a.Id && bytes.Compare([]byte(k), a.Span.Start) >= 0 && bytes.Compare([]byte(k), end) < 0 {
			answer.Keys = append(answer.Keys, []byte(k))
		}
	}
	slices.SortFunc(answer.Keys, bytes.Compare)
	if answer.More = len(answer.Keys) > f.page; answer.More {
		answer.Keys = answer.Keys[:f.page]
	}
	return answer
}

// Txn deletes what the transaction's compares allow.
func (f *fakeRouter) Txn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	f.mu.Lock()
	f.working++
	f.most = max(f.most, f.working)
	gate := f.gate
	f.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.working--
	if f.fail != nil {
		if err := f.fail("txn"); err != nil {
			return nil, err
		}
	}
	var deleted []string
	for _, op := range req.Success {
		nested := op.GetRequestTxn()
		c := nested.GetCompare()[0]
		key := string(keyspace.User(c.Key))
		if f.attached[key] == c.GetLease() {
			delete(f.attached, key)
			deleted = append(deleted, string(nested.Success[0].GetRequestDeleteRange().GetKey()))
		}
	}
	if len(deleted) > 0 {
		f.revision++
	}
	f.txns = append(f.txns, deleted)
	if f.lose != nil {
		if err := f.lose("txn"); err != nil {
			return nil, err
		}
	}
	return &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: f.revision}}, nil
}

// look reads the fake's state.
func (f *fakeRouter) look(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}
