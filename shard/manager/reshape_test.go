package manager

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Each phase of a move is resumed from what the descriptor and raft say, whoever
// owns the shard.
func TestDecideChange(t *testing.T) {
	shape := func(edit func(rs []*kvdpb.Replica)) *kvdpb.Descriptor {
		d := &kvdpb.Descriptor{Shard: 2, Replicas: replicas(10, 20, 30, 40)}
		edit(d.Replicas)
		return d
	}
	group := func(voters []uint64, nonVoting ...uint64) multiraft.Membership {
		g := multiraft.Membership{Voters: map[uint64]uint64{}, NonVoting: map[uint64]uint64{}}
		for _, r := range voters {
			g.Voters[r] = 10 * r
		}
		for _, r := range nonVoting {
			g.NonVoting[r] = 10 * r
		}
		return g
	}
	joining := shape(func(rs []*kvdpb.Replica) { rs[3].Joining, rs[3].NonVoting = true, true })
	leaving := func(i int) *kvdpb.Descriptor { return shape(func(rs []*kvdpb.Replica) { rs[i].Leaving = true }) }
	rebuilt := func(i int) *kvdpb.Descriptor { return shape(func(rs []*kvdpb.Replica) { rs[i].Rebuild = true }) }
	rebuiltLeaving := func(i int) *kvdpb.Descriptor {
		return shape(func(rs []*kvdpb.Replica) { rs[i].Rebuild, rs[i].Leaving = true, true })
	}
	rebuiltJoining := shape(func(rs []*kvdpb.Replica) { rs[3].Rebuild, rs[3].Joining, rs[3].NonVoting = true, true, true })
	three, four := []uint64{1, 2, 3}, []uint64{1, 2, 3, 4}
	for _, c := range []struct {
		name    string
		d       *kvdpb.Descriptor
		g       multiraft.Membership
		p       progress
		dead    uint64
		home    uint64
		corrupt uint64
		want    change
		replica uint64
	}{
		{name: "nothing to do", d: shape(func([]*kvdpb.Replica) {}), g: group(four)},
		{name: "begun", d: joining, g: group(three), want: changeAdd, replica: 4},
		{name: "added", d: joining, g: group(three, 4), want: changeAsk, replica: 4},
		{name: "behind", d: joining, g: group(three, 4), p: behind},
		{name: "caught up", d: joining, g: group(three, 4), p: caughtUp, want: changePromote, replica: 4},
		{name: "fed without its seed", d: joining, g: group(three, 4), p: unfed, want: changeGiveUp, replica: 4},
		{name: "votes", d: joining, g: group(four), want: changeTellPromoted, replica: 4},
		{name: "leaves", d: leaving(1), g: group(four), want: changeRemove, replica: 2},
		{name: "the owner leaves", d: leaving(0), g: group(four), want: changeHandOver, replica: 4},
		{name: "to one that is alive", d: leaving(0), g: group(four), dead: 40, want: changeHandOver, replica: 3},
		{name: "to the one that should own it", d: leaving(0), g: group(four), home: 20, want: changeHandOver, replica: 2},
		{name: "to nobody who does not vote", d: leaving(0), g: group([]uint64{1, 3}, 2, 4), home: 20, want: changeHandOver, replica: 3},
		{name: "no majority would be left", d: leaving(1), g: group(three), dead: 30},
		{name: "the dead one leaves", d: leaving(2), g: group(three), dead: 30, want: changeRemove, replica: 3},
		{name: "gone", d: leaving(1), g: group([]uint64{1, 3, 4}), want: changeTellDropped, replica: 2},
		{name: "the owner leaves, to one that is sound", d: leaving(0), g: group(four), corrupt: 40, want: changeHandOver, replica: 3},
		{name: "the last one of two leaves, to whoever there is", d: leaving(0), g: group([]uint64{1, 2}), corrupt: 20, want: changeHandOver, replica: 2},
		{name: "a rebuild", d: rebuilt(1), g: group(four), want: changeLetGo, replica: 2},
		{name: "a rebuild of the corrupt one", d: rebuilt(1), g: group(four), corrupt: 20, want: changeLetGo, replica: 2},
		{name: "a rebuild for which too few would be left", d: rebuilt(1), g: group(three), dead: 30},
		{name: "a rebuild from replicas that differ as well", d: rebuilt(1), g: group(three), corrupt: 30},
		{name: "a rebuild of the owner's", d: rebuilt(0), g: group(four), corrupt: 10, want: changeHandOver, replica: 4},
		{name: "a rebuild of the owner's, and nobody to own it", d: rebuilt(0), g: group([]uint64{1, 2}), corrupt: 20},
		{name: "a rebuild that has begun to leave", d: rebuiltLeaving(1), g: group(four), want: changeRemove, replica: 2},
		{name: "a rebuild that leads again", d: rebuiltLeaving(0), g: group(four), want: changeHandOver, replica: 4},
		{name: "a rebuild that is out", d: rebuiltLeaving(1), g: group([]uint64{1, 3, 4}), want: changeTellDropped, replica: 2},
		{name: "a rebuild that joins", d: rebuiltJoining, g: group(three), want: changeAdd, replica: 4},
		{name: "a rebuild that follows", d: rebuiltJoining, g: group(three, 4), want: changeAsk, replica: 4},
		{name: "a rebuild that votes", d: rebuiltJoining, g: group(four), want: changeTellPromoted, replica: 4},
		{name: "given up before it came", d: leaving(3), g: group(three), want: changeTellDropped, replica: 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			alive := func(m uint64) bool { return m != c.dead }
			sound := func(m uint64) bool { return m != c.dead && m != c.corrupt }
			step, ok := decideChange(c.d, c.g, 1, c.home, c.p, alive, sound)
			require.Equal(t, c.want != "", ok)
			if ok {
				require.Equal(t, c.want, step.change)
				require.Equal(t, c.replica, step.replica.Replica)
			}
		})
	}
}

