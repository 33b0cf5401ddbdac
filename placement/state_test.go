package placement

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

const (
	none      = kvdpb.PlacementResult_NONE
	stale     = kvdpb.PlacementResult_STALE
	notFound  = kvdpb.PlacementResult_NOT_FOUND
	invalid   = kvdpb.PlacementResult_INVALID
	compacted = kvdpb.PlacementResult_COMPACTED
	deposed   = kvdpb.PlacementResult_DEPOSED
)

// do applies a command under the standing epoch.
func do(s *State, c any) *kvdpb.PlacementResult {
	cmd := command(c)
	cmd.Epoch = s.own.Epoch
	return s.Apply(cmd)
}

func want(t *testing.T, r kvdpb.PlacementResult_Rejection, res *kvdpb.PlacementResult) *kvdpb.PlacementResult {
	t.Helper()
	require.Equal(t, r, res.Rejection, res.Reason)
	return res
}

// servingState is the state of a cluster whose member 1 owns the group.
func servingState(t *testing.T, members int, splitKeys ...string) *State {
	t.Helper()
	s := NewState()
	want(t, none, do(s, testInit(t, members, splitKeys...)))
	want(t, none, do(s, &kvdpb.Claim{Member: 1, Replica: 1, Incarnation: 10}))
	want(t, none, do(s, &kvdpb.PlacementServing{Epoch: 1, WindowEnd: 100}))
	return s
}

func TestInitFirstWins(t *testing.T) {
	s := NewState()
	want(t, invalid, do(s, &kvdpb.PlacementInit{ClusterId: 77}))
	want(t, none, do(s, testInit(t, 3)))
	require.EqualValues(t, 2, s.windowEnd, "a fresh cluster is at revision 1 and allots 2 first")
	require.EqualValues(t, 3, s.nextShard)
	before := proto.CloneOf(s.Proto())
	want(t, none, do(s, testInit(t, 3)))
	other := testInit(t, 3)
	other.ClusterId = 78
	want(t, invalid, do(s, other))
	require.True(t, proto.Equal(before, s.Proto()))
}

func TestInitRefusesBrokenStates(t *testing.T) {
	for name, spoil := range map[string]func(*kvdpb.PlacementInit){
		"no cluster id":      func(c *kvdpb.PlacementInit) { c.ClusterId = 0 },
		"no members":         func(c *kvdpb.PlacementInit) { c.Members = nil },
		"same member twice":  func(c *kvdpb.PlacementInit) { c.Members[1].Id = 1 },
		"same replica twice": func(c *kvdpb.PlacementInit) { c.Members[1].Replica = 1 },
		"gap":                func(c *kvdpb.PlacementInit) { c.Shards[0].End = keyspace.User([]byte("c")) },
		"no end":             func(c *kvdpb.PlacementInit) { c.Shards = c.Shards[:1] },
		"same shard twice":   func(c *kvdpb.PlacementInit) { c.Shards[1].Shard = 2 },
		"placement's id":     func(c *kvdpb.PlacementInit) { c.Shards[1].Shard = 1 },
		"stranger":           func(c *kvdpb.PlacementInit) { c.Shards[1].Replicas[0].Member = 9 },
		"no replicas":        func(c *kvdpb.PlacementInit) { c.Shards[1].Replicas = nil },
		"ids used up":        func(c *kvdpb.PlacementInit) { c.Shards[1].Shard = ^uint64(0) },
	} {
		t.Run(name, func(t *testing.T) {
			c := testInit(t, 3, "m")
			spoil(c)
			s := NewState()
			want(t, invalid, do(s, c))
			require.True(t, proto.Equal(NewState().Proto(), s.Proto()))
		})
	}
}

