package history

import (
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// maxViolations bounds a report: one broken rule often breaks many operations.
const maxViolations = 10

// checker is one judgement under way.
type checker struct {
	log        *Log
	operations []*Operation
	leases     []*LeaseCall
	lives      map[int64]*life // of each lease
	violations []error
	owner      map[int64]*Operation // of each revision: the write that made it
	placed     []placed
	owned      map[*Operation]bool // those that own a revision
}

// placed is an operation with its place in the order by revision: 2r for the write with revision r, 2r+1 for what saw the state at r.
type placed struct {
	op    *Operation
	place int64
}

func (p placed) write() bool     { return p.place%2 == 0 }
func (p placed) revision() int64 { return p.place / 2 }

// Report says what a history that passed was made of.
type Report struct {
	Operations, Answered, Refused, Unknown int
	// Happened are writes of unknown fate that took effect, Ended the leases whose end deleted something.
	Happened, Ended int
	Revisions       int
	// Skipped are revisions without events between the first and the last.
	Skipped int64
}

// Check judges all operations of a run, and all that was asked of leases, against its log. The error tells the first violations.
func Check(operations []*Operation, leases []*LeaseCall, log *Log) (Report, error) {
	c := &checker{log: log, operations: operations, leases: leases, owner: map[int64]*Operation{}, owned: map[*Operation]bool{}}
	report := Report{Operations: len(operations), Revisions: len(log.Revisions)}
	if n := len(log.Revisions); n > 0 {
		report.Skipped = log.Last() - log.Revisions[0] + 1 - int64(n)
	}
	for _, op := range operations {
		switch op.Outcome {
		case Answered:
			report.Answered++
			c.answered(op)
		case Refused:
			report.Refused++
		default:
			report.Unknown++
		}
	}
	report.Happened, report.Ended = c.adopt()
	c.judgeLeases()
	c.realTime()
	c.compactions()
	if len(c.violations) == 0 {
		c.porcupine()
	}
	if n := len(c.violations); n > maxViolations {
		c.violations = append(c.violations[:maxViolations], fmt.Errorf("and %d violations more", n-maxViolations))
	}
	return report, errors.Join(c.violations...)
}

func (c *checker) violate(format string, args ...any) {
	c.violations = append(c.violations, fmt.Errorf(format, args...))
}

// answered compares an answer with what the model answers, and finds the operation's place.
func (c *checker) answered(op *Operation) {
	rev := op.Response.revision()
	switch {
	case rev <= 0:
		c.violate("an answer without a revision: %s", op)
	case op.Request.Compact != nil:
		// Its revision is the store's when it was answered; compactions judges it.
	case op.Response.Wrote():
		if other := c.owner[rev]; other != nil {
			c.violate("revision %d was given to two writes:\n  %s\n  %s", rev, other, op)
			return
		}
		c.own(rev, op)
		if c.log.Events(rev) == nil {
			c.violate("a write was answered with revision %d, and no watch saw an event of it: %s", rev, op)
			return
		}
		want, events := c.log.At(rev-1).Apply(op.Request, rev)
		slices.SortFunc(events, byKey)
		if !sameEvents(events, c.log.Events(rev)) {
			c.violate("revision %d has the events %s, and the write that it was given to makes %s: %s", rev, describeEvents(c.log.Events(rev)), describeEvents(events), op)
		}
		c.same(op, want)
	default:
		if !op.Request.serializable() {
			c.placed = append(c.placed, placed{op, 2*rev + 1})
		}
		want, events := c.log.At(rev).Apply(op.Request, rev+1)
		if len(events) > 0 {
			c.violate("the answer speaks of no effect, and at revision %d the request makes %s: %s", rev, describeEvents(events), op)
			return
		}
		c.same(op, want)
	}
}

func (c *checker) same(op *Operation, want Response) {
	if !proto.Equal(withoutHeaders(op.Response), withoutHeaders(want)) {
		c.violate("the answer should be {%v}: %s", want.message(), op)
	}
}

// withoutHeaders is a copy of the answer without the headers at all its levels.
func withoutHeaders(r Response) proto.Message {
	m := proto.Clone(r.message())
	switch m := m.(type) {
	case *pb.RangeResponse:
		m.Header = nil
	case *pb.PutResponse:
		m.Header = nil
	case *pb.DeleteRangeResponse:
		m.Header = nil
	case *pb.TxnResponse:
		dropHeaders(m)
	}
	return m
}

func dropHeaders(t *pb.TxnResponse) {
	t.Header = nil
	for _, op := range t.Responses {
		switch r := op.Response.(type) {
		case *pb.ResponseOp_ResponseRange:
			r.ResponseRange.Header = nil
		case *pb.ResponseOp_ResponsePut:
			r.ResponsePut.Header = nil
		case *pb.ResponseOp_ResponseDeleteRange:
			r.ResponseDeleteRange.Header = nil
		case *pb.ResponseOp_ResponseTxn:
			dropHeaders(r.ResponseTxn)
		}
	}
}

// realTime demands that the order by revision is one of real time: an operation lies behind everything that was answered before it was asked.
func (c *checker) realTime() {
	byCall := slices.Clone(c.placed)
	slices.SortStableFunc(byCall, func(a, b placed) int { return int(min(1, max(-1, a.op.Call-b.op.Call))) })
	byReturn := slices.DeleteFunc(slices.Clone(c.placed), func(p placed) bool { return p.op.Outcome != Answered })
	slices.SortStableFunc(byReturn, func(a, b placed) int { return int(min(1, max(-1, a.op.Return-b.op.Return))) })
	var last placed // what lies furthest among those that were answered before the call
	next := 0
	for _, p := range byCall {
		for next < len(byReturn) && byReturn[next].op.Return < p.op.Call {
			if byReturn[next].place > last.place {
				last = byReturn[next]
			}
			next++
		}
		if last.op != nil && p.place < last.place {
			c.violate("what was asked later lies before what was answered earlier, at revision %d after revision %d:\n  %s\n  %s", p.revision(), last.revision(), last.op, p.op)
		}
	}
}

// compactions judges what was refused because of its revision, and what should have been.
func (c *checker) compactions() {
	compacts := slices.DeleteFunc(slices.Clone(c.operations), func(op *Operation) bool { return op.Request.Compact == nil })
	for _, op := range c.operations {
		rev := int64(0)
		if r := op.Request.Range; r != nil {
			rev = r.Revision
		}
		if rev == 0 {
			continue
		}
		switch {
		case op.Outcome == Answered:
			for _, k := range compacts {
				if k.Outcome == Answered && k.Return < op.Call && rev < k.Request.Compact.Revision {
					c.violate("a revision was read that had been compacted:\n  %s\n  %s", k, op)
					break
				}
			}
		case op.Error == rpctypes.ErrGRPCCompacted.Error():
			if !slices.ContainsFunc(compacts, func(k *Operation) bool {
				return k.Outcome != Refused && k.Call < op.Return && rev < k.Request.Compact.Revision
			}) {
				c.violate("refused as compacted, and nobody had compacted so far: %s", op)
			}
		case op.Error == rpctypes.ErrGRPCFutureRev.Error():
			for _, p := range c.placed {
				if p.op.Outcome == Answered && p.op.Return < op.Call && p.revision() >= rev {
					c.violate("refused as a future revision that was past:\n  %s\n  %s", p.op, op)
					break
				}
			}
		}
	}
}
