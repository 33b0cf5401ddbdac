package balance

import (
	"fmt"
	"slices"
)

// owners decides which owners are handed over.
//
// Where owners follow the sequencer, so that asking for revisions is a function
// call, its member keeps them as long as its CPU allows. When it has been short of
// CPU for a while, owners go to members that have much more left, one at a time,
// and stay there; once it has been idle for long, they come back.
//
// Where they do not follow, owners are spread so that no member has much more to do
// than another.
func (b *Balancer) owners(o Observation) []Decision {
	if !o.Settings.BalanceOwners || len(b.handed) >= o.Settings.HandOverPMin {
		return nil
	}
	var d Decision
	var ok bool
	if o.Settings.OwnersFollow {
		if d, ok = b.relieve(o); !ok {
			d, ok = b.gather(o)
		}
	} else {
		d, ok = b.spread(o)
	}
	if !ok {
		return nil
	}
	b.handed = append(b.handed, o.Now)
	return []Decision{d}
}

func weight(s Shard) float64 { return s.Writes + idleWeight }

// relieve takes an owner away from the sequencer's member: of those that fit into
// what the receiver has left the heaviest.
func (b *Balancer) relieve(o Observation) (Decision, bool) {
	if !lasts(b.strained, o.Now, strainedFor) {
		return Decision{}, false
	}
	total := 0.0
	for _, s := range o.Shards {
		if s.Owner == o.Sequencer {
			total += weight(s)
		}
	}
	cpu := cpuOf(o, o.Sequencer)
	var best Shard
	var to Member
	for _, s := range o.Shards {
		if s.Owner != o.Sequencer || !b.movable(s) {
			continue
		}
		for _, m := range o.Members {
			// Its share of the work must leave the receiver better off than the giver is
			// then.
			share := cpu * weight(s) / total
			if !m.Alive || m.CPU < 0 || m.ID == o.Sequencer || !slices.Contains(s.Voters, m.ID) || m.CPU > cpu-margin || m.CPU+share >= cpu-share+margin {
				continue
			}
			if best.ID == 0 || weight(s) > weight(best) || (s.ID == best.ID && m.CPU < to.CPU) {
				best, to = s, m
			}
		}
	}
	if best.ID == 0 {
		return Decision{}, false
	}
	// What it looks like now says nothing about afterwards.
	b.strained = nil
	return Decision{Kind: HandOver, Shard: best.ID, Member: to.ID,
		Why: fmt.Sprintf("the sequencer's member uses %.0f percent of its CPUs, this one %.0f", 100*cpu, 100*to.CPU)}, true
}

// gather gives up a preference that relieved the sequencer's member.
func (b *Balancer) gather(o Observation) (Decision, bool) {
	if !lasts(b.relaxed, o.Now, relaxedFor) {
		return Decision{}, false
	}
	for _, s := range o.Shards {
		if s.Automatic && s.Preferred != 0 && b.idle(s) {
			b.relaxed = nil
			return Decision{Kind: Forget, Shard: s.ID, Why: "the sequencer's member has been idle for long"}, true
		}
	}
	return Decision{}, false
}

// movable tells whether an owner may be handed over: nobody asked for where it is.
func (b *Balancer) movable(s Shard) bool {
	return b.idle(s) && (s.Preferred == 0 || s.Automatic)
}

// spread moves one owner from the member with the most to do to one with less, if
// both are nearer to each other afterwards.
func (b *Balancer) spread(o Observation) (Decision, bool) {
	load := map[uint64]float64{}
	for _, m := range o.Members {
		if m.Alive {
			load[m.ID] = 0
		}
	}
	for _, s := range o.Shards {
		if _, known := load[s.Owner]; known {
			load[s.Owner] += weight(s)
		}
	}
	var best Decision
	gain := 0.0
	for _, s := range o.Shards {
		from, known := load[s.Owner]
		if !known || !b.movable(s) {
			continue
		}
		for _, m := range s.Voters {
			to, alive := load[m]
			w := weight(s)
			if !alive || m == s.Owner || from <= (to+w)*(1+tolerance) {
				continue
			}
			if g := min(w, from-to-w); g > gain {
				gain = g
				best = Decision{Kind: HandOver, Shard: s.ID, Member: m,
					Why: fmt.Sprintf("its owner has a load of %.0f, this one of %.0f", from, to)}
			}
		}
	}
	return best, gain > 0
}
