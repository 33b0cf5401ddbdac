package shard

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// latchedReader reads the newest state of keys that the reader's request holds
// latches on: heads from memory where they are known, the rest from a snapshot
// that is taken when first needed. Under the latches it does not matter when
// that is: every earlier write of those keys has applied, and no later one can.
type latchedReader struct {
	t  *tenure
	sn *mvcc.Snapshot
}

func (r *latchedReader) snapshot() *mvcc.Snapshot {
	if r.sn == nil {
		r.sn = r.t.r.store.Load().NewSnapshot()
	}
	return r.sn
}

func (r *latchedReader) close() {
	if r.sn != nil {
		r.sn.Close()
		r.sn = nil
	}
}

func (r *latchedReader) Head(key []byte) (mvcc.Head, error) {
	s := r.t.heads.get(key)
	if s.known {
		return s.head, nil
	}
	var h mvcc.Head
	var err error
	if slot := r.borrow(s); slot != nil {
		h, err = slot.sn.Head(key)
		slot.Unlock()
	} else {
		h, err = r.snapshot().Head(key)
	}
	if err == nil {
		r.t.heads.put(key, h)
	}
	return h, err
}

func (r *latchedReader) Get(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	if rev != 0 {
		return r.snapshot().Get(key, rev)
	}
	s := r.t.heads.get(key)
	if s.known && !s.head.Exists {
		// A compare of an absent key, the most common of all, needs no read.
		return nil, nil
	}
	if slot := r.borrow(s); slot != nil {
		defer slot.Unlock()
		return slot.sn.Get(key, 0)
	}
	return r.snapshot().Get(key, 0)
}

// borrow returns a snapshot that is at hand, unless the reader has its own.
func (r *latchedReader) borrow(s headState) *windowSlot {
	if r.sn != nil {
		return nil
	}
	return r.t.windows.borrow(s)
}

func (r *latchedReader) Range(ctx context.Context, span keyspace.Span, o mvcc.RangeOptions, fn func(*mvccpb.KeyValue) bool) error {
	return r.snapshot().Range(ctx, span, o, fn)
}

func (r *latchedReader) Count(ctx context.Context, span keyspace.Span, rev int64) (int64, error) {
	return r.snapshot().Count(ctx, span, rev)
}

// readError turns the store's errors into what a client is told.
func (r *Replica) readError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, mvcc.ErrCompacted):
		return rpctypes.ErrGRPCCompacted
	case errors.Is(err, mvcc.ErrClosed):
		return r.notOwner()
	}
	return err
}
