package history

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/protobuf/proto"
)

// porcupineTimeout bounds the second opinion. The revisions leave so little to guess that tens of thousands of operations take seconds.
const porcupineTimeout = 2 * time.Minute

// step is what porcupine's model needs of an operation: the request, the revision before it, and its own if it wrote.
type step struct {
	op     *Operation
	before int64 // revision of the state that the operation met
	rev    int64 // of a write; 0 for what only saw
}

// model is the whole of etcd. It starts empty and executes requests by itself; that operations name their revisions only keeps it from trying orders that cannot be.
var model = porcupine.Model{
	Init: func() any { return newState() },
	Step: func(state, input, output any) (bool, any) {
		s, in := state.(*State), input.(step)
		if s.Revision != in.before {
			return false, s
		}
		want, events := s.Apply(in.op.Request, max(in.rev, s.Revision+1))
		if in.op.Outcome == Answered && !proto.Equal(withoutHeaders(want), withoutHeaders(in.op.Response)) || (len(events) > 0) != (in.rev > 0) {
			return false, s
		}
		if in.rev == 0 {
			return true, s
		}
		return true, s.after(in.rev, events)
	},
	// A revision has one state: the model is deterministic, and so are the revisions of the operations.
	Equal:             func(a, b any) bool { return a.(*State).Revision == b.(*State).Revision },
	Hash:              func(s any) uint64 { return uint64(s.(*State).Revision) },
	DescribeOperation: func(input, _ any) string { return input.(step).op.String() },
	DescribeState:     func(s any) string { return fmt.Sprintf("revision %d", s.(*State).Revision) },
}

// porcupine asks for the second opinion.
func (c *checker) porcupine() {
	result := porcupine.CheckOperationsTimeout(model, c.porcupineHistory(), porcupineTimeout)
	if result != porcupine.Ok {
		c.violate("porcupine: the history is %s, although its order by revision respects real time and the model", result)
	}
}

func (c *checker) porcupineHistory() []porcupine.Operation {
	var history []porcupine.Operation
	for _, p := range c.placed {
		in := step{op: p.op, before: c.log.At(p.revision()).Revision}
		if p.write() {
			in.before, in.rev = c.log.At(p.revision()-1).Revision, p.revision()
		}
		op := porcupine.Operation{ClientId: p.op.Client, Input: in, Call: p.op.Call, Return: p.op.Return}
		if p.op.Outcome == Unknown {
			op.Return = math.MaxInt64
		}
		history = append(history, op)
	}
	slices.SortStableFunc(history, func(a, b porcupine.Operation) int { return int(min(1, max(-1, a.Call-b.Call))) })
	return history
}