func TestDecideJoiners(t *testing.T) {
	d := descriptor(2, 1, live, 10, 20, 30)
	d.Replicas = append([]*kvdpb.Replica{{Member: 10, Replica: 1}, {Member: 30, Replica: 3}}, &kvdpb.Replica{Member: 20, Replica: 4, NonVoting: true, Joining: true})
	join := action{kind: start, shard: 2, replica: 4, first: true, join: true}
	look := func(o observed, here ...place) []action {
		return decide(view{member: 20, shards: []*kvdpb.Descriptor{d}, local: map[uint64]observed{2: o}, here: here})
	}
	require.Equal(t, []action{join}, look(observed{}), "it gets its data from the others, not from a seed")
	require.Equal(t, []action{join}, look(observed{hasSeed: true}), "a crash before its first start")
	require.Equal(t, []action{{kind: start, shard: 2, replica: 4}}, look(observed{hasSeed: true, hasLog: true, started: true}))
	require.Equal(t, []action{{kind: lost, shard: 2, replica: 4}}, look(observed{hasSeed: true, started: true}))
	require.Equal(t, []action{{kind: retire, shard: 2, replica: 2}}, look(observed{other: true}, place{2, 2}), "the former one goes first")
	d.Replicas[2].Joining, d.Replicas[2].Leaving = false, true
	require.Empty(t, look(observed{}), "it was given up before it came")
}

// TestFormerReplicaDoesNotVouch: the member that gets a replica again has not removed its former one yet, which is
// far ahead of the new one.
func TestFormerReplicaDoesNotVouch(t *testing.T) {
	answer := &kvdpb.ReplicaStatus{Shard: 2, Replica: 2, AppliedIndex: 100}
	m := &Manager{cfg: Config{Ask: func(context.Context, uint64, uint64) (*kvdpb.ReplicaStatus, error) { return answer, nil }}}
	to := &kvdpb.Replica{Member: 20, Replica: 4}
	require.Equal(t, behind, m.reaches(t.Context(), 2, to, 50))
	answer.Replica = 4
	require.Equal(t, caughtUp, m.reaches(t.Context(), 2, to, 50))
}

// TestLetGoWaitsForTheOthers: the replica that is rebuilt stays until the others can do without it.
func TestLetGoWaitsForTheOthers(t *testing.T) {
	for _, c := range []struct {
		name    string
		applied uint64 // by replica 3; the owner is at 50
		corrupt uint64
		spare   bool
	}{
		{name: "a majority is there", applied: 50, spare: true},
		{name: "only the owner is", applied: 49},
		{name: "another one differs as well", applied: 70, corrupt: 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &Manager{cfg: Config{Ask: func(context.Context, uint64, uint64) (*kvdpb.ReplicaStatus, error) {
					return &kvdpb.ReplicaStatus{Replica: 3, AppliedIndex: c.applied}, nil
				}}}
				g := multiraft.Membership{Voters: map[uint64]uint64{1: 10, 2: 20, 3: 30, 4: 40}}
				err := m.canSpare(t.Context(), place{2, 2}, 50, g, &kvdpb.Replica{Replica: 4, Member: 40}, func(member uint64) bool {
					return member != 10 && member != c.corrupt
				})
				require.Equal(t, c.spare, err == nil, "%v", err)
			})
		})
	}
}