func TestWindowAndHandOver(t *testing.T) {
	s := servingState(t, 3)
	require.EqualValues(t, 100, s.windowEnd)
	want(t, stale, do(s, &kvdpb.ExtendWindow{Epoch: 2, End: 300}))
	want(t, none, do(s, &kvdpb.ExtendWindow{Epoch: 1, Seq: 0, End: 200}))
	want(t, stale, do(s, &kvdpb.ExtendWindow{Epoch: 1, Seq: 0, End: 300}))
	want(t, none, do(s, &kvdpb.ExtendWindow{Epoch: 1, Seq: 1, End: 150}))
	want(t, invalid, do(s, &kvdpb.PlacementRelease{Epoch: 1, NextRevision: 151}))
	want(t, none, do(s, &kvdpb.PlacementRelease{Epoch: 1, NextRevision: 42,
		Answers: []*kvdpb.SequencerAnswer{{Member: 2, Number: 7, First: 41, Count: 1}}}))
	require.EqualValues(t, 42, s.windowEnd, "the successor goes on where the releaser stopped")
	want(t, stale, do(s, &kvdpb.ExtendWindow{Epoch: 1, Seq: 2, End: 300}))
	want(t, deposed, do(s, &kvdpb.CompactHistory{Revision: 3}))

	want(t, none, do(s, &kvdpb.Claim{PreviousEpoch: 1, Member: 2, Replica: 2, Incarnation: 20}))
	require.False(t, s.own.MustWait)
	want(t, stale, do(s, &kvdpb.ExtendWindow{Epoch: 2, End: 300}))
	require.EqualValues(t, 42, s.windowEnd, "an epoch that does not serve moves no window")
	require.Len(t, s.released.Answers, 1, "kept until the successor serves")
	want(t, none, do(s, &kvdpb.PlacementServing{Epoch: 2, WindowEnd: 300}))
	want(t, stale, do(s, &kvdpb.PlacementServing{Epoch: 2, WindowEnd: 400}))
	require.Nil(t, s.released)
	require.EqualValues(t, 300, s.windowEnd)
}

func TestCompaction(t *testing.T) {
	s := servingState(t, 3)
	want(t, invalid, do(s, &kvdpb.CompactHistory{Revision: 100}))
	res := want(t, none, do(s, &kvdpb.CompactHistory{Revision: 10}))
	require.EqualValues(t, 10, res.CompactRevision)
	for _, r := range []int64{10, 9, 0, -1} {
		res = want(t, compacted, do(s, &kvdpb.CompactHistory{Revision: r}))
		require.EqualValues(t, 10, res.CompactRevision)
	}
	want(t, invalid, do(s, &kvdpb.ExtendWindow{Epoch: 1, End: 10}))
	want(t, invalid, do(s, &kvdpb.PlacementRelease{Epoch: 1, NextRevision: 10}))
	cmd := command(&kvdpb.CompactHistory{Revision: 20})
	want(t, deposed, s.Apply(cmd))
	require.EqualValues(t, 10, s.compactRevision)
}

// Pitfall 11 at the level of the state: a claim that comes late loses.
func TestLateClaimLoses(t *testing.T) {
	s := servingState(t, 3)
	want(t, none, do(s, &kvdpb.Claim{PreviousEpoch: 1, Member: 2, Replica: 2, Incarnation: 20}))
	before := s.own
	want(t, stale, do(s, &kvdpb.Claim{PreviousEpoch: 1, Member: 3, Replica: 3, Incarnation: 30}))
	want(t, invalid, do(s, &kvdpb.Claim{PreviousEpoch: 2, Member: 3, Replica: 3}))
	require.Equal(t, before, s.own)
}

func TestUpdateMember(t *testing.T) {
	s := servingState(t, 3)
	v := s.version
	m := &kvdpb.Member{Id: 2, Name: "two", ClientUrls: []string{"http://c:2379"}, PeerUrls: []string{"ignored"}}
	want(t, none, do(s, &kvdpb.UpdateMember{Member: m}))
	require.Equal(t, v+1, s.version)
	require.Equal(t, []string{"http://m2:2380"}, s.members[2].PeerUrls)
	require.Equal(t, "two", s.members[2].Name)
	want(t, none, do(s, &kvdpb.UpdateMember{Member: m}))
	require.Equal(t, v+1, s.version, "nothing changed")
	want(t, notFound, do(s, &kvdpb.UpdateMember{Member: &kvdpb.Member{Id: 9}}))
	want(t, notFound, do(s, &kvdpb.UpdateMember{}))
}

