package balance

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var defaults = Settings{
	SplitBySize: true, SplitByLoad: true, BalanceOwners: true, OwnersFollow: true,
	SplitBytes: 1000, SplitWrites: 500, SpreadCPU: 0.8, SplitsPerMin: 2, HandOverPMin: 4,
}

// cluster is a dumb model of a cluster in virtual time that does what is decided.
type cluster struct {
	Observation
	nextShard uint64
	log       []string
}

func newCluster(members int, s Settings) *cluster {
	c := &cluster{nextShard: 100}
	c.Settings, c.Sequencer = s, 1
	for i := range members {
		c.Members = append(c.Members, Member{ID: uint64(i + 1), Alive: true, CPU: -1})
	}
	return c
}

func (c *cluster) add(owner uint64, bytes int64, writes float64) {
	s := Shard{ID: c.nextShard, Owner: owner, Bytes: bytes, Writes: writes, Middle: []byte("m"), Balanced: []byte("b")}
	for i := range uint64(3) {
		s.Voters = append(s.Voters, (owner+i-1)%uint64(len(c.Members))+1)
	}
	c.nextShard++
	c.Shards = append(c.Shards, s)
}

func (c *cluster) run(b *Balancer, d time.Duration) (decided []Decision) {
	for end := c.Now + d; c.Now < end; c.Now += 5 * time.Second {
		for _, x := range b.Decide(c.Observation) {
			c.carryOut(x)
			decided = append(decided, x)
			c.log = append(c.log, fmt.Sprint(c.Now, " ", x.Kind, " ", x.Shard, " ", x.Member))
		}
	}
	return decided
}

func (c *cluster) carryOut(d Decision) {
	for i := range c.Shards {
		s := &c.Shards[i]
		if s.ID != d.Shard {
			continue
		}
		switch d.Kind {
		case Split:
			s.Bytes, s.Writes = s.Bytes/2, s.Writes/2
			child := *s
			child.ID = c.nextShard
			c.nextShard++
			c.Shards = append(c.Shards, child)
		case Merge:
			s.Bytes += c.Shards[i+1].Bytes
			c.Shards = append(c.Shards[:i+1], c.Shards[i+2:]...)
		case HandOver:
			s.Owner, s.Preferred, s.Automatic = d.Member, d.Member, true
		case Forget:
			s.Owner, s.Preferred, s.Automatic = c.Sequencer, 0, false
		}
		return
	}
}

func (c *cluster) load(member uint64) float64 {
	sum := 0.0
	for _, s := range c.Shards {
		if s.Owner == member {
			sum += s.Writes
		}
	}
	return sum
}

func TestSplitBySize(t *testing.T) {
	c, b := newCluster(3, defaults), New()
	c.add(1, 16_000, 0)
	c.add(1, 999, 0)
	first := c.run(b, time.Minute)
	require.Len(t, first, 1, "what was split is left alone for a while")
	require.Equal(t, Split, first[0].Kind)
	require.Equal(t, "m", string(first[0].Key))
	c.run(b, time.Hour)
	for _, s := range c.Shards {
		require.LessOrEqual(t, s.Bytes, int64(1000))
	}
	require.Len(t, c.Shards, 17)
	require.Empty(t, c.run(b, time.Hour), "it settles")
}

func TestSplitsAreLimited(t *testing.T) {
	c, b := newCluster(3, defaults), New()
	for range 20 {
		c.add(1, 1500, 0)
	}
	require.Len(t, c.run(b, time.Minute), 2)
	require.Len(t, c.run(b, 5*time.Minute), 10)
	c.Settings.SplitBySize = false
	require.Empty(t, c.run(b, 5*time.Minute), "switched off while it runs")
}

