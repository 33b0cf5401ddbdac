package balance

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Shard is what is known of one shard.
type Shard struct {
	ID uint64
	// Owner is the member that serves it, zero if none is known.
	Owner uint64
	// Voters are the members whose replicas vote and stay.
	Voters []uint64
	// Busy: an operation is under way with it.
	Busy bool
	// Preferred is the member that shall own it; zero for any. Automatic: the
	// preference was decided here.
	Preferred uint64
	Automatic bool
	// Bytes is its size on disk, Writes its writes per second.
	Bytes  int64
	Writes float64
	// Middle halves its size, Balanced its writes; nil if no key does.
	Middle, Balanced []byte
}

// Member is what is known of one member.
type Member struct {
	ID uint64
	// Alive: it is connected, and reported.
	Alive bool
	// CPU is the share of its CPUs that it uses, 0 to 1; negative if unknown.
	CPU float64
}

// Observation is one look at the cluster.
type Observation struct {
	// Now only rises.
	Now       time.Duration
	Sequencer uint64
	Members   []Member
	// Shards are in the order of their keys.
	Shards   []Shard
	Settings Settings
}

// Settings are those of the cluster that matter here.
type Settings struct {
	SplitBySize, SplitByLoad, BalanceOwners, OwnersFollow bool
	SplitBytes                                            int64
	SplitWrites                                           float64
	// SpreadCPU is a share, 0 to 1.
	SpreadCPU                  float64
	SplitsPerMin, HandOverPMin int
	// MergeSmall: cold neighbours that together take no more than MergeBytes are merged.
	MergeSmall   bool
	MergeBytes   int64
	MergesPerMin int
}

// Kind is what is decided.
type Kind string

const (
	Split    Kind = "split"
	HandOver Kind = "transfer"
	// Forget takes a preference back that was decided here.
	Forget Kind = "forget"
	// Merge gives a shard the keys of its right neighbour.
	Merge Kind = "merge"
)

// Decision is one thing to do.
type Decision struct {
	Kind  Kind
	Shard uint64
	// Key is where a split cuts.
	Key []byte
	// Member is who shall own the shard.
	Member uint64
	// Right is the shard that is absorbed.
	Right uint64
	// Why is for people.
	Why string
}

const (
	// hotFor is how long a load must last until its shard is split.
	hotFor = 30 * time.Second
	// restAfter is how long a shard is left alone after something was done with it.
	restAfter = 2 * time.Minute
	// strainedFor is how long the sequencer's member must be short of CPU until
	// owners leave it, and relaxedFor how long it must have been idle until they
	// come back.
	strainedFor = 30 * time.Second
	relaxedFor  = 10 * time.Minute
	// relaxedBelow is the part of the threshold below which it counts as idle, and
	// margin how much less CPU a receiver must use.
	relaxedBelow = 0.5
	margin       = 0.25
	// idleWeight is what an idle shard weighs beside writes per second: each has its
	// timers and its reads.
	idleWeight = 10
	// unevenFrom is how far, as a share of the mean, a member's load must be from it
	// for unevenFor until owners are spread, and evenFrom how near all are brought.
	unevenFrom = 0.08
	unevenFor  = 30 * time.Second
	evenFrom   = 0.04
	// better is what the receiver of an owner may have to do at most, as a share of
	// what the giver had.
	better = 0.98
	// looksPMin is about how often a cluster is looked at in a minute: what may be
	// spread in a minute is spread over them.
	looksPMin = 12
)

// Balancer remembers what must last, and what was done lately.
type Balancer struct {
	// seen are the shards of the last look; nil before the first.
	seen   map[uint64]bool
	hot    map[uint64]time.Duration
	rest   map[uint64]time.Duration
	splits []time.Duration
	handed []time.Duration
	// cold is since when shards are, merges when some were begun.
	cold     map[uint64]time.Duration
	merges   []time.Duration
	strained *time.Duration
	relaxed  *time.Duration
	// uneven is since when loads differ, spreads tells that owners are being spread
	// because of that.
	uneven  *time.Duration
	spreads bool
}

// New returns a balancer that has seen nothing.
func New() *Balancer {
	return &Balancer{hot: map[uint64]time.Duration{}, rest: map[uint64]time.Duration{}}
}

