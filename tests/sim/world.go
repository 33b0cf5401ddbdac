package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/placement/balance"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

const (
	// tick is how often the scheduler looks, and the step of the virtual time.
	tick = 500 * time.Millisecond
	// lookEvery is how often the balancer looks, as in package server.
	lookEvery = 5 * time.Second
	// lostAfter is how long a member is gone until what it is being given is given up,
	// as in package placement.
	lostAfter = time.Minute
	// electionTime is how long a group is without owner after its owner was lost.
	electionTime = time.Second
	// stepTime is how long a step of a change takes beside the copy: an entry of the
	// shard, a change of raft's members, an entry of placement.
	stepTime = time.Second
	// seedTime is how long a member takes to make the seed of a child.
	seedTime = 2 * time.Second
)

// Config is a cluster, and what is done with it.
type Config struct {
	Seed            uint64
	Members, Shards int
	Settings        *kvdpb.ClusterSettings
	// Load is what there is to do at a time.
	Load func(at time.Duration) Load
	// Skew is that of the writes and of the data; see newDensity.
	Skew float64
	// Bandwidth is what a member sends and receives at most, each, in bytes per
	// second.
	Bandwidth float64
	// Noise is the error of a measured rate of writes, as a share of it.
	Noise float64
	// WriteCPU is the part of a member's CPUs that a write per second takes of its
	// owner. Each of the others' replicas takes a third of it.
	WriteCPU float64
	// Sample is how often the cluster is measured.
	Sample time.Duration
}

// member is one played member.
type member struct {
	id    uint64
	up    bool
	since time.Duration
}

// played is what is known of a shard beside its descriptor.
type played struct {
	id    uint64
	low   uint64
	high  uint64
	owner uint64
	// electedAt is when it gets a new owner; zero if it has one, or cannot.
	electedAt time.Duration
	bytes     float64
	writes    float64
	// added, split and handed count what was done with it.
	added, split, handed int
}

// event is something that happens to the cluster.
type event struct {
	at time.Duration
	do func(*World)
}

// World is a cluster in virtual time.
type World struct {
	cfg   Config
	rng   *rand.Rand
	now   time.Duration
	state *placement.State
	view  *placement.View
	index uint64
	// entries and entryBytes count what went through placement's log.
	entries    int
	entryBytes int
	// rejected counts what placement refused, by its reason.
	rejected map[kvdpb.PlacementResult_Rejection]int

	members   []*member
	shards    []*played
	sequencer uint64
	balancer  *balance.Balancer
	changes   []*change
	splits    []*split
	electing  []*played
	events    []event

	data, heat *density
	load       Load

	// attended counts changes of who is there, or away for long; settledAt is what
	// the scheduler had nothing to do about.
	attended  int
	settledAt struct {
		attended int
		version  uint64
	}
	lastGone []bool

	counts  Counts
	samples []Sample
	cpu     []float64
}

// Counts are what was begun since the beginning.
type Counts struct {
	// Moves are replicas that moved between living members, Repairs those that were
	// made anew, Removals those that were taken out.
	Moves, Repairs, Removals int
	Splits, Transfers        int
	// Elections are owners that were lost.
	Elections int
	// Copied is in bytes.
	Copied float64
	// LastDecision is when the last of them was begun.
	LastDecision time.Duration
}

// New makes a cluster whose replicas are dealt evenly and whose shards cut the key
// space evenly. Its owners are those of the first replicas.
func New(cfg Config) (*World, error) {
	w := &World{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0)), state: placement.NewState(), sequencer: 1,
		balancer: balance.New(), rejected: map[kvdpb.PlacementResult_Rejection]int{}}
	w.data, w.heat = newDensity(w.rng, cfg.Skew), newDensity(w.rng, cfg.Skew)
	in := &kvdpb.PlacementInit{ClusterId: 1}
	for i := range cfg.Members {
		w.addMember()
		in.Members = append(in.Members, described(uint64(i)+1))
	}
	deal := w.dealer()
	for i := range uint64(cfg.Shards) {
		s := &played{id: placement.FirstShard + i, low: i * (positions / uint64(cfg.Shards)), high: (i + 1) * (positions / uint64(cfg.Shards))}
		if i+1 == uint64(cfg.Shards) {
			s.high = positions
		}
		d := &kvdpb.Descriptor{Shard: s.id, Start: encodedKey(s.low), End: encodedKey(s.high), Generation: 1}
		for j, m := range deal() {
			d.Replicas = append(d.Replicas, &kvdpb.Replica{Member: m, Replica: uint64(j) + 1})
		}
		d.Initial = d.Replicas
		s.owner = d.Replicas[0].Member
		w.shards = append(w.shards, s)
		in.Shards = append(in.Shards, d)
	}
	for _, cmd := range []*kvdpb.PlacementCommand{
		{Command: &kvdpb.PlacementCommand_Init{Init: in}},
		{Command: &kvdpb.PlacementCommand_Claim{Claim: &kvdpb.Claim{Member: 1, Replica: 1, Incarnation: 1}}},
		{Command: &kvdpb.PlacementCommand_Serving{Serving: &kvdpb.PlacementServing{Epoch: 1, WindowEnd: 1 << 40}}},
		{Command: &kvdpb.PlacementCommand_SetClusterSettings{SetClusterSettings: &kvdpb.SetClusterSettings{Settings: cfg.Settings}}},
	} {
		if res := w.apply(cmd); res.Rejection != kvdpb.PlacementResult_NONE {
			return nil, fmt.Errorf("simulated cluster: %v: %s", res.Rejection, res.Reason)
		}
	}
	w.entries, w.entryBytes = 0, 0
	w.look()
	w.measure()
	w.settleOwners()
	w.counts = Counts{}
	return w, nil
}