func TestSplit(t *testing.T) {
	s := servingState(t, 3, "m")
	key := keyspace.User([]byte("c"))
	want(t, notFound, do(s, &kvdpb.BeginSplit{Parent: 9, Generation: 1, Key: key}))
	want(t, stale, do(s, &kvdpb.BeginSplit{Parent: 2, Generation: 2, Key: key}))
	for _, k := range [][]byte{nil, keyspace.Min(), keyspace.User([]byte("m")), keyspace.User([]byte("z")), {0x03}, {0}} {
		want(t, invalid, do(s, &kvdpb.BeginSplit{Parent: 2, Generation: 1, Key: k}))
	}
	res := want(t, none, do(s, &kvdpb.BeginSplit{Parent: 2, Generation: 1, Key: key}))
	child := res.Descriptor_
	require.EqualValues(t, 4, child.Shard)
	require.EqualValues(t, 2, child.Generation)
	require.Equal(t, kvdpb.Descriptor_SEEDING, child.Phase)
	require.Len(t, child.Initial, 3)
	v := s.version
	again := want(t, none, do(s, &kvdpb.BeginSplit{Parent: 2, Generation: 1, Key: key}))
	require.True(t, proto.Equal(child, again.Descriptor_), "asked for again, the same child")
	require.Equal(t, v, s.version)
	want(t, stale, do(s, &kvdpb.BeginSplit{Parent: 2, Generation: 1, Key: keyspace.User([]byte("d"))}))
	want(t, invalid, do(s, &kvdpb.BeginSplit{Parent: 4, Generation: 2, Key: keyspace.User([]byte("d"))}))

	m := s.View(nil, 1).Map
	require.EqualValues(t, 2, m.Lookup(key).Shard, "seeding: still the parent's")
	require.Len(t, m.Seeding(), 1)
	want(t, invalid, do(s, &kvdpb.ConfirmSeed{Child: 4, Member: 9}))
	want(t, notFound, do(s, &kvdpb.ConfirmSeed{Child: 2, Member: 1}))
	want(t, none, do(s, &kvdpb.ConfirmSeed{Child: 4, Member: 3}))
	want(t, stale, do(s, &kvdpb.AbortSplit{Child: 4}))
	want(t, none, do(s, &kvdpb.ConfirmSeed{Child: 4, Member: 3}))
	require.Equal(t, kvdpb.Descriptor_SEEDING, s.shards[4].Phase, "one member twice is no majority")

	res = want(t, none, do(s, &kvdpb.ConfirmSeed{Child: 4, Member: 1}))
	require.Equal(t, kvdpb.Descriptor_LIVE, res.Descriptor_.Phase)
	require.EqualValues(t, 2, s.shards[2].Generation)
	require.Equal(t, key, s.shards[2].End)
	require.EqualValues(t, 2, s.shards[4].Generation)
	require.NoError(t, s.check())
	res = want(t, none, do(s, &kvdpb.ConfirmSeed{Child: 4, Member: 2}))
	require.Equal(t, []uint64{1, 2, 3}, res.Descriptor_.Seeded)
	want(t, stale, do(s, &kvdpb.AbortSplit{Child: 4}))
}

