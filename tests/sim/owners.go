package sim

import (
	"slices"
	"time"

	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/placement/balance"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// split is a split that is under way.
type split struct {
	parent, child *played
	ready         time.Duration
}

// voters lists the members whose replicas vote and stay.
func voters(d *kvdpb.Descriptor, into []uint64) []uint64 {
	for _, r := range d.Replicas {
		if !r.NonVoting && !r.Leaving {
			into = append(into, r.Member)
		}
	}
	return into
}

// settleOwners has each shard be owned by who should own it.
func (w *World) settleOwners() {
	for _, s := range w.shards {
		w.settleOwner(s)
	}
}

// settleOwner has a shard be owned by who should own it, of those that can: whom it
// prefers, the sequencer's member where owners follow it, who owns it. One that has
// lost its owner gets a new one after an election.
func (w *World) settleOwner(s *played) {
	d := w.descriptor(s)
	if d == nil || d.Phase != kvdpb.Descriptor_LIVE {
		return
	}
	var room [8]uint64
	all := voters(d, room[:0])
	able := slices.DeleteFunc(slices.Clone(all), func(m uint64) bool { return !w.alive(m) })
	if len(able) <= len(all)/2 {
		s.owner, s.electedAt = 0, 0
		return
	}
	if s.electedAt != 0 {
		return
	}
	if !w.alive(s.owner) {
		if s.owner != 0 {
			w.counts.Elections++
		}
		s.owner, s.electedAt = 0, w.now+electionTime
		w.electing = append(w.electing, s)
		return
	}
	s.owner = w.choose(d, able, s.owner)
}

// choose picks an owner from those that are able.
func (w *World) choose(d *kvdpb.Descriptor, able []uint64, now uint64) uint64 {
	switch {
	case slices.Contains(able, d.PreferredOwner):
		return d.PreferredOwner
	case placement.OwnersFollow(w.view.Settings) && slices.Contains(able, w.sequencer):
		return w.sequencer
	case slices.Contains(able, now):
		return now
	}
	return able[w.rng.IntN(len(able))]
}

// goOnOwners ends elections.
func (w *World) goOnOwners() {
	w.electing = slices.DeleteFunc(w.electing, func(s *played) bool {
		if s.electedAt == 0 {
			return true
		}
		if s.electedAt > w.now {
			return false
		}
		s.electedAt = 0
		d := w.descriptor(s)
		all := voters(d, nil)
		if able := slices.DeleteFunc(slices.Clone(all), func(m uint64) bool { return !w.alive(m) }); len(able) > len(all)/2 {
			s.owner = w.choose(d, able, 0)
		}
		return true
	})
}

// measure computes what each shard has to do, if that has changed.
func (w *World) measure() {
	w.load = w.cfg.Load(w.now)
	for _, s := range w.shards {
		w.measureShard(s)
	}
	for i := range w.cpu {
		w.cpu[i] = 0.02
	}
	for _, s := range w.shards {
		for _, r := range w.descriptor(s).Replicas {
			cost := w.cfg.WriteCPU * s.writes
			if r.Member != s.owner {
				cost /= 3
			}
			w.cpu[r.Member-1] += cost
		}
	}
}

func (w *World) measureShard(s *played) {
	l := w.load
	s.bytes = l.Bytes * (w.data.upTo(s.high) - w.data.upTo(s.low))
	s.writes = l.Writes * (1 - l.Share) * (w.heat.upTo(s.high) - w.heat.upTo(s.low))
	if l.Share > 0 {
		s.writes += l.Writes * l.Share * (l.hot(s.high) - l.hot(s.low))
	}
}

// writesUpTo is the share of the writes below a place.
func (w *World) writesUpTo(position uint64) float64 {
	return (1-w.load.Share)*w.heat.upTo(position) + w.load.Share*w.load.hot(position)
}

// observe is what the sequencer's member gathers of the cluster.
func (w *World) observe() balance.Observation {
	w.measure()
	v := w.look()
	o := balance.Observation{Now: w.now, Sequencer: w.sequencer, Settings: placement.BalanceSettings(v.Settings)}
	for _, m := range v.Members {
		o.Members = append(o.Members, balance.Member{ID: m.Id, Alive: w.alive(m.Id), CPU: min(w.cpu[m.Id-1], 1)})
	}
	live := v.Map.Live()
	o.Shards = make([]balance.Shard, 0, len(live))
	room := make([]uint64, 0, 4*len(live))
	for _, d := range live {
		s := w.shard(d.Shard)
		from := len(room)
		room = voters(d, room)
		b := balance.Shard{ID: d.Shard, Owner: s.owner, Voters: room[from:len(room):len(room)], Busy: placement.Doing(v.Map, d) != "",
			Preferred: d.PreferredOwner, Automatic: d.PreferredAutomatically, Bytes: int64(s.bytes),
			Writes: max(s.writes*(1+w.cfg.Noise*w.rng.NormFloat64()), 0)}
		if b.Bytes > o.Settings.SplitBytes {
			if at, ok := halve(s.low, s.high, w.data.upTo); ok {
				b.Middle = encodedKey(at)
			}
		}
		if b.Writes > o.Settings.SplitWrites {
			if at, ok := halve(s.low, s.high, w.writesUpTo); ok {
				b.Balanced = encodedKey(at)
			}
		}
		o.Shards = append(o.Shards, b)
	}
	return o
}

// rebalance has the balancer look, and carries out what it decides.
func (w *World) rebalance() {
	if !w.alive(w.sequencer) {
		return
	}
	for _, d := range w.balancer.Decide(w.observe()) {
		s := w.shard(d.Shard)
		w.counts.LastDecision = w.now
		switch d.Kind {
		case balance.Split:
			w.beginSplit(s, d.Key)
		case balance.HandOver, balance.Forget:
			w.apply(&kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_PreferOwner{
				PreferOwner: &kvdpb.PreferOwner{Shard: d.Shard, Member: d.Member, Automatic: true}}})
			w.counts.Transfers++
			s.handed++
			w.settleOwner(s)
		}
	}
}

