package router

import (
	"bytes"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// hull is the smallest span that covers everything that a transaction may touch,
// in user keys. It is found without allocating, for nearly all transactions
// touch one key a few times.
type hull struct {
	start []byte
	// end is the last key if endIsKey, the end of the keys if endless, else the
	// exclusive end.
	end               []byte
	endIsKey, endless bool
	// any: there is something to touch; writes: some of it may be written.
	any, writes bool
}

// txn adds what a transaction may touch, nested ones included.
func (h *hull) txn(r *pb.TxnRequest) {
	for _, c := range r.Compare {
		h.add(c.Key, c.RangeEnd)
	}
	for _, ops := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			switch o := op.Request.(type) {
			case *pb.RequestOp_RequestRange:
				h.add(o.RequestRange.Key, o.RequestRange.RangeEnd)
			case *pb.RequestOp_RequestPut:
				h.writes = true
				h.add(o.RequestPut.Key, nil)
			case *pb.RequestOp_RequestDeleteRange:
				h.writes = true
				h.add(o.RequestDeleteRange.Key, o.RequestDeleteRange.RangeEnd)
			case *pb.RequestOp_RequestTxn:
				h.txn(o.RequestTxn)
			}
		}
	}
}

// add adds a range as etcd's requests name it. One without keys is still
// evaluated, where its key would be.
func (h *hull) add(key, rangeEnd []byte) {
	if !h.any || bytes.Compare(key, h.start) < 0 {
		h.start = key
	}
	end, endIsKey, endless := rangeEnd, false, false
	switch {
	case len(rangeEnd) == 1 && rangeEnd[0] == 0:
		endless = true
	case bytes.Compare(rangeEnd, key) <= 0:
		end, endIsKey = key, true
	}
	switch {
	case h.endless:
	case !h.any, endless, h.below(end, endIsKey):
		h.end, h.endIsKey, h.endless = end, endIsKey, endless
	}
	h.any = true
}

// below tells whether the hull ends before the given end does.
func (h *hull) below(end []byte, isKey bool) bool {
	c := bytes.Compare(h.end, end)
	if c == 0 {
		// The end of a key lies just behind the key.
		return !h.endIsKey && isKey
	}
	return c < 0
}

// span encodes the hull into buf, which it may grow.
func (h *hull) span(buf []byte) (keyspace.Span, []byte) {
	buf = keyspace.AppendUser(buf[:0], h.start)
	n := len(buf)
	if h.endless {
		buf = append(buf, keyspace.UserEnd()...)
	} else {
		buf = keyspace.AppendUser(buf, h.end)
		if h.endIsKey {
			buf = append(buf, 0)
		}
	}
	return keyspace.Span{Start: buf[:n:n], End: buf[n:]}, buf
}
