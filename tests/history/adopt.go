package history

import (
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// adopt finds the writes of unknown fate, and the ends of leases, to which the revisions belong that no answered write has, and tells how many there are. A revision that nobody can have
// written is a violation: of a refused request, of a request that was executed twice, or of none at all.
func (c *checker) adopt() (happened, ended int) {
	byValue := map[string]*Operation{}
	deletes := c.ends() // of unknown fate that may make nothing but deletions
	for _, op := range c.operations {
		for _, v := range values(op.Request) {
			byValue[v] = op
		}
		if op.Outcome == Unknown && op.Request.writes() {
			deletes = append(deletes, op)
		}
	}
	slices.SortStableFunc(deletes, func(a, b *Operation) int { return int(min(1, max(-1, a.Call-b.Call))) })
	deadline := c.deadlines()
	var orphans []int64 // revisions with deletions only
	for _, rev := range c.log.Revisions {
		if c.owner[rev] != nil {
			continue
		}
		events := c.log.Events(rev)
		i := slices.IndexFunc(events, func(e *mvccpb.Event) bool { return e.Type == mvccpb.Event_PUT })
		if i < 0 {
			orphans = append(orphans, rev)
			continue
		}
		op := byValue[string(events[i].Kv.Value)]
		switch {
		case op == nil:
			c.violate("revision %d holds a value that nobody put: %s", rev, describeEvents(events))
		case op.Outcome != Unknown:
			c.violate("revision %d is the effect of a request that was answered otherwise, or refused: %s: %s", rev, describeEvents(events), op)
		case c.owned[op]:
			c.violate("a request of unknown fate was executed twice, the second time at revision %d: %s", rev, op)
		case !c.makes(op, rev):
			c.violate("revision %d has the events %s, and the request makes others: %s", rev, describeEvents(events), op)
		default:
			c.own(rev, op)
			happened++
		}
	}
	for op := range c.match(orphans, deletes, deadline) {
		if op.Request.Revoke != nil {
			ended++
		} else {
			happened++
		}
	}
	return happened, ended
}

func (c *checker) own(rev int64, op *Operation) {
	c.owner[rev], c.owned[op] = op, true
	c.placed = append(c.placed, placed{op, 2 * rev})
}

// makes tells whether a request makes exactly the events of a revision.
func (c *checker) makes(op *Operation, rev int64) bool {
	_, events := c.log.At(rev-1).Apply(op.Request, rev)
	slices.SortFunc(events, byKey)
	return sameEvents(events, c.log.Events(rev))
}

// deadlines gives, for each revision of the log, the time by which its write must have been called: when somebody was answered who saw it, or something later.
func (c *checker) deadlines() []int64 {
	deadline := make([]int64, len(c.log.Revisions))
	for i := range deadline {
		deadline[i] = math.MaxInt64
	}
	for _, p := range c.placed {
		if i, ok := slices.BinarySearch(c.log.Revisions, p.revision()); ok {
			deadline[i] = min(deadline[i], p.op.Return)
		} else if i > 0 {
			deadline[i-1] = min(deadline[i-1], p.op.Return)
		}
	}
	for i := len(deadline) - 2; i >= 0; i-- {
		deadline[i] = min(deadline[i], deadline[i+1])
	}
	return deadline
}

// match gives each revision that only deletes to one deletion of unknown fate, and returns those that got one. Several may fit, so augmenting paths find an assignment if there is one.
func (c *checker) match(orphans []int64, deletes []*Operation, deadline []int64) map[*Operation]int64 {
	taken := make(map[*Operation]int64)
	fits := func(op *Operation, rev int64) bool {
		i, _ := slices.BinarySearch(c.log.Revisions, rev)
		return op.Call <= deadline[i] && c.makes(op, rev)
	}
	var assign func(rev int64, tried map[*Operation]bool) bool
	assign = func(rev int64, tried map[*Operation]bool) bool {
		for _, op := range deletes {
			if tried[op] || !fits(op, rev) || c.owned[op] {
				continue
			}
			tried[op] = true
			if other, ok := taken[op]; !ok || assign(other, tried) {
				taken[op] = rev
				return true
			}
		}
		return false
	}
	for _, rev := range orphans {
		if !assign(rev, map[*Operation]bool{}) {
			c.violate("revision %d belongs to no request: %s", rev, describeEvents(c.log.Events(rev)))
		}
	}
	for op, rev := range taken {
		c.own(rev, op)
	}
	return taken
}

// values are all that a request might put. Traffic puts every value once.
func values(r Request) []string {
	switch {
	case r.Put != nil:
		return []string{string(r.Put.Value)}
	case r.Txn != nil:
		return txnValues(r.Txn)
	}
	return nil
}

func txnValues(t *pb.TxnRequest) []string {
	var all []string
	for _, op := range slices.Concat(t.Success, t.Failure) {
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			all = append(all, string(r.RequestPut.Value))
		case *pb.RequestOp_RequestTxn:
			all = append(all, txnValues(r.RequestTxn)...)
		}
	}
	return all
}
