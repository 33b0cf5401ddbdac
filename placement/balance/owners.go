package balance

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// owners decides which owners are handed over.
//
// Where owners follow the sequencer, so that asking for revisions is a function
// call, its member keeps them as long as its CPU allows. When it has been short of
// CPU for a while, as many owners as that takes go to members that have much more
// left, and stay there; once it has been idle for long, they come back. Shards of
// which it has no replica are spread over the other members.
//
// Where they do not follow, owners are spread so that no member has much more to do
// than another.
func (b *Balancer) owners(o Observation) []Decision {
	left := o.Settings.HandOverPMin - len(b.handed)
	if !o.Settings.BalanceOwners || left <= 0 {
		return nil
	}
	var decisions []Decision
	if o.Settings.OwnersFollow {
		if decisions = b.relieve(o, left); len(decisions) == 0 {
			decisions = b.gather(o, left)
		}
	}
	decisions = append(decisions, b.spread(o, min(left-len(decisions), max(o.Settings.HandOverPMin/looksPMin, 1)))...)
	for range decisions {
		b.handed = append(b.handed, o.Now)
	}
	return decisions
}

func weight(s Shard) float64 { return s.Writes + idleWeight }

// near tells whether the sequencer's member can own the shard.
func near(o Observation, s Shard) bool { return slices.Contains(s.Voters, o.Sequencer) }

// relieve takes owners away from the sequencer's member: of those that fit into
// what the receivers have left the heaviest, until it should use less of its CPUs
// than it may.
func (b *Balancer) relieve(o Observation, most int) []Decision {
	if !lasts(b.strained, o.Now, strainedFor) {
		return nil
	}
	// cpu is what the members should use after what is decided.
	cpu := map[uint64]float64{}
	for _, m := range o.Members {
		if m.Alive && m.CPU >= 0 {
			cpu[m.ID] = m.CPU
		}
	}
	total := 0.0
	var own []Shard
	for _, s := range o.Shards {
		if s.Owner != o.Sequencer {
			continue
		}
		total += weight(s)
		if b.movable(s) {
			own = append(own, s)
		}
	}
	slices.SortStableFunc(own, func(x, y Shard) int { return cmp.Compare(weight(y), weight(x)) })
	perWeight := cpu[o.Sequencer] / total
	var decisions []Decision
	for _, s := range own {
		giver := cpu[o.Sequencer]
		if len(decisions) == most || giver < o.Settings.SpreadCPU {
			break
		}
		// Its share of the work must leave the receiver better off than the giver is
		// then.
		share := perWeight * weight(s)
		to := uint64(0)
		for _, m := range s.Voters {
			c, known := cpu[m]
			if known && m != o.Sequencer && c <= giver-margin && c+share < giver-share+margin && (to == 0 || c < cpu[to]) {
				to = m
			}
		}
		if to == 0 {
			continue
		}
		decisions = append(decisions, Decision{Kind: HandOver, Shard: s.ID, Member: to,
			Why: fmt.Sprintf("the sequencer's member uses %.0f percent of its CPUs, this one %.0f", 100*giver, 100*cpu[to])})
		cpu[o.Sequencer] -= share
		cpu[to] += share
	}
	if len(decisions) > 0 {
		// What it looks like now says nothing about afterwards.
		b.strained = nil
	}
	return decisions
}

// gather gives up preferences that relieved the sequencer's member, as many as
// leave it idle.
func (b *Balancer) gather(o Observation, most int) []Decision {
	if !lasts(b.relaxed, o.Now, relaxedFor) {
		return nil
	}
	total := 0.0
	for _, s := range o.Shards {
		if s.Owner == o.Sequencer {
			total += weight(s)
		}
	}
	cpu := cpuOf(o, o.Sequencer)
	var decisions []Decision
	for _, s := range o.Shards {
		if len(decisions) == most || (len(decisions) > 0 && (total == 0 || cpu >= o.Settings.SpreadCPU*relaxedBelow)) {
			break
		}
		if s.Automatic && s.Preferred != 0 && near(o, s) && b.idle(s) {
			decisions = append(decisions, Decision{Kind: Forget, Shard: s.ID, Why: "the sequencer's member has been idle for long"})
			// What its own shards take is the measure; other work makes it a safe one.
			cpu += cpuOf(o, o.Sequencer) / max(total, 1) * weight(s)
		}
	}
	if len(decisions) > 0 {
		b.relaxed = nil
	}
	return decisions
}

