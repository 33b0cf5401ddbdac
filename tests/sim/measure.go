package sim

import (
	"maps"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Spread is how something is spread over the members that run.
type Spread struct{ Min, Mean, Max float64 }

// spreadOf looks at the members that run and belong to the cluster.
func (w *World) spreadOf(amounts []float64, counts func(uint64) bool) Spread {
	s := Spread{Min: math.Inf(1)}
	n := 0.0
	for i, a := range amounts {
		if !counts(uint64(i) + 1) {
			continue
		}
		s.Min, s.Max = min(s.Min, a), max(s.Max, a)
		s.Mean += a
		n++
	}
	if n == 0 {
		return Spread{}
	}
	s.Mean /= n
	return s
}

// Off is how far the member that is furthest from the mean is from it, as a share of
// the mean.
func (s Spread) Off() float64 {
	if s.Mean == 0 {
		return 0
	}
	return max(s.Max-s.Mean, s.Mean-s.Min) / s.Mean
}

// Sample is one measurement of the cluster.
type Sample struct {
	At              time.Duration
	Members, Shards int
	// Replicas, Owners and Bytes are those of a member. Work is what the shards that
	// it owns have to do: their Writes, and something for each.
	Replicas, Owners, Bytes, Writes, Work Spread
	// Under are the shards that lack replicas on members that run, Headless those
	// without owner.
	Under, Headless int
	// UnderWay are changes of replicas.
	UnderWay int
	// Hottest and Largest are the writes and the bytes of one shard.
	Hottest, Largest float64
	// SequencerCPU is that of its member, MaxCPU the most of any; 0 to 1.
	SequencerCPU, MaxCPU float64
	// Strayed are the shards that the sequencer's member has a replica of and does not
	// own.
	Strayed int
	Counts  Counts
}

// idleShard is what a shard without writes counts, in writes per second, as in
// package balance.
const idleShard = 10

// sample measures the cluster.
func (w *World) sample() {
	v := w.look()
	n := len(w.members)
	replicas, owners, writes, work, bytes := make([]float64, n), make([]float64, n), make([]float64, n), make([]float64, n), make([]float64, n)
	s := Sample{At: w.now, Shards: v.Map.Len(), UnderWay: len(w.changes), Counts: w.counts}
	target := 3
	if v.Settings.Replicas != nil {
		target = int(*v.Settings.Replicas)
	}
	running := func(m uint64) bool { return w.alive(m) && v.Member(m) != nil && v.Member(m).Name != "" }
	for _, m := range w.members {
		if running(m.id) {
			s.Members++
			s.MaxCPU = max(s.MaxCPU, min(w.cpu[m.id-1], 1))
		}
	}
	target = min(target, s.Members)
	for _, d := range v.Map.Live() {
		p := w.shard(d.Shard)
		sound := 0
		for _, r := range d.Replicas {
			replicas[r.Member-1]++
			bytes[r.Member-1] += p.bytes
			if !r.NonVoting && w.alive(r.Member) {
				sound++
			}
		}
		if sound < target {
			s.Under++
		}
		if p.owner == 0 {
			s.Headless++
			continue
		}
		owners[p.owner-1]++
		writes[p.owner-1] += p.writes
		work[p.owner-1] += p.writes + idleShard
		s.Hottest, s.Largest = max(s.Hottest, p.writes), max(s.Largest, p.bytes)
		if p.owner != w.sequencer && slices.ContainsFunc(d.Replicas, func(r *kvdpb.Replica) bool { return r.Member == w.sequencer }) {
			s.Strayed++
		}
	}
	s.Replicas, s.Owners, s.Bytes = w.spreadOf(replicas, running), w.spreadOf(owners, running), w.spreadOf(bytes, running)
	s.Writes, s.Work = w.spreadOf(writes, running), w.spreadOf(work, running)
	if w.alive(w.sequencer) {
		s.SequencerCPU = min(w.cpu[w.sequencer-1], 1)
	}
	w.samples = append(w.samples, s)
}

// Cost is what the cluster's own business costs a member.
type Cost struct {
	// Entries went through placement's log, EntryBytes in all: each member gets them.
	Entries, EntryBytes int
	// StateBytes is the size of placement's state on each member.
	StateBytes int
	// ReplicasMost are the replicas of the member that has the most.
	ReplicasMost int
	// ReportBytes is the size of the largest report of loads of one member, every
	// five seconds.
	ReportBytes int
}

// Cost computes what the run has cost so far.
func (w *World) Cost() Cost {
	c := Cost{Entries: w.entries, EntryBytes: w.entryBytes, StateBytes: proto.Size(w.state.Proto())}
	reports := make([]*kvdpb.LoadReport, len(w.members))
	replicas := make([]int, len(w.members))
	for i := range reports {
		reports[i] = &kvdpb.LoadReport{CpuMicros: 1 << 32, Cpus: 8, Incarnation: 1 << 60}
	}
	for _, d := range w.look().Map.Live() {
		s := w.shard(d.Shard)
		for _, r := range d.Replicas {
			replicas[r.Member-1]++
		}
		if s.owner != 0 {
			r := reports[s.owner-1]
			r.Shards = append(r.Shards, &kvdpb.ShardLoad{Shard: s.id, Bytes: int64(s.bytes), Writes: int64(s.writes * w.now.Seconds())})
		}
	}
	for i, r := range reports {
		c.ReportBytes = max(c.ReportBytes, proto.Size(r))
		c.ReplicasMost = max(c.ReplicasMost, replicas[i])
	}
	return c
}

// Most are the most often that any one shard was given a replica, split or handed
// over.
type Most struct{ Added, Split, Handed int }

// Most looks at all shards.
func (w *World) Most() Most {
	var m Most
	for _, s := range w.shards {
		m = Most{max(m.Added, s.added), max(m.Split, s.split), max(m.Handed, s.handed)}
	}
	return m
}

// Rejections lists what placement refused, in words.
func (w *World) Rejections() map[string]int {
	out := map[string]int{}
	for _, r := range slices.Sorted(maps.Keys(w.rejected)) {
		out[r.String()] = w.rejected[r]
	}
	return out
}

// Samples are the measurements so far.
func (w *World) Samples() []Sample { return w.samples }