func TestWhatIsNotSplit(t *testing.T) {
	for name, change := range map[string]func(*Shard){
		"busy":             func(s *Shard) { s.Busy = true },
		"no owner":         func(s *Shard) { s.Owner = 0 },
		"one key":          func(s *Shard) { s.Middle, s.Balanced = nil, nil },
		"neither is large": func(s *Shard) { s.Bytes, s.Writes = 1000, 500 },
	} {
		c, b := newCluster(3, defaults), New()
		c.add(1, 5000, 5000)
		change(&c.Shards[0])
		require.Empty(t, c.run(b, 10*time.Minute), name)
	}
}

func TestSplitByLoadMustLast(t *testing.T) {
	c, b := newCluster(3, defaults), New()
	c.add(1, 10, 600)
	// It comes and goes.
	for range 20 {
		c.Shards[0].Writes = 600
		require.Empty(t, c.run(b, 20*time.Second))
		c.Shards[0].Writes = 400
		require.Empty(t, c.run(b, 5*time.Second))
	}
	c.Shards[0].Writes = 600
	split := c.run(b, time.Minute)
	require.Len(t, split, 1)
	require.Equal(t, "b", string(split[0].Key))
	require.Empty(t, c.run(b, time.Hour))
}

// TestOwnersStayWithTheSequencer as long as its CPU allows, and one shard alone is
// never carried about.
func TestOwnersStayWithTheSequencer(t *testing.T) {
	c, b := newCluster(3, defaults), New()
	for range 6 {
		c.add(1, 10, 100)
	}
	for _, cpu := range []float64{-1, 0, 0.5, 0.79} {
		c.Members[0].CPU, c.Members[1].CPU, c.Members[2].CPU = cpu, 0.1, 0.1
		require.Empty(t, c.run(b, time.Hour))
	}
	c, b = newCluster(3, defaults), New()
	c.add(1, 10, 100)
	c.Members[0].CPU, c.Members[1].CPU, c.Members[2].CPU = 0.99, 0.1, 0.1
	require.Empty(t, c.run(b, time.Hour))
	// All are short of CPU: nobody would be better off.
	c.add(1, 10, 100)
	c.add(1, 10, 100)
	c.Members[1].CPU, c.Members[2].CPU = 0.9, 0.9
	require.Empty(t, c.run(b, time.Hour))
}

// TestOwnersSpreadAndComeBack: CPU follows what a member owns.
func TestOwnersSpreadAndComeBack(t *testing.T) {
	c, b := newCluster(3, defaults), New()
	for range 9 {
		c.add(1, 10, 100)
	}
	c.Shards[0].Preferred = 1 // somebody asked for it
	work := 0.001
	step := func(d time.Duration) (n int) {
		for end := c.Now + d; c.Now < end; {
			for i := range c.Members {
				c.Members[i].CPU = min(work*c.load(c.Members[i].ID)+0.05, 1)
			}
			n += len(c.run(b, 5*time.Second))
		}
		return n
	}
	require.Positive(t, step(time.Hour))
	require.Less(t, c.Members[0].CPU, 0.8)
	require.Greater(t, c.load(1), c.load(2))
	require.Equal(t, uint64(1), c.Shards[0].Owner)
	require.Zero(t, step(3*time.Hour), "it settles: %v", c.log)
	work = 0.0002
	require.Positive(t, step(3*time.Hour))
	require.Equal(t, 900.0, c.load(1), "they are back")
	require.Zero(t, step(3*time.Hour), "it settles: %v", c.log)
}

// TestSpread: without a sequencer to follow, owners spread by load, and noise moves
// nothing.
func TestSpread(t *testing.T) {
	s := defaults
	s.OwnersFollow, s.SplitByLoad = false, false
	c, b := newCluster(5, s), New()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		c.add(1, 10, 50+100*rng.Float64())
	}
	for i := range c.Shards {
		c.Shards[i].Voters = []uint64{1, uint64(i%4 + 2), uint64((i+1)%4 + 2)}
	}
	c.run(b, time.Hour)
	least, most := c.load(1), c.load(1)
	for m := range uint64(5) {
		least, most = min(least, c.load(m+1)), max(most, c.load(m+1))
	}
	require.Less(t, most, 1.35*least)
	moved := 0
	for range 100 {
		for i := range c.Shards {
			c.Shards[i].Writes *= 0.98 + 0.04*rng.Float64()
		}
		moved += len(c.run(b, time.Minute))
	}
	require.Less(t, moved, 25, "%v", c.log)
	// A member is lost: nothing is given to it.
	c.Members[4].Alive = false
	for _, d := range c.run(b, time.Hour) {
		require.NotEqual(t, uint64(5), d.Member)
	}
}