func TestAbortedSplitLeavesATombstone(t *testing.T) {
	s := servingState(t, 3)
	key := keyspace.User([]byte("c"))
	child := want(t, none, do(s, &kvdpb.BeginSplit{Parent: 2, Generation: 1, Key: key})).Descriptor_
	want(t, none, do(s, &kvdpb.AbortSplit{Child: child.Shard}))
	want(t, none, do(s, &kvdpb.AbortSplit{Child: child.Shard}))
	want(t, notFound, do(s, &kvdpb.AbortSplit{Child: 99}))
	want(t, notFound, do(s, &kvdpb.ConfirmSeed{Child: child.Shard, Member: 1}))
	require.True(t, s.View(nil, 1).Dead(child.Shard))
	next := want(t, none, do(s, &kvdpb.BeginSplit{Parent: 2, Generation: 1, Key: key})).Descriptor_
	require.Greater(t, next.Shard, child.Shard, "an id is never used again")
}

func TestNonVotingSeedsAreNoMajority(t *testing.T) {
	s := NewState()
	in := testInit(t, 4)
	in.Shards[0].Replicas = append(in.Shards[0].Replicas, &kvdpb.Replica{Member: 4, Replica: 9, NonVoting: true})
	want(t, none, do(s, in))
	want(t, none, do(s, &kvdpb.Claim{Member: 1, Replica: 1, Incarnation: 10}))
	want(t, none, do(s, &kvdpb.PlacementServing{Epoch: 1, WindowEnd: 100}))
	child := want(t, none, do(s, &kvdpb.BeginSplit{Parent: 2, Generation: 1, Key: keyspace.User([]byte("c"))})).Descriptor_
	require.True(t, child.Replicas[3].NonVoting)
	require.EqualValues(t, 4, child.Replicas[3].Replica)
	want(t, none, do(s, &kvdpb.ConfirmSeed{Child: child.Shard, Member: 4}))
	want(t, none, do(s, &kvdpb.ConfirmSeed{Child: child.Shard, Member: 1}))
	require.Equal(t, kvdpb.Descriptor_SEEDING, s.shards[child.Shard].Phase)
	want(t, none, do(s, &kvdpb.ConfirmSeed{Child: child.Shard, Member: 2}))
	require.Equal(t, kvdpb.Descriptor_LIVE, s.shards[child.Shard].Phase)
}

// cells is the dumb twin of the range map: the key space as a row of cells, each
// painted with the shard that holds it.
type cells struct {
	shard   []uint64
	gen     map[uint64]uint64
	seeding map[uint64]*seedingCell // by child
	dead    map[uint64]bool
	next    uint64
	version uint64
}

type seedingCell struct {
	parent uint64
	from   int
	seeded map[uint64]bool
}

const cellCount = 12

func cellKey(i int) []byte {
	if i == cellCount {
		return keyspace.Max()
	}
	if i == 0 {
		return keyspace.Min()
	}
	return keyspace.User([]byte{byte(i)})
}

func (c *cells) end(shard uint64) int {
	for i := cellCount - 1; i >= 0; i-- {
		if c.shard[i] == shard {
			return i + 1
		}
	}
	return -1
}

func (c *cells) childOf(parent uint64) uint64 {
	for id, s := range c.seeding {
		if s.parent == parent {
			return id
		}
	}
	return 0
}

func (c *cells) begin(parent, gen uint64, at int) kvdpb.PlacementResult_Rejection {
	if c.seeding[parent] != nil {
		return invalid
	}
	if c.gen[parent] == 0 || c.end(parent) < 0 {
		return notFound
	}
	if c.gen[parent] != gen {
		return stale
	}
	if at <= 0 || at >= cellCount || c.shard[at] != parent || c.shard[at-1] != parent {
		return invalid
	}
	if child := c.childOf(parent); child != 0 {
		if c.seeding[child].from == at {
			return none
		}
		return stale
	}
	c.seeding[c.next] = &seedingCell{parent, at, map[uint64]bool{}}
	c.next++
	c.version++
	return none
}

