package sim

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Scenario is a run that is told of.
type Scenario struct {
	// Name names its files, Title and Story its part of the page.
	Name, Title, Story string
	Config             Config
	Until              time.Duration
	// Prepare plans what happens; errors are kept in the result.
	Prepare func(w *World, failed func(error))
	// Marks are times to be marked.
	Marks []Mark
	// Check tells what the run has to show, beside what every run has to.
	Check func(Result) []Claim
}

// Mark is a time at which something happens.
type Mark struct {
	At   time.Duration
	What string
}

// Result is what a scenario showed.
type Result struct {
	Scenario
	Samples    []Sample
	Counts     Counts
	Cost       Cost
	Most       Most
	Rejections map[string]int
	Claims     []Claim
	// Quiet is how long nothing had been decided at the end.
	Quiet time.Duration
}

// Play plays a scenario.
func Play(s Scenario) (Result, error) {
	w, err := New(s.Config)
	if err != nil {
		return Result{}, err
	}
	var failed error
	s.Prepare(w, func(err error) {
		if failed == nil {
			failed = err
		}
	})
	w.Run(s.Until)
	r := Result{Scenario: s, Samples: w.samples, Counts: w.counts, Cost: w.Cost(), Most: w.Most(), Rejections: w.Rejections(),
		Quiet: s.Until - w.counts.LastDecision}
	r.Claims = append(common(r), s.Check(r)...)
	return r, failed
}

// Last is the last sample.
func (r Result) Last() Sample { return r.Samples[len(r.Samples)-1] }

const (
	mib = 1 << 20
	gib = 1 << 30
)

// Scenarios are the runs of the report, at full size or at one that a test can play.
func Scenarios(seed uint64, full bool) []Scenario {
	return []Scenario{growing(seed, full), losing(seed, full), joining(seed, full), heated(seed, full), following(seed, full)}
}

func pick[T any](full bool, large, small T) T {
	if full {
		return large
	}
	return small
}

// growing is one shard on three members that becomes a cluster.
func growing(seed uint64, full bool) Scenario {
	members, bytes, hours := pick(full, 30, 6), pick(full, 1024.0*gib, 24.0*gib), pick(full, 150*time.Minute, 40*time.Minute)
	s := Scenario{
		Name: "growing", Title: "One shard becomes many",
		Story: fmt.Sprintf("Three members with one shard. Data grows to %.0f GiB in %v and writes with it, skewed by a factor of e; members join by three until there "+
			"are %d. Owners do not follow the sequencer.", bytes/gib, hours, members),
		Config: Config{Seed: seed, Members: 3, Shards: 1, Skew: 1, Bandwidth: 200 * mib, Sample: 10 * time.Second, Noise: 0.05,
			Settings: &kvdpb.ClusterSettings{MaxSplitsPerMinute: proto.Uint32(60), MaxTransfersPerMinute: proto.Uint32(120),
				OwnersFollowSequencer: proto.Bool(false)},
			Load: func(at time.Duration) Load {
				part := min(at.Seconds()/hours.Seconds(), 1)
				return Load{Bytes: bytes * part, Writes: 50_000 * part}
			}},
		Until: hours + 60*time.Minute,
	}
	s.Prepare = func(w *World, failed func(error)) {
		for i := 3; i < members; i += 3 {
			w.At(time.Duration(float64(hours)*float64(i)/float64(members)*0.8), func(w *World) {
				if err := w.Join(3); err != nil {
					failed(err)
				}
			})
		}
	}
	s.Marks = []Mark{{hours, "data stops growing"}}
	s.Check = func(r Result) []Claim {
		least := bytes / (512 * mib)
		return []Claim{
			atMost("shards at the end, beside the fewest possible", float64(r.Last().Shards)/least, 2.2, "%.2f"),
			atMost("the largest shard at the end, in MiB", math.Floor(r.Last().Largest)/mib, 512, "%.0f"),
			balanced("owned work of a member at the end", r.Last().Work, 2*idleShard+2*r.Last().Hottest),
			atMost("copies made of any one shard", float64(r.Most.Added), 30, "%.0f"),
			settled(r, 20*time.Minute),
		}
	}
	return s
}

