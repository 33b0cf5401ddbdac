package eval

import (
	"bytes"
	"cmp"
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// branch is a transaction whose compares are decided: the operations that run,
// with the branches of nested transactions.
type branch struct {
	succeeded bool
	ops       []*pb.RequestOp
	// nested holds the branch of ops[i] where that is a transaction.
	nested []*branch
}

// choose decides the compares of a transaction and of those nested in the
// branch it takes.
func (ev *evaluation) choose(req *pb.TxnRequest) (*branch, error) {
	b := &branch{succeeded: true, ops: req.Success}
	for _, c := range req.Compare {
		ok, err := ev.compare(c)
		if err != nil {
			return nil, err
		}
		if !ok {
			b.succeeded, b.ops = false, req.Failure
			break
		}
	}
	b.nested = make([]*branch, len(b.ops))
	for i, op := range b.ops {
		if t := op.GetRequestTxn(); t != nil {
			n, err := ev.choose(t)
			if err != nil {
				return nil, err
			}
			b.nested[i] = n
		}
	}
	return b, nil
}

// check does the checks of every operation that will run, before any runs.
func (b *branch) check(ev *evaluation) error {
	for i, op := range b.ops {
		var err error
		switch {
		case op.GetRequestRange() != nil:
			err = ev.bounds.check(op.GetRequestRange().Revision)
		case op.GetRequestPut() != nil:
			err = ev.checkPut(op.GetRequestPut())
		case b.nested[i] != nil:
			err = b.nested[i].check(ev)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *branch) run(ev *evaluation, resp *pb.TxnResponse) error {
	resp.Succeeded = b.succeeded
	resp.Responses = make([]*pb.ResponseOp, len(b.ops))
	for i, op := range b.ops {
		out := &pb.ResponseOp{}
		resp.Responses[i] = out
		switch req := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			r, err := ev.txnRange(req.RequestRange)
			if err != nil {
				return err
			}
			out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: r}
		case *pb.RequestOp_RequestPut:
			r, err := ev.put(req.RequestPut)
			if err != nil {
				return err
			}
			out.Response = &pb.ResponseOp_ResponsePut{ResponsePut: r}
		case *pb.RequestOp_RequestDeleteRange:
			r, err := ev.deleteRange(req.RequestDeleteRange)
			if err != nil {
				return err
			}
			out.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: r}
		case *pb.RequestOp_RequestTxn:
			// etcd leaves the revision of a nested header at zero.
			r := &pb.TxnResponse{Header: &pb.ResponseHeader{}}
			if b.nested[i] != nil {
				if err := b.nested[i].run(ev, r); err != nil {
					return err
				}
			}
			out.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: r}
		}
	}
	return nil
}

// compare decides one compare against the state before the transaction. A
// compare over a range holds if it holds for every key there; over no key at
// all it is decided on a key with zero revisions, except that values of absent
// keys never compare.
func (ev *evaluation) compare(c *pb.Compare) (bool, error) {
	holds, found := true, false
	visit := func(kv *mvccpb.KeyValue) bool {
		found = true
		holds = compareKV(c, kv)
		return holds
	}
	if len(c.RangeEnd) == 0 {
		kv, err := ev.Get(keyspace.User(c.Key), 0)
		if err != nil {
			return false, err
		}
		if kv != nil {
			visit(kv)
		}
	} else {
		o := mvcc.RangeOptions{KeysOnly: c.Target != pb.Compare_VALUE}
		if err := ev.Range(ev.context(), keyspace.UserSpan(c.Key, c.RangeEnd), o, visit); err != nil {
			return false, err
		}
	}
	if !found {
		return c.Target != pb.Compare_VALUE && compareKV(c, &mvccpb.KeyValue{}), nil
	}
	return holds, nil
}

func compareKV(c *pb.Compare, kv *mvccpb.KeyValue) bool {
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
	case pb.Compare_LESS:
		return order < 0
	}
	return true
}

// evaluation is the run of one request: the state before it, and the effects
// it had so far laid over that.
type evaluation struct {
	Reader
	ctx    context.Context
	res    *Result
	bounds Bounds
	// written finds the effect on a key; it is made with the second effect, as
	// most requests have one.
	written map[string]int
}

func (ev *evaluation) context() context.Context {
	if ev.ctx == nil {
		return context.Background()
	}
	return ev.ctx
}

// effectOn returns the effect that the request already had on a key.
func (ev *evaluation) effectOn(key []byte) *mvcc.Effect {
	effects := ev.res.Effects
	if ev.written == nil {
		for i := range effects {
			if bytes.Equal(effects[i].Key, key) {
				return &effects[i]
			}
		}
		return nil
	}
	if i, ok := ev.written[string(key)]; ok {
		return &effects[i]
	}
	return nil
}

// mapFrom is the number of effects from which on a map finds them.
const mapFrom = 8

func (ev *evaluation) addEffect(e mvcc.Effect) error {
	if ev.effectOn(e.Key) != nil {
		// Refused at the door already (api/check); here it guards the rule
		// that a key appears once in a revision.
		return rpctypes.ErrGRPCDuplicateKey
	}
	ev.res.Effects = append(ev.res.Effects, e)
	n := len(ev.res.Effects)
	if ev.written == nil && n >= mapFrom {
		ev.written = make(map[string]int, 2*n)
		for i := range ev.res.Effects {
			ev.written[string(ev.res.Effects[i].Key)] = i
		}
	} else if ev.written != nil {
		ev.written[string(e.Key)] = n - 1
	}
	return nil
}