func (c *cells) confirm(child, member uint64, confirmed map[uint64]map[uint64]bool) kvdpb.PlacementResult_Rejection {
	if done := confirmed[child]; done != nil {
		if !done[member] {
			done[member] = true
			c.version++
		}
		return none
	}
	s := c.seeding[child]
	if s == nil {
		return notFound
	}
	if s.seeded[member] {
		return none
	}
	s.seeded[member] = true
	c.version++
	if len(s.seeded) == 2 {
		end := c.end(s.parent)
		for i := s.from; i < end; i++ {
			c.shard[i] = child
		}
		c.gen[s.parent]++
		c.gen[child] = c.gen[s.parent]
		delete(c.seeding, child)
		confirmed[child] = s.seeded
	}
	return none
}

func (c *cells) abort(child uint64, confirmed map[uint64]map[uint64]bool) kvdpb.PlacementResult_Rejection {
	s := c.seeding[child]
	switch {
	case c.dead[child]:
		return none
	case c.gen[child] != 0 && s == nil:
		return stale
	case s == nil:
		return notFound
	case len(s.seeded) > 0:
		return stale
	}
	delete(c.seeding, child)
	c.dead[child] = true
	c.version++
	return none
}

// TestSplitsAgainstCells drives random splits through the state machine, with its
// records, and through the twin.
func TestSplitsAgainstCells(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		disk := newMemStorage()
		var seen *View
		machine := func() *Machine {
			m := NewMachine(disk.open, func(v *View) { seen = v })
			_, err := m.Open(nil)
			require.NoError(rt, err)
			return m
		}
		m := machine()
		index := uint64(0)
		apply := func(c any) *kvdpb.PlacementResult {
			cmd := command(c)
			cmd.Epoch = m.state.own.Epoch
			b, err := proto.Marshal(cmd)
			require.NoError(rt, err)
			index++
			e := []Entry{{Index: index, Cmd: b}}
			require.NoError(rt, m.Apply(e))
			res := &kvdpb.PlacementResult{}
			require.NoError(rt, proto.Unmarshal(e[0].Data, res))
			require.EqualValues(rt, res.Rejection, e[0].Result)
			return res
		}
		apply(testInit(t, 3))
		apply(&kvdpb.Claim{Member: 1, Replica: 1, Incarnation: 1})
		apply(&kvdpb.PlacementServing{Epoch: 1, WindowEnd: 10})

		twin := &cells{gen: map[uint64]uint64{2: 1}, seeding: map[uint64]*seedingCell{}, dead: map[uint64]bool{}, next: 3, version: 1}
		for range cellCount {
			twin.shard = append(twin.shard, 2)
		}
		confirmed := map[uint64]map[uint64]bool{}
		id := rapid.Uint64Range(2, 8)
		rt.Repeat(map[string]func(*rapid.T){
			"begin": func(rt *rapid.T) {
				parent, at := id.Draw(rt, "parent"), rapid.IntRange(0, cellCount).Draw(rt, "at")
				gen := twin.gen[parent] + uint64(rapid.IntRange(0, 4).Draw(rt, "ahead")/4)
				res := apply(&kvdpb.BeginSplit{Parent: parent, Generation: gen, Key: cellKey(at)})
				require.Equal(rt, twin.begin(parent, gen, at), res.Rejection, res.Reason)
			},
			"confirm": func(rt *rapid.T) {
				child, member := id.Draw(rt, "child"), rapid.Uint64Range(1, 3).Draw(rt, "member")
				res := apply(&kvdpb.ConfirmSeed{Child: child, Member: member})
				require.Equal(rt, twin.confirm(child, member, confirmed), res.Rejection, res.Reason)
			},
			"abort": func(rt *rapid.T) {
				child := id.Draw(rt, "child")
				res := apply(&kvdpb.AbortSplit{Child: child})
				require.Equal(rt, twin.abort(child, confirmed), res.Rejection, res.Reason)
			},
			"garbage": func(rt *rapid.T) {
				index++
				e := []Entry{{Index: index, Cmd: rapid.SliceOfN(rapid.Byte(), 1, 4).Draw(rt, "bytes")}}
				require.NoError(rt, m.Apply(e))
				require.NotZero(rt, e[0].Result)
			},
			"reopen": func(rt *rapid.T) {
				before := proto.CloneOf(m.state.Proto())
				m = machine()
				require.True(rt, proto.Equal(before, m.state.Proto()))
			},
			"snapshot": func(rt *rapid.T) {
				captured, err := m.PrepareSnapshot()
				require.NoError(rt, err)
				var stream bytes.Buffer
				require.NoError(rt, m.SaveSnapshot(captured, &stream, nil))
				other := newMemStorage()
				require.NoError(rt, other.Write(1, []Record{{recordName(deadKind, 1234), []byte{1}}}))
				copied := NewMachine(other.open, func(*View) {})
				_, err = copied.Open(nil)
				require.Error(rt, err, "a tombstone without a first entry")
				require.NoError(rt, other.Write(1, []Record{{recordName(deadKind, 1234), nil}}))
				_, err = copied.Open(nil)
				require.NoError(rt, err)
				require.NoError(rt, copied.RecoverFromSnapshot(&stream, nil))
				require.True(rt, proto.Equal(m.state.Proto(), copied.state.Proto()))
				require.Equal(rt, index, other.AppliedIndex())
				other.crash()
				reopened, err := loadState(other)
				require.NoError(rt, err)
				require.True(rt, proto.Equal(m.state.Proto(), reopened.Proto()))
			},
			"": func(rt *rapid.T) {
				require.NoError(rt, m.state.check())
				require.Equal(rt, twin.version, seen.Map.Version())
				require.Equal(rt, twin.next, m.state.nextShard)
				require.Len(rt, seen.Map.Seeding(), len(twin.seeding))
				for i, shard := range twin.shard {
					d := seen.Map.Lookup(cellKey(i))
					require.NotNil(rt, d)
					require.Equal(rt, shard, d.Shard, "cell %d", i)
					require.Equal(rt, twin.gen[shard], d.Generation)
					require.Same(rt, d, seen.Map.ByID(shard))
				}
				from, to := 3, 8
				var over []uint64
				for _, d := range seen.Map.Overlapping(keyspace.Span{Start: cellKey(from), End: cellKey(to)}) {
					over = append(over, d.Shard)
				}
				require.Equal(rt, slices.Compact(slices.Clone(twin.shard[from:to])), over)
				for dead := range twin.dead {
					require.True(rt, seen.Dead(dead))
					require.Nil(rt, seen.Map.ByID(dead))
				}
			},
		})
	})
}