// losing is a large cluster that loses members, for a while and for ever.
func losing(seed uint64, full bool) Scenario {
	members, shards := pick(full, 200, 12), pick(full, 100_000, 240)
	const (
		wait    = 5 * time.Minute
		restart = 2 * time.Minute
		lost    = 6 * time.Minute
		outage  = 20 * time.Minute
		again   = 26 * time.Minute
		removed = 40 * time.Minute
		end     = 55 * time.Minute
	)
	last := uint64(members)
	return Scenario{
		Name: "losing", Title: "Members are lost",
		Story: fmt.Sprintf("%d members with %d shards of 64 MiB. One restarts within two minutes; the sequencer's is lost for good; three are away at once for three "+
			"minutes, which leaves shards without majority; another one is lost; and one that works is removed. A member's replicas are rebuilt once it has been "+
			"away for %v, which is not counted below.", members, shards, wait),
		Config: Config{Seed: seed, Members: members, Shards: shards, Bandwidth: 200 * mib, Sample: 5 * time.Second, Noise: 0.05,
			Settings: &kvdpb.ClusterSettings{OwnersFollowSequencer: proto.Bool(false), RepairAfterMinutes: proto.Uint32(5), MaxTransfersPerMinute: proto.Uint32(600)},
			Load: func(time.Duration) Load {
				return Load{Bytes: float64(shards) * 64 * mib, Writes: 10 * float64(shards)}
			}},
		Until: end,
		Marks: []Mark{{restart, "restart"}, {lost, "loss"}, {outage, "outage of three"}, {again, "loss"}, {removed, "removal"}},
		Prepare: func(w *World, failed func(error)) {
			w.At(restart, func(w *World) { w.Kill(last) })
			w.At(restart+2*time.Minute, func(w *World) { w.Restart(last) })
			w.At(lost, func(w *World) { w.Kill(1) })
			w.At(outage, func(w *World) { w.Kill(last, last-1, last-2) })
			w.At(outage+3*time.Minute, func(w *World) { w.Restart(last, last-1, last-2) })
			w.At(again, func(w *World) { w.Kill(last - 3) })
			w.At(removed, func(w *World) {
				if err := w.Remove(last - 4); err != nil {
					failed(err)
				}
			})
		},
		Check: func(r Result) []Claim {
			copied := func(from, to time.Duration) float64 {
				a, b := r.at(from).Counts, r.at(to).Counts
				return float64(b.Moves + b.Repairs - a.Moves - a.Repairs)
			}
			first, second := r.WholeAt(lost+wait)-lost-wait, r.WholeAt(again+wait)-again-wait
			return []Claim{
				atMost("replicas copied because of the restart", copied(restart-5*time.Second, lost), 0, "%.0f"),
				atMost("replicas copied because of the outage of three", copied(outage-5*time.Second, again), 0, "%.0f"),
				atLeast("shards without majority in that outage", float64(r.at(outage+time.Minute).Headless), 1, "%.0f"),
				atMost("shards without owner at the end", float64(r.Last().Headless), 0, "%.0f"),
				atMost("seconds of repair after the first loss", first.Seconds(), 300, "%.0f"),
				atLeast("its replicas, all rebuilt", float64(r.at(outage-5*time.Second).Counts.Repairs), float64(3*shards/members)-2, "%.0f"),
				atMost("seconds of repair after the second loss", second.Seconds(), 300, "%.0f"),
				atLeast("shards that lacked a replica before it", float64(r.at(again+time.Minute).Under), float64(3*shards/members)-2, "%.0f"),
				balanced("owned work of a member at the end", r.Last().Work, 40),
				balanced("owners of a member at the end", r.Last().Owners, 2),
				atMost("copies made of any one shard", float64(r.Most.Added), 5, "%.0f"),
				atMost("transfers of any one shard", float64(r.Most.Handed), 6, "%.0f"),
				settled(r, 5*time.Minute),
			}
		},
	}
}

// joining is a large cluster that members join.
func joining(seed uint64, full bool) Scenario {
	members, shards, join := pick(full, 100, 12), pick(full, 20_000, 240), pick(full, 10, 2)
	return Scenario{
		Name: "joining", Title: "Members join",
		Story: fmt.Sprintf("%d members with %d shards of 64 MiB; %d more join at once.", members, shards, join),
		Config: Config{Seed: seed, Members: members, Shards: shards, Bandwidth: 200 * mib, Sample: 5 * time.Second, Noise: 0.05,
			Settings: &kvdpb.ClusterSettings{OwnersFollowSequencer: proto.Bool(false), MaxTransfersPerMinute: proto.Uint32(600)},
			Load: func(time.Duration) Load {
				return Load{Bytes: float64(shards) * 64 * mib, Writes: 10 * float64(shards)}
			}},
		Until: 40 * time.Minute,
		Marks: []Mark{{2 * time.Minute, "members join"}},
		Check: func(r Result) []Claim {
			fewest := float64(3*shards) * float64(join) / float64(members+join)
			return []Claim{
				atMost("minutes until all have as many replicas, within a tenth", (r.EvenAt(2*time.Minute, func(s Sample) Spread { return s.Replicas }) - 2*time.Minute).Minutes(), 30, "%.1f"),
				atMost("moves, beside the fewest possible", float64(r.Counts.Moves)/fewest, 1.25, "%.2f"),
				atMost("copies made of any one shard", float64(r.Most.Added), 3, "%.0f"),
				atMost("transfers of any one shard", float64(r.Most.Handed), 4, "%.0f"),
				balanced("owned work of a member at the end", r.Last().Work, 40),
				balanced("owners of a member at the end", r.Last().Owners, 2),
				settled(r, 5*time.Minute),
			}
		},
		Prepare: func(w *World, failed func(error)) {
			w.At(2*time.Minute, func(w *World) {
				if err := w.Join(join); err != nil {
					failed(err)
				}
			})
		},
	}
}