// beginSplit reserves a child, whose seeds are made then.
func (w *World) beginSplit(s *played, key []byte) {
	res := w.apply(&kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_BeginSplit{
		BeginSplit: &kvdpb.BeginSplit{Parent: s.id, Generation: w.descriptor(s).Generation, Key: key}}})
	if res.Rejection != kvdpb.PlacementResult_NONE {
		return
	}
	at := place(key)
	child := &played{id: res.Descriptor_.Shard, low: at, high: s.high}
	w.shards = append(w.shards, child)
	w.splits = append(w.splits, &split{parent: s, child: child, ready: w.now + seedTime})
	w.counts.Splits++
	s.split++
}

// goOnSplits has the members that run confirm their seeds. The child lives from the
// majority on; the split ends when all have.
func (w *World) goOnSplits() {
	w.splits = slices.DeleteFunc(w.splits, func(sp *split) bool {
		if w.now < sp.ready {
			return false
		}
		d := w.descriptor(sp.child)
		seeded := len(d.Seeded)
		for _, r := range d.Replicas {
			if w.alive(r.Member) && !r.Joining && !slices.Contains(d.Seeded, r.Member) {
				w.apply(&kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_ConfirmSeed{
					ConfirmSeed: &kvdpb.ConfirmSeed{Child: sp.child.id, Member: r.Member}}})
				seeded++
			}
		}
		now := w.descriptor(sp.child)
		if now.Phase == kvdpb.Descriptor_LIVE && sp.child.owner == 0 {
			sp.parent.high = sp.child.low
			w.measureShard(sp.parent)
			w.measureShard(sp.child)
			sp.child.owner = sp.parent.owner
			w.settleOwner(sp.child)
		}
		return now.Phase == kvdpb.Descriptor_LIVE && seeded >= len(now.Replicas)
	})
}