func TestMapEdges(t *testing.T) {
	empty := NewState().View(nil, 0).Map
	require.Nil(t, empty.Lookup(keyspace.Min()))
	require.Empty(t, empty.Overlapping(keyspace.All()))
	require.Nil(t, empty.ByID(2))

	m := servingState(t, 3, "b", "d").View(nil, 0).Map
	require.Equal(t, 3, m.Len())
	require.Nil(t, m.Lookup(keyspace.Max()))
	require.Nil(t, m.Lookup(nil))
	require.Nil(t, m.Lookup([]byte{0}))
	require.EqualValues(t, 4, m.Lookup(keyspace.Internal([]byte("lease"))).Shard)
	shards := func(s keyspace.Span) (ids []uint64) {
		for _, d := range m.Overlapping(s) {
			ids = append(ids, d.Shard)
		}
		return ids
	}
	require.Equal(t, []uint64{2, 3, 4}, shards(keyspace.All()))
	require.Equal(t, []uint64{3}, shards(keyspace.UserSpan([]byte("b"), []byte("d"))))
	require.Equal(t, []uint64{2, 3}, shards(keyspace.UserSpan([]byte("a"), []byte("b\x00"))))
	require.Equal(t, []uint64{3}, shards(keyspace.Key(keyspace.User([]byte("c")))))
	require.Empty(t, shards(keyspace.UserSpan([]byte("d"), []byte("c"))))
	require.Empty(t, shards(keyspace.Span{Start: keyspace.Max(), End: []byte{4}}))
	require.Equal(t, []uint64{2}, shards(keyspace.Span{Start: []byte{0}, End: keyspace.User([]byte("a"))}))
}