// previous is the value of a key as the request sees it now.
func (ev *evaluation) previous(key []byte) (*mvccpb.KeyValue, error) {
	if e := ev.effectOn(key); e != nil {
		if e.Tombstone {
			return nil, nil
		}
		return ev.ownValue(e, false), nil
	}
	return ev.Get(key, 0)
}

// ownValue shows an effect of this request as a value; Finish fills in its
// revisions.
func (ev *evaluation) ownValue(e *mvcc.Effect, keysOnly bool) *mvccpb.KeyValue {
	kv := &mvccpb.KeyValue{Key: e.Key, CreateRevision: e.Create, ModRevision: pending, Version: e.Version, Lease: e.Lease}
	if e.Create == 0 {
		kv.CreateRevision = pending
	}
	if !keysOnly {
		kv.Value = e.Value
	}
	ev.res.own = append(ev.res.own, kv)
	return kv
}

// userKV turns the encoded key of a value into the client's.
func userKV(kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	if kv == nil {
		return nil
	}
	if k, ok := keyspace.UserKey(kv.Key); ok {
		kv.Key = k
	}
	return kv
}

func (ev *evaluation) checkPut(req *pb.PutRequest) error {
	if req.Lease != 0 {
		if a, ok := ev.Reader.(Attacher); !ok || !a.Attachable(req.Lease, keyspace.User(req.Key)) {
			return rpctypes.ErrGRPCLeaseNotFound
		}
	}
	if !req.IgnoreValue && !req.IgnoreLease {
		return nil
	}
	head, err := ev.Head(keyspace.User(req.Key))
	if err != nil {
		return err
	}
	if !head.Exists {
		return rpctypes.ErrGRPCKeyNotFound
	}
	return nil
}

func (ev *evaluation) put(req *pb.PutRequest) (*pb.PutResponse, error) {
	key := keyspace.User(req.Key)
	e := mvcc.Effect{Key: key, Value: req.Value, Version: 1, Lease: req.Lease}
	var prev *mvccpb.KeyValue
	if req.PrevKv || req.IgnoreValue {
		var err error
		if prev, err = ev.previous(key); err != nil {
			return nil, err
		}
		if prev != nil {
			e.Create, e.Version = prev.CreateRevision, prev.Version+1
			if req.IgnoreValue {
				e.Value = prev.Value
			}
			if req.IgnoreLease {
				e.Lease = prev.Lease
			}
			e.Detach = detached(prev.Lease, e.Lease)
		}
	} else {
		head, err := ev.Head(key)
		if err != nil {
			return nil, err
		}
		if head.Exists {
			e.Create, e.Version = head.Create, head.Version+1
			if req.IgnoreLease {
				e.Lease = head.Lease
			}
			e.Detach = detached(head.Lease, e.Lease)
		}
	}
	if err := ev.addEffect(e); err != nil {
		return nil, err
	}
	resp := &pb.PutResponse{Header: ev.res.header()}
	if req.PrevKv {
		resp.PrevKv = userKV(prev)
	}
	return resp, nil
}

// detached is the lease that a key leaves when it goes from one to another, 0
// standing for none.
func detached(from, to int64) int64 {
	if from == to {
		return 0
	}
	return from
}

func (ev *evaluation) deleteRange(req *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	resp := &pb.DeleteRangeResponse{}
	remove := func(key []byte, lease int64, prev *mvccpb.KeyValue) error {
		if err := ev.addEffect(mvcc.Effect{Key: key, Tombstone: true, Detach: lease}); err != nil {
			return err
		}
		resp.Deleted++
		if req.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, prev)
		}
		return nil
	}
	if len(req.RangeEnd) == 0 {
		key := keyspace.User(req.Key)
		switch {
		case ev.effectOn(key) != nil:
			if !ev.effectOn(key).Tombstone {
				return nil, rpctypes.ErrGRPCDuplicateKey
			}
		case req.PrevKv:
			kv, err := ev.Get(key, 0)
			if err != nil {
				return nil, err
			}
			if kv != nil {
				if err := remove(key, kv.Lease, userKV(kv)); err != nil {
					return nil, err
				}
			}
		default:
			head, err := ev.Head(key)
			if err != nil {
				return nil, err
			}
			if head.Exists {
				if err := remove(key, head.Lease, nil); err != nil {
					return nil, err
				}
			}
		}
		resp.Header = ev.res.header()
		return resp, nil
	}
	var failed error
	err := ev.Range(ev.context(), keyspace.UserSpan(req.Key, req.RangeEnd), mvcc.RangeOptions{KeysOnly: !req.PrevKv},
		func(kv *mvccpb.KeyValue) bool {
			if e := ev.effectOn(kv.Key); e != nil && e.Tombstone {
				return true
			}
			key := kv.Key
			failed = remove(key, kv.Lease, userKV(kv))
			return failed == nil
		})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	resp.Header = ev.res.header()
	return resp, nil
}
