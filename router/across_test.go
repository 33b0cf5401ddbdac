package router

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard"
)

// describeParts shows the parts of an attempt: spans (w for those that may be
// written), and what comes with the latches.
func describeParts(a *across) (out []string) {
	for _, p := range a.parts {
		s := ""
		for _, sp := range p.spans {
			s += keyspace.Span{Start: sp.Start, End: sp.End}.String()
			if sp.Write {
				s += "w"
			}
			s += " "
		}
		for _, k := range p.reads {
			s += fmt.Sprintf("read %s ", k[1:])
		}
		for _, k := range p.heads {
			s += fmt.Sprintf("head %s ", k[1:])
		}
		out = append(out, s)
	}
	return out
}

// The parts come in key order, whatever the order of the operations, for that is
// what keeps transactions from waiting for each other in a ring; ranges are cut at
// the borders of shards.
func TestPlanOfATransaction(t *testing.T) {
	w := newWorld(t, 1, "g", "p")
	a := &across{r: w.member(1).router, req: &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("z")}},
		Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("e"), RangeEnd: []byte("k")}}},
			{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Failure: []*pb.RequestOp{op1("a")}}}},
		},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("h")}}}},
	}}
	require.NoError(t, a.plan())
	require.Equal(t, []string{
		`["e", "g")w ["a", "a\x00")w head a `,
		`["g", "k")w ["h", "h\x00") read h `,
		`["z", "z\x00") read z `,
	}, describeParts(a))
	require.Equal(t, `["a", "g")`, a.parts[0].hull.String())
	require.Same(t, a.parts[2], a.anchor())
	require.Nil(t, a.partOf(keyspace.User([]byte("m"))))

	// What was used stays, in the same order; the record names all but the anchor.
	a.parts[0].used, a.parts[1].used = true, true
	a.narrow()
	require.Len(t, a.parts, 2)
	record := a.record()
	require.Equal(t, keyspace.User([]byte("g")), record.Anchor)
	require.Len(t, record.Participants, 1)
	require.Equal(t, a.parts[0].hull.Start, record.Participants[0].Start)
}

// What goes wrong before the commit is another attempt; what the client is to be
// told is not.
func TestWhatEndsAnAttempt(t *testing.T) {
	var aborted *errAgain
	for _, err := range []error{errSplit, shard.ErrLatchLost, shard.ErrSpanMoving, errConnectionLost, errNoRoute, &shard.NotOwnerError{}} {
		require.ErrorAs(t, again(err), &aborted)
		require.ErrorIs(t, again(err), err)
	}
	for _, err := range []error{errTimeout, shard.ErrOldAuth} {
		require.NotErrorAs(t, again(err), &aborted)
	}
	require.NoError(t, again(nil))
}