func described(id uint64) *kvdpb.Member {
	return &kvdpb.Member{Id: id, Replica: id, Name: fmt.Sprintf("m%d", id), PeerUrls: []string{fmt.Sprintf("http://member-%d:2380", id)}}
}

func (w *World) addMember() *member {
	m := &member{id: uint64(len(w.members)) + 1, up: true}
	w.members = append(w.members, m)
	w.cpu = append(w.cpu, 0)
	w.attended++
	return m
}

// dealer returns a function that gives the members of a shard's replicas, so that
// each member has as many as any other, in an order without pattern.
func (w *World) dealer() func() []uint64 {
	var deck []uint64
	replicas := min(3, w.cfg.Members)
	if w.cfg.Settings.Replicas != nil {
		replicas = min(int(*w.cfg.Settings.Replicas), w.cfg.Members)
	}
	return func() []uint64 {
		var hand []uint64
		for len(hand) < replicas {
			i := slices.IndexFunc(deck, func(m uint64) bool { return !slices.Contains(hand, m) })
			if i < 0 {
				fresh := make([]uint64, w.cfg.Members)
				for j, p := range w.rng.Perm(w.cfg.Members) {
					fresh[j] = uint64(p) + 1
				}
				deck = append(deck, fresh...)
				continue
			}
			hand = append(hand, deck[i])
			deck = slices.Delete(deck, i, i+1)
		}
		return hand
	}
}

// apply lets placement apply a command, as the sequencer proposes it.
func (w *World) apply(cmd *kvdpb.PlacementCommand) *kvdpb.PlacementResult {
	cmd.Epoch = 1
	res := w.state.Apply(cmd)
	w.index++
	w.entries++
	w.entryBytes += proto.Size(cmd)
	if res.Rejection != kvdpb.PlacementResult_NONE {
		w.rejected[res.Rejection]++
	}
	return res
}

// look returns the present view.
func (w *World) look() *placement.View {
	w.view = w.state.View(w.view, w.index)
	return w.view
}

func (w *World) descriptor(s *played) *kvdpb.Descriptor { return w.state.Shard(s.id) }

func (w *World) shard(id uint64) *played { return w.shards[id-placement.FirstShard] }

// alive tells whether a member runs.
func (w *World) alive(id uint64) bool {
	return id > 0 && id <= uint64(len(w.members)) && w.members[id-1].up
}

// away tells whether a member has been down for so long.
func (w *World) away(id uint64, long time.Duration) bool {
	return !w.alive(id) && w.now-w.members[id-1].since >= long
}

// At has something happen to the cluster.
func (w *World) At(at time.Duration, do func(*World)) {
	w.events = append(w.events, event{at, do})
	slices.SortStableFunc(w.events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
}

// Run plays the cluster until a time.
func (w *World) Run(until time.Duration) {
	for w.now < until {
		w.now += tick
		for len(w.events) > 0 && w.events[0].at <= w.now {
			w.events[0].do(w)
			w.events = w.events[1:]
		}
		w.progress()
		w.schedule()
		if w.now%lookEvery == 0 {
			w.rebalance()
		}
		if w.now%w.cfg.Sample == 0 {
			w.sample()
		}
	}
}

// Kill stops members.
func (w *World) Kill(ids ...uint64) {
	for _, id := range ids {
		w.members[id-1].up, w.members[id-1].since = false, w.now
	}
	w.attended++
	if !w.alive(w.sequencer) {
		for _, m := range w.members {
			if m.up {
				w.sequencer = m.id
				break
			}
		}
		// Its successor begins with a clean memory.
		w.balancer = balance.New()
	}
	w.settleOwners()
}

// Restart brings members back.
func (w *World) Restart(ids ...uint64) {
	for _, id := range ids {
		w.members[id-1].up, w.members[id-1].since = true, w.now
	}
	w.attended++
	w.settleOwners()
}

// Join adds members.
func (w *World) Join(n int) error {
	for range n {
		m := described(w.addMember().id)
		for _, cmd := range []*kvdpb.PlacementCommand{
			{Command: &kvdpb.PlacementCommand_AddMember{AddMember: &kvdpb.AddMember{Member: m}}},
			{Command: &kvdpb.PlacementCommand_UpdateMember{UpdateMember: &kvdpb.UpdateMember{Member: m}}},
		} {
			if res := w.apply(cmd); res.Rejection != kvdpb.PlacementResult_NONE {
				return fmt.Errorf("member %d could not join: %s", m.Id, res.Reason)
			}
		}
	}
	return nil
}

// Remove removes members for ever, dead or alive.
func (w *World) Remove(ids ...uint64) error {
	for _, id := range ids {
		if res := w.apply(&kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_RemoveMember{RemoveMember: &kvdpb.RemoveMember{Id: id}}}); res.Rejection != kvdpb.PlacementResult_NONE {
			return fmt.Errorf("member %d could not be removed: %s", id, res.Reason)
		}
	}
	w.attended++
	return nil
}
