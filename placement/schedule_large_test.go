package placement

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// evenState has shards that are spread evenly over members, three replicas each.
func evenState(tb testing.TB, members, shards int) *State {
	in := &kvdpb.PlacementInit{ClusterId: 9}
	for i := range uint64(members) {
		in.Members = append(in.Members, &kvdpb.Member{Id: i + 1, Replica: i + 1, Name: fmt.Sprint("m", i+1), PeerUrls: []string{fmt.Sprint("http://p", i)}})
	}
	key := func(i int) []byte { return keyspace.User(binary.BigEndian.AppendUint32(nil, uint32(i))) }
	for i := range shards {
		d := &kvdpb.Descriptor{Shard: FirstShard + uint64(i), Start: key(i), End: key(i + 1), Generation: 1}
		if i == 0 {
			d.Start = keyspace.Min()
		}
		if i+1 == shards {
			d.End = keyspace.Max()
		}
		for j := range uint64(min(3, members)) {
			d.Replicas = append(d.Replicas, &kvdpb.Replica{Member: (uint64(i)*3+j)%uint64(members) + 1, Replica: j + 1})
		}
		d.Initial = d.Replicas
		in.Shards = append(in.Shards, d)
	}
	s := NewState()
	require.Equal(tb, kvdpb.PlacementResult_NONE, s.Apply(command(in)).Rejection)
	return s
}

func everybody(uint64) bool { return true }

// joinEven adds members that may get replicas.
func joinEven(tb testing.TB, s *State, ids ...uint64) {
	for _, id := range ids {
		m := &kvdpb.Member{Id: id, Name: fmt.Sprint("m", id), PeerUrls: []string{fmt.Sprint("http://p", id)}}
		require.Equal(tb, kvdpb.PlacementResult_NONE, s.addMember(&kvdpb.AddMember{Member: m}).Rejection)
		require.Equal(tb, kvdpb.PlacementResult_NONE, s.updateMember(&kvdpb.UpdateMember{Member: m}).Rejection)
	}
}

// begin applies what was decided.
func begin(tb testing.TB, s *State, commands []*kvdpb.PlacementCommand) {
	for _, cmd := range commands {
		res, ok := s.applyElastic(cmd)
		require.True(tb, ok)
		require.Equal(tb, kvdpb.PlacementResult_NONE, res.Rejection, res.Reason)
	}
}

// TestScheduleRebuildsWhatIsGone: a member that is away keeps its replicas for a
// while, and where nobody else could hold them.
func TestScheduleRebuildsWhatIsGone(t *testing.T) {
	s := evenState(t, 3, 1)
	three := func(m uint64) bool { return m == 3 }
	notThree := func(m uint64) bool { return m != 3 }
	decide := func(alive, gone func(uint64) bool) []*kvdpb.PlacementCommand {
		return Schedule(s.View(nil, 1), alive, gone)
	}
	require.Empty(t, decide(notThree, three), "nobody else could hold it")
	joinEven(t, s, 4)
	require.Empty(t, decide(notThree, nobody), "it may come back")
	require.Empty(t, decide(func(m uint64) bool { return m == 1 || m == 4 }, three), "without a majority nothing can be done")
	s.elastic.settings = &kvdpb.ClusterSettings{Repair: proto.Bool(false)}
	s.changed()
	require.Empty(t, decide(notThree, three), "switched off")
	s.elastic.settings = nil
	s.changed()

	first := decide(notThree, three)
	require.Len(t, first, 1)
	require.Equal(t, uint64(3), first[0].GetRemoveReplica().GetReplica())
	begin(t, s, first)
	require.Empty(t, decide(notThree, three), "one change at a time")
	carryOut(s, s.shards[FirstShard])
	second := decide(notThree, three)
	require.Len(t, second, 1)
	require.Equal(t, uint64(4), second[0].GetAddReplica().GetMember())
	begin(t, s, second)
	carryOut(s, s.shards[FirstShard])
	require.Empty(t, decide(notThree, three))
	require.Empty(t, decide(everybody, nobody), "it comes back, and is as light as it can be")
}

// TestScheduleLimits: a member is given a few replicas at a time, and large clusters
// do more at a time than small ones.
func TestScheduleLimits(t *testing.T) {
	s := evenState(t, 32, 960)
	require.Empty(t, Schedule(s.View(nil, 1), everybody, nobody))
	joinEven(t, s, 33)
	begun := Schedule(s.View(nil, 1), everybody, nobody)
	require.Len(t, begun, maxIncoming)
	begin(t, s, begun)
	require.Empty(t, Schedule(s.View(nil, 1), everybody, nobody))
	// What is under way counts as done: more members are served meanwhile, and nothing
	// moves back.
	var more []uint64
	for id := uint64(34); id <= 40; id++ {
		more = append(more, id)
	}
	joinEven(t, s, more...)
	begun = Schedule(s.View(nil, 1), everybody, nobody)
	require.Len(t, begun, 5*defaultMaxChanges-maxIncoming, "40 members are five times eight")
	for _, c := range begun {
		require.Greater(t, c.GetAddReplica().GetMember(), uint64(33))
	}
}

// TestScheduleCountsWhatIsUnderWay: a replica that moves is where it goes to, so that
// balancing goes on beside it and undoes nothing.
func TestScheduleCountsWhatIsUnderWay(t *testing.T) {
	s := evenState(t, 3, 8)
	joinEven(t, s, 4)
	moves := 0
	for range 100 {
		begun := Schedule(s.View(nil, 1), everybody, nobody)
		begin(t, s, begun)
		moves += len(begun)
		// One of those that are under way ends.
		for id := uint64(FirstShard); id < FirstShard+8; id++ {
			if changing(s.shards[id]) != nil {
				carryOut(s, s.shards[id])
				break
			}
		}
	}
	require.Equal(t, 6, replicasOn(s.shards, 4))
	require.Equal(t, 6, moves, "no more than needed")
}

// BenchmarkSchedule is a look at 100,000 shards on 200 members: with nothing to do,
// with everything to move, and after a loss.
func BenchmarkSchedule(b *testing.B) {
	s := evenState(b, 200, 100_000)
	look := func(name string, alive, gone func(uint64) bool, some bool) {
		v := s.View(nil, 1)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if begun := Schedule(v, alive, gone); (len(begun) > 0) != some {
					b.Fatalf("%d decisions", len(begun))
				}
			}
		})
	}
	look("settled", everybody, nobody, false)
	seven := func(m uint64) bool { return m == 7 }
	look("away", func(m uint64) bool { return m != 7 }, nobody, false)
	look("lost", func(m uint64) bool { return m != 7 }, seven, true)
	joinEven(b, s, 201)
	look("joined", everybody, nobody, true)
}

// BenchmarkView is what each member does for each change of a descriptor.
func BenchmarkView(b *testing.B) {
	s := evenState(b, 200, 100_000)
	v := s.View(nil, 1)
	member := uint64(0)
	for b.Loop() {
		member = member%3 + 1
		s.preferOwner(&kvdpb.PreferOwner{Shard: FirstShard, Member: member, Automatic: true})
		next := s.View(v, v.Index+1)
		if next.Map == v.Map {
			b.Fatal("nothing changed")
		}
		v = next
	}
}