// heated is a large cluster with a skewed load and a hot spot that wanders.
func heated(seed uint64, full bool) Scenario {
	members, shards := pick(full, 200, 12), pick(full, 100_000, 240)
	every := 25 * time.Minute
	places := []float64{0.1, 0.55, 0.8}
	return Scenario{
		Name: "heated", Title: "The load is skewed, and moves",
		Story: fmt.Sprintf("%d members with %d shards at the beginning, whose writes differ by a factor of e, measured with an error of a tenth. A fifth of all writes "+
			"goes to a hundredth of the keys, which is another one every %v. Shards with more than 500 writes/s are split.", members, shards, every),
		Config: Config{Seed: seed, Members: members, Shards: shards, Skew: 1, Bandwidth: 200 * mib, Sample: 10 * time.Second, Noise: 0.1,
			Settings: &kvdpb.ClusterSettings{OwnersFollowSequencer: proto.Bool(false), SplitByLoad: proto.Bool(true),
				SplitWrites: proto.Uint64(500), MaxTransfersPerMinute: proto.Uint32(600), MaxSplitsPerMinute: proto.Uint32(120)},
			Load: func(at time.Duration) Load {
				l := Load{Bytes: float64(shards) * 32 * mib, Writes: 20 * float64(shards)}
				if i := int((at - 10*time.Minute) / every); at >= 10*time.Minute && i < len(places) {
					l.Share, l.Width, l.Centre = 0.2, 0.01, places[i]
				}
				return l
			}},
		Until:   10*time.Minute + 4*every,
		Marks:   []Mark{{10 * time.Minute, "a hot spot"}, {10*time.Minute + every, "it moves"}, {10*time.Minute + 2*every, "it moves"}, {10*time.Minute + 3*every, "it is gone"}},
		Prepare: func(*World, func(error)) {},
		Check: func(r Result) []Claim {
			var claims []Claim
			for i := range 4 {
				end := r.at(10*time.Minute + time.Duration(i+1)*every - 10*time.Second)
				claims = append(claims, balanced(fmt.Sprintf("owned work of a member at %v", end.At), end.Work, 2*end.Hottest))
			}
			return append(claims,
				atMost("transfers of any one shard", float64(r.Most.Handed), 8, "%.0f"),
				atMost("moves of any one shard", float64(r.Most.Added), 3, "%.0f"),
				settled(r, 5*time.Minute))
		},
	}
}

// following is a small cluster whose owners live with the sequencer, until its CPUs
// do not suffice.
func following(seed uint64, full bool) Scenario {
	shards := pick(full, 1_000, 60)
	return Scenario{
		Name: "following", Title: "Owners follow the sequencer",
		Story: fmt.Sprintf("Five members with %d shards, owned by the sequencer's member where it has a replica. What there is to do rises and falls; a member can carry "+
			"50,000 writes/s, and they come to 80,000.", shards),
		Config: Config{Seed: seed, Members: 5, Shards: shards, Skew: 0.5, Bandwidth: 200 * mib, Sample: 10 * time.Second, Noise: 0.05,
			WriteCPU: 1.0 / 50_000,
			Settings: &kvdpb.ClusterSettings{MaxTransfersPerMinute: proto.Uint32(pick(full, uint32(120), 12))},
			Load: func(at time.Duration) Load {
				// It rises and falls within four hours.
				day := 0.5 - 0.5*math.Cos(2*math.Pi*at.Minutes()/240)
				return Load{Bytes: float64(shards) * 32 * mib, Writes: 5_000 + 75_000*day}
			}},
		Until:   6 * time.Hour,
		Prepare: func(*World, func(error)) {},
		Check: func(r Result) []Claim {
			peak, valley := 0.0, r.at(4*time.Hour+30*time.Minute)
			for _, s := range r.Samples {
				if s.At >= 2*time.Hour && s.At < 3*time.Hour {
					peak = max(peak, s.SequencerCPU)
				}
			}
			return []Claim{
				atMost("CPU of the sequencer's member at the peak", 100*peak, 85, "%.0f %%"),
				atMost("shards that it could own and does not in the valley", float64(valley.Strayed), 0, "%.0f"),
				atMost("transfers of any one shard in six hours", float64(r.Most.Handed), 6, "%.0f"),
			}
		},
	}
}

// SequencerMembers is how many members ask the sequencer, SequencerSteps what they
// want.
const SequencerMembers = 200

// SequencerSteps are the steps of the report, at full size or at one that a test can
// play.
func SequencerSteps(full bool) []Step {
	long := pick(full, 10*time.Second, 6*time.Second)
	steps := []Step{{long, 0}, {long, 200}, {long, 20_000}}
	if full {
		steps = append(steps, Step{long, 200_000}, Step{long, 2_000_000})
	}
	return append(steps, Step{long, 0}, Step{long, 20_000})
}