// movable tells whether an owner may be handed over: nobody asked for where it is.
func (b *Balancer) movable(s Shard) bool {
	return b.idle(s) && (s.Preferred == 0 || s.Automatic)
}

// spreading is one look at the members among which owners are spread.
type spreading struct {
	shards []Shard
	load   map[uint64]float64
	mean   float64
	// own are the positions of each member's shards that may be handed over.
	own map[uint64][]int
}

// survey sums up the loads. Where owners follow the sequencer, its member and the
// shards that it can own are left to its CPU.
func (b *Balancer) survey(o Observation) spreading {
	p := spreading{shards: o.Shards, load: map[uint64]float64{}, own: map[uint64][]int{}}
	for _, m := range o.Members {
		if m.Alive && !(o.Settings.OwnersFollow && m.ID == o.Sequencer) {
			p.load[m.ID] = 0
		}
	}
	for i, s := range o.Shards {
		if _, known := p.load[s.Owner]; !known {
			continue
		}
		p.load[s.Owner] += weight(s)
		p.mean += weight(s) / float64(len(p.load))
		if b.movable(s) && !(o.Settings.OwnersFollow && near(o, s)) {
			p.own[s.Owner] = append(p.own[s.Owner], i)
		}
	}
	return p
}

// deviation is how far the load of any member is from the mean, as a share of it.
func (p spreading) deviation() float64 {
	d := 0.0
	if p.mean > 0 {
		for _, l := range p.load {
			d = max(d, math.Abs(l-p.mean)/p.mean)
		}
	}
	return d
}

// donors lists the members that have more to do than the mean, those with the most
// first.
func (p spreading) donors() []uint64 {
	var ids []uint64
	for _, m := range slices.Sorted(maps.Keys(p.load)) {
		if p.load[m] > p.mean && len(p.own[m]) > 0 {
			ids = append(ids, m)
		}
	}
	slices.SortStableFunc(ids, func(x, y uint64) int { return cmp.Compare(p.load[y], p.load[x]) })
	return ids
}

// spread moves owners from the members with the most to do to ones with less, where
// both are nearer to each other afterwards. It begins when the loads have been
// uneven for a while, and goes on until they are nearly even or nothing helps.
func (b *Balancer) spread(o Observation, most int) []Decision {
	if most <= 0 {
		return nil
	}
	p := b.survey(o)
	uneven := p.deviation()
	note(&b.uneven, o.Now, uneven > unevenFrom)
	if !b.spreads && !lasts(b.uneven, o.Now, unevenFor) || uneven <= evenFrom {
		b.spreads = false
		return nil
	}
	var decisions []Decision
	for len(decisions) < most && p.deviation() > evenFrom {
		d, ok := p.best()
		if !ok {
			break
		}
		decisions = append(decisions, d)
	}
	b.spreads = len(decisions) > 0
	if !b.spreads {
		b.uneven = nil
	}
	return decisions
}

// best is the most useful transfer from the first member that has one, and counts
// it as done.
func (p spreading) best() (Decision, bool) {
	for _, from := range p.donors() {
		var best Decision
		at, gain := -1, 0.0
		for i, position := range p.own[from] {
			s := p.shards[position]
			w := weight(s)
			for _, m := range s.Voters {
				to, alive := p.load[m]
				// One of the two must be out of line, or owners would be carried about for
				// what is good enough.
				if !alive || m == from || to+w >= p.load[from]*better ||
					(p.load[from] <= p.mean*(1+evenFrom) && to >= p.mean*(1-evenFrom)) {
					continue
				}
				if g := min(w, p.load[from]-to-w); g > gain {
					at, gain = i, g
					best = Decision{Kind: HandOver, Shard: s.ID, Member: m,
						Why: fmt.Sprintf("its owner has a load of %.0f, this one of %.0f", p.load[from], to)}
				}
			}
		}
		if at < 0 {
			continue
		}
		w := weight(p.shards[p.own[from][at]])
		p.load[from] -= w
		p.load[best.Member] += w
		p.own[from] = slices.Delete(p.own[from], at, at+1)
		return best, true
	}
	return Decision{}, false
}