// Decide looks at an observation. What it decides counts as done.
func (b *Balancer) Decide(o Observation) []Decision {
	b.remember(o)
	var decisions []Decision
	done := map[uint64]bool{}
	for _, decide := range []func(Observation) []Decision{b.split, b.merge, b.owners} {
		for _, d := range decide(o) {
			if !done[d.Shard] && !done[d.Right] {
				done[d.Shard], done[d.Right] = true, d.Right != 0
				b.rest[d.Shard] = o.Now
				decisions = append(decisions, d)
			}
		}
	}
	return decisions
}

// remember notes since when things are as they are, and forgets shards that are no
// more.
func (b *Balancer) remember(o Observation) {
	hot, rest := map[uint64]time.Duration{}, map[uint64]time.Duration{}
	seen := map[uint64]bool{}
	for _, s := range o.Shards {
		seen[s.ID] = true
		at, rests := b.rest[s.ID]
		if !rests && b.seen != nil && !b.seen[s.ID] {
			// It was just split off. Its size and load are not what they will be.
			at, rests = o.Now, true
		}
		if rests && o.Now-at < restAfter {
			rest[s.ID] = at
		}
		if s.Writes <= o.Settings.SplitWrites {
			continue
		}
		since, ok := b.hot[s.ID]
		if !ok {
			since = o.Now
		}
		hot[s.ID] = since
	}
	b.seen, b.hot, b.rest = seen, hot, rest
	old := func(at time.Duration) bool { return o.Now-at >= time.Minute }
	b.splits, b.handed = slices.DeleteFunc(b.splits, old), slices.DeleteFunc(b.handed, old)
	b.merges = slices.DeleteFunc(b.merges, old)
	b.noteCold(o)

	cpu := cpuOf(o, o.Sequencer)
	note(&b.strained, o.Now, cpu >= o.Settings.SpreadCPU)
	note(&b.relaxed, o.Now, cpu >= 0 && cpu < o.Settings.SpreadCPU*relaxedBelow)
}

// note keeps since when a condition holds; nil while it does not.
func note(since **time.Duration, now time.Duration, holds bool) {
	switch {
	case !holds:
		*since = nil
	case *since == nil:
		*since = &now
	}
}

func lasts(since *time.Duration, now, long time.Duration) bool {
	return since != nil && now-*since >= long
}

func cpuOf(o Observation, member uint64) float64 {
	for _, m := range o.Members {
		if m.ID == member && m.Alive {
			return m.CPU
		}
	}
	return -1
}

// idle tells whether something may be done with a shard now.
func (b *Balancer) idle(s Shard) bool {
	_, rests := b.rest[s.ID]
	return !s.Busy && s.Owner != 0 && !rests
}

// split decides which shards are split: those first that exceed their bound most.
func (b *Balancer) split(o Observation) []Decision {
	type candidate struct {
		Decision
		excess float64
	}
	var all []candidate
	for _, s := range o.Shards {
		since, hot := b.hot[s.ID]
		switch {
		case !b.idle(s):
		case o.Settings.SplitBySize && s.Bytes > o.Settings.SplitBytes && s.Middle != nil:
			all = append(all, candidate{Decision{Kind: Split, Shard: s.ID, Key: s.Middle,
				Why: fmt.Sprintf("it takes %d bytes, more than %d", s.Bytes, o.Settings.SplitBytes)}, float64(s.Bytes) / float64(o.Settings.SplitBytes)})
		case o.Settings.SplitByLoad && hot && o.Now-since >= hotFor && s.Balanced != nil:
			all = append(all, candidate{Decision{Kind: Split, Shard: s.ID, Key: s.Balanced,
				Why: fmt.Sprintf("it has %.0f writes per second, more than %.0f", s.Writes, o.Settings.SplitWrites)}, s.Writes / o.Settings.SplitWrites})
		}
	}
	slices.SortStableFunc(all, func(x, y candidate) int {
		return cmp.Or(cmp.Compare(y.excess, x.excess), cmp.Compare(x.Shard, y.Shard))
	})
	var decisions []Decision
	for _, c := range all[:min(len(all), max(o.Settings.SplitsPerMin-len(b.splits), 0))] {
		b.splits = append(b.splits, o.Now)
		decisions = append(decisions, c.Decision)
	}
	return decisions
}