func TestViewsShareWhatDidNotChange(t *testing.T) {
	s := servingState(t, 3)
	v1 := s.View(nil, 1)
	want(t, none, do(s, &kvdpb.ExtendWindow{Epoch: 1, End: 500}))
	v2 := s.View(v1, 2)
	require.Same(t, v1.Map, v2.Map)
	require.True(t, v2.sameNews(v1), "a window is no news")
	want(t, none, do(s, &kvdpb.CompactHistory{Revision: 7}))
	require.False(t, s.View(v2, 3).sameNews(v2))
	want(t, none, do(s, &kvdpb.UpdateMember{Member: &kvdpb.Member{Id: 1, Name: "new"}}))
	v3 := s.View(v2, 4)
	require.NotSame(t, v1.Map, v3.Map)
	require.Equal(t, "m1", v1.Member(1).Name, "old views stay as they were")
	require.Equal(t, "new", v3.Member(1).Name)
	require.Nil(t, v3.Member(9))
}

func TestSnapshotRefusesGarbage(t *testing.T) {
	m := NewMachine(newMemStorage().open, func(*View) {})
	_, err := m.Open(nil)
	require.NoError(t, err)
	b, err := proto.Marshal(command(testInit(t, 3)))
	require.NoError(t, err)
	require.NoError(t, m.Apply([]Entry{{Index: 5, Cmd: b}}))
	captured, err := m.PrepareSnapshot()
	require.NoError(t, err)
	good := captured.([]byte)
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 0x40
		_, _, err := readSnapshot(bytes.NewReader(bad))
		require.Error(t, err, "byte %d", i)
		_, _, err = readSnapshot(bytes.NewReader(good[:i]))
		require.Error(t, err, "cut at %d", i)
	}
	require.NoError(t, m.Apply([]Entry{{Index: 9, Cmd: nil}}))
	require.ErrorContains(t, m.RecoverFromSnapshot(bytes.NewReader(good), nil), "behind")
	require.Error(t, m.SaveSnapshot("x", &bytes.Buffer{}, nil))
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
	require.Error(t, m.Apply([]Entry{{Index: 10}}))
}

func FuzzReadSnapshot(f *testing.F) {
	m := NewMachine(newMemStorage().open, func(*View) {})
	_, err := m.Open(nil)
	require.NoError(f, err)
	for _, in := range []*kvdpb.PlacementInit{nil, testInit(f, 3)} {
		if in != nil {
			b, err := proto.Marshal(command(in))
			require.NoError(f, err)
			require.NoError(f, m.Apply([]Entry{{Index: 5, Cmd: b}}))
		}
		captured, err := m.PrepareSnapshot()
		require.NoError(f, err)
		f.Add(captured.([]byte))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, s, err := readSnapshot(bytes.NewReader(b)); err == nil {
			require.NoError(t, s.check())
		}
	})
}

func FuzzApply(f *testing.F) {
	for _, c := range []any{testInit(f, 3), &kvdpb.Claim{Member: 1, Replica: 1, Incarnation: 1}, &kvdpb.BeginSplit{Parent: 2, Generation: 1, Key: []byte{1, 5}}} {
		b, err := proto.Marshal(command(c))
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := NewMachine(newMemStorage().open, func(*View) {})
		_, err := m.Open(nil)
		require.NoError(t, err)
		first, err := proto.Marshal(command(testInit(t, 3)))
		require.NoError(t, err)
		for i, cmd := range [][]byte{b, first, b, b} {
			require.NoError(t, m.Apply([]Entry{{Index: uint64(i) + 1, Cmd: cmd}}), fmt.Sprint(i))
		}
		require.NoError(t, m.state.check())
	})
}
