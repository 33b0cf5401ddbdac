package check

import (
	"bytes"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// effects are the keys that one branch of a transaction may put, and what it may
// delete, those of nested transactions included.
type effects struct {
	puts map[string]struct{}
	dels intervals
}

// branch collects the effects of a branch. It fails where a key is put twice in
// ways that do not exclude each other, or put inside an interval that is
// deleted. As in etcd, a put is compared with the deletes of its own level and
// with those of nested transactions that come before it or belong to its
// children; a delete of a nested transaction does not forbid puts of an earlier
// sibling.
func branch(ops []*pb.RequestOp) (effects, error) {
	e := effects{puts: make(map[string]struct{})}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			e.dels.add(d.Key, d.RangeEnd)
		}
	}
	for _, op := range ops {
		t := op.GetRequestTxn()
		if t == nil {
			continue
		}
		then, err := branch(t.Success)
		if err != nil {
			return e, err
		}
		otherwise, err := branch(t.Failure)
		if err != nil {
			return e, err
		}
		for k := range then.puts {
			if err := e.put(k); err != nil {
				return e, err
			}
		}
		for k := range otherwise.puts {
			if _, both := then.puts[k]; both {
				// Only one of the two branches runs.
				continue
			}
			if err := e.put(k); err != nil {
				return e, err
			}
		}
		e.dels.join(then.dels)
		e.dels.join(otherwise.dels)
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			if err := e.put(string(p.Key)); err != nil {
				return e, err
			}
		}
	}
	return e, nil
}

func (e *effects) put(key string) error {
	if _, twice := e.puts[key]; twice || e.dels.holds(key) {
		return rpctypes.ErrGRPCDuplicateKey
	}
	e.puts[key] = struct{}{}
	return nil
}

// intervals is a set of deleted ranges. It is a few sorted lists, each at least
// twice as long as the next, so that adding n ranges one by one or in lists costs
// n log n however a request nests them, and a question the square of log n.
type intervals struct {
	lists [][]interval
}

// interval is [start, end); an end of nil is the end of the key space.
type interval struct {
	start, end []byte
}

func (s *intervals) add(key, rangeEnd []byte) {
	iv := interval{start: key, end: rangeEnd}
	switch {
	case len(rangeEnd) == 0:
		iv.end = append(bytes.Clone(key), 0)
	case len(rangeEnd) == 1 && rangeEnd[0] == 0:
		iv.end = nil
	case bytes.Compare(rangeEnd, key) <= 0:
		return
	}
	s.push([]interval{iv})
}

func (s *intervals) join(o intervals) {
	for _, l := range o.lists {
		s.push(l)
	}
}

// push adds a sorted list of disjoint intervals.
func (s *intervals) push(l []interval) {
	s.lists = append(s.lists, l)
	for n := len(s.lists); n > 1 && len(s.lists[n-2]) < 2*len(s.lists[n-1]); n-- {
		s.lists[n-2] = merge(s.lists[n-2], s.lists[n-1])
		s.lists = s.lists[:n-1]
	}
}

func (s *intervals) holds(key string) bool {
	k := []byte(key)
	for _, l := range s.lists {
		i := sort.Search(len(l), func(i int) bool { return bytes.Compare(l[i].start, k) > 0 }) - 1
		if i >= 0 && (l[i].end == nil || bytes.Compare(k, l[i].end) < 0) {
			return true
		}
	}
	return false
}

// merge unites two sorted lists of disjoint intervals into a third.
func merge(a, b []interval) []interval {
	out := make([]interval, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		from := &a
		if len(a) == 0 || (len(b) > 0 && bytes.Compare(b[0].start, a[0].start) < 0) {
			from = &b
		}
		iv := (*from)[0]
		*from = (*from)[1:]
		if len(out) == 0 {
			out = append(out, iv)
			continue
		}
		switch last := &out[len(out)-1]; {
		case last.end == nil:
		case bytes.Compare(iv.start, last.end) > 0:
			out = append(out, iv)
		case iv.end == nil || bytes.Compare(iv.end, last.end) > 0:
			last.end = iv.end
		}
	}
	return out
}
