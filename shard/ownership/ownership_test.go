package ownership

import (
	"testing"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func claim(prev, member, incarnation uint64) *kvdpb.Claim {
	return &kvdpb.Claim{PreviousEpoch: prev, Member: member, Replica: member, Incarnation: incarnation}
}

func mustClaim(t *testing.T, s *State, member, incarnation uint64) (direct bool) {
	t.Helper()
	r, direct := s.ApplyClaim(claim(s.Epoch, member, incarnation))
	require.Equal(t, None, r)
	return direct
}

// Pitfall 1, first half: A is in lease; B claims, restarts and claims again.
// "Own predecessor" must not spare the wait that B's first claim never served.
func TestClaimInheritsUnexpiredWait(t *testing.T) {
	var s State
	mustClaim(t, &s, 1, 10)
	require.False(t, s.MustWait, "the first owner of a group has no predecessor")
	require.Equal(t, None, s.ApplyServing(s.Epoch))

	mustClaim(t, &s, 2, 20)
	require.True(t, s.MustWait)
	require.False(t, mustClaim(t, &s, 2, 21), "another incarnation is no direct successor")
	require.True(t, s.MustWait, "the first claim of B never served")
}

// Pitfall 1, second half: B may not release during its wait-out and so spare C.
func TestReleaseOnlyAfterServing(t *testing.T) {
	var s State
	mustClaim(t, &s, 1, 10)
	require.Equal(t, None, s.ApplyServing(1))
	mustClaim(t, &s, 2, 20)
	require.Equal(t, NotServing, s.ApplyRelease(2))
	mustClaim(t, &s, 3, 30)
	require.True(t, s.MustWait)
}

func TestReleaseSparesTheSuccessor(t *testing.T) {
	var s State
	mustClaim(t, &s, 1, 10)
	require.Equal(t, None, s.ApplyServing(1))
	require.Equal(t, None, s.ApplyRelease(1))
	require.Equal(t, Released, s.CheckWrite(1, 0))
	require.Equal(t, Released, s.ApplyServing(1), "a released epoch never serves again")
	mustClaim(t, &s, 2, 20)
	require.False(t, s.MustWait)
}

func TestStaleClaimIsRejected(t *testing.T) {
	var s State
	mustClaim(t, &s, 1, 10)
	mustClaim(t, &s, 2, 20)
	before := s
	r, _ := s.ApplyClaim(claim(1, 3, 30))
	require.Equal(t, WrongEpoch, r)
	require.Equal(t, before, s)
}

func TestDirectSuccessor(t *testing.T) {
	var s State
	mustClaim(t, &s, 1, 10)
	require.True(t, mustClaim(t, &s, 1, 10))
	mustClaim(t, &s, 2, 20)
	require.False(t, mustClaim(t, &s, 1, 10))
}

func TestWriteSequence(t *testing.T) {
	var s State
	require.Equal(t, WrongEpoch, s.CheckWrite(0, 0), "a group without owner takes no write")
	mustClaim(t, &s, 1, 10)
	require.Equal(t, NotServing, s.CheckWrite(1, 0))
	require.Equal(t, None, s.ApplyServing(1))
	require.Equal(t, None, s.CheckWrite(1, 0))
	s.ApplyWrite()
	require.Equal(t, OutOfSequence, s.CheckWrite(1, 0))
	require.Equal(t, OutOfSequence, s.CheckWrite(1, 2))
	require.Equal(t, None, s.CheckWrite(1, 1))
	mustClaim(t, &s, 1, 10)
	require.Equal(t, WrongEpoch, s.CheckWrite(1, 1))
}

func TestStateSurvivesItsMessage(t *testing.T) {
	var s State
	mustClaim(t, &s, 1, 10)
	s.ApplyServing(1)
	s.ApplyWrite()
	mustClaim(t, &s, 2, 20)
	require.Equal(t, s, FromProto(s.Proto()))
	require.Equal(t, State{}, FromProto(nil))
}

func at(seqEpoch uint64, ms int) Stamp {
	return Stamp{SeqEpoch: seqEpoch, Reading: time.Duration(ms) * time.Millisecond}
}

func TestLeaseCovers(t *testing.T) {
	l := Lease{Epoch: 5, SeqEpoch: 2, Begin: 1000 * time.Millisecond}
	require.True(t, l.Covers(at(2, 1399), 5))
	require.False(t, l.Covers(at(2, 1400), 5))
	require.False(t, l.Covers(at(2, 1200), 6), "another ownership")
	require.False(t, l.Covers(at(3, 1200), 5), "another sequencer epoch")
	require.False(t, Lease{}.Covers(at(0, 0), 0), "the zero lease covers nothing")
}

func TestWaitOutByTime(t *testing.T) {
	w := NewWaitOut(true)
	require.False(t, w.Answer(at(2, 100)))
	require.False(t, w.Answer(at(2, 499)))
	require.False(t, w.Answer(at(1, 9000)), "a late answer of a lower epoch is no change")
	require.True(t, w.Answer(at(2, 500)))
	require.True(t, NewWaitOut(false).Ready())
}

func TestWaitOutByProof(t *testing.T) {
	w := NewWaitOut(true)
	w.NotYetServing(3)
	require.False(t, w.Answer(at(2, 100)), "late answer of the lost sequencer")
	require.True(t, w.Answer(at(3, 5)), "epoch 3 said 'not yet serving' after the claim")

	w = NewWaitOut(true)
	require.False(t, w.Answer(at(2, 100)))
	require.True(t, w.Answer(at(3, 5)), "a reading of a lower epoch came before")

	w = NewWaitOut(true)
	require.False(t, w.Answer(at(3, 5)), "the first reading seen proves nothing")
	require.False(t, w.Answer(at(3, 404)))
	require.True(t, w.Answer(at(3, 405)))
}

// The lease and the wait-out meet: whatever the order of readings, a read that
// a deposed owner may still answer was stamped before its successor was ready.
func TestLeaseEndsBeforeSuccessorServes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		begin := rapid.IntRange(0, 1000).Draw(t, "begin")
		old := Lease{Epoch: 1, SeqEpoch: 1, Begin: time.Duration(begin) * time.Millisecond}
		// The claim applies after the ReadIndex of the old lease began, so its
		// first reading is at or above the old lease's begin.
		now := begin + rapid.IntRange(0, 500).Draw(t, "gap")
		w := NewWaitOut(true)
		ready := false
		for range rapid.IntRange(1, 20).Draw(t, "readings") {
			ready = ready || w.Answer(at(1, now))
			if ready && old.Covers(at(1, now), 1) {
				t.Fatalf("successor ready at %d ms inside the lease of its predecessor from %d ms", now, begin)
			}
			now += rapid.IntRange(0, 200).Draw(t, "step")
		}
	})
}