// TestSpreadIsEven: many owners come within a tenth of each other, in about as many
// transfers as that takes, and then stay.
func TestSpreadIsEven(t *testing.T) {
	const members, shards = 20, 1200
	s := defaults
	s.OwnersFollow, s.SplitByLoad, s.HandOverPMin = false, false, 600
	c, b := newCluster(members, s), New()
	rng := rand.New(rand.NewPCG(3, 4))
	for range shards {
		c.add(1, 10, 20*rng.ExpFloat64())
		v := rng.Perm(members)
		c.Shards[len(c.Shards)-1].Voters = []uint64{uint64(v[0]) + 1, uint64(v[1]) + 1, uint64(v[2]) + 1}
		c.Shards[len(c.Shards)-1].Owner = uint64(v[0])/4 + 1 // a quarter of the members owns all
		if !slices.Contains(c.Shards[len(c.Shards)-1].Voters, uint64(v[0])/4+1) {
			c.Shards[len(c.Shards)-1].Voters[0] = uint64(v[0])/4 + 1
		}
	}
	work := func() (least, mean, most float64) {
		loads := make([]float64, members+1)
		for _, s := range c.Shards {
			loads[s.Owner] += weight(s)
			mean += weight(s) / members
		}
		return slices.Min(loads[1:]), mean, slices.Max(loads)
	}
	moved := len(c.run(b, 15*time.Minute))
	least, mean, most := work()
	require.Less(t, most, 1.1*mean)
	require.Greater(t, least, 0.9*mean)
	require.Less(t, moved, shards)
	require.Empty(t, c.run(b, time.Hour), "it settles")
}

// TestSpreadWhatTheSequencerCannotOwn: where owners follow the sequencer, those that
// it has no replica of are spread over the others, and stay there.
func TestSpreadWhatTheSequencerCannotOwn(t *testing.T) {
	c, b := newCluster(5, defaults), New()
	for range 10 {
		c.add(1, 10, 100)
	}
	for range 12 {
		c.add(2, 10, 100)
		c.Shards[len(c.Shards)-1].Voters = []uint64{2, 3, 4}
	}
	for i := range c.Members {
		c.Members[i].CPU = 0.1
	}
	c.run(b, time.Hour)
	require.Equal(t, 1000.0, c.load(1), "its own stay")
	require.Equal(t, []float64{400, 400, 400}, []float64{c.load(2), c.load(3), c.load(4)})
	require.Empty(t, c.run(b, 2*time.Hour), "it settles: %v", c.log)
}

// TestRelieveAsMuchAsNeeded: one light shard of a thousand would not help.
func TestRelieveAsMuchAsNeeded(t *testing.T) {
	s := defaults
	s.HandOverPMin = 600
	c, b := newCluster(3, s), New()
	for range 1000 {
		c.add(1, 10, 10)
	}
	c.Members[0].CPU, c.Members[1].CPU, c.Members[2].CPU = 0.9, 0.1, 0.1
	relieved := c.run(b, time.Minute)
	require.InDelta(t, 112, len(relieved), 3, "a ninth of its work brings it to 80 percent")
}

func TestHandOversAreLimited(t *testing.T) {
	s := defaults
	s.OwnersFollow = false
	c, b := newCluster(3, s), New()
	for range 30 {
		c.add(1, 10, 100)
	}
	for range 5 {
		require.LessOrEqual(t, len(c.run(b, time.Minute)), 4)
	}
	c.Settings.BalanceOwners = false
	require.Empty(t, c.run(b, time.Hour))
}
