package sim

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

const (
	// hop is how long a message takes to another member, with a tail of hopTail on
	// the average.
	hop     = 250 * time.Microsecond
	hopTail = 50 * time.Microsecond
	// readIndexTime and entryTime are how long raft takes for a ReadIndex and for an
	// entry on disk.
	readIndexTime = time.Millisecond
	entryTime     = 3 * time.Millisecond
)

// Step is a time during which the cluster wants so many revisions per second, half
// of them to be allotted and half to be told.
type Step struct {
	For  time.Duration
	Rate float64
}

// StepResult is what a step showed. Rates are per second.
type StepResult struct {
	Step
	// Messages are those of one member, Wishes how many one of them carried.
	Messages, Wishes float64
	// Windows and Renewals are entries and ReadIndexes of the placement group.
	Windows, Renewals float64
	// Parked is the share of the messages that had to wait at the sequencer.
	Parked float64
	// P50, P99 and Max are how long callers waited.
	P50, P99, Max time.Duration
	// Skipped is the most that a crash of the sequencer would have skipped; in
	// seconds of the step's use, SkippedTime.
	Skipped     int64
	SkippedTime float64
	// Bytes are those of an ask and its answer.
	Bytes float64
}

// WindowSample is a look at the window.
type WindowSample struct {
	At   time.Duration
	Rate float64
	// Left is what a crash would skip.
	Left int64
}

// asker is one member as the sequencer sees it.
type asker struct {
	number uint64
	// flying: a message is on its way, since sent. before is how long the one before
	// it was on its way, for callers that came meanwhile.
	flying bool
	sent   time.Duration
	before time.Duration
	// drawn tells arrivals apart that were drawn for another rate.
	drawn int
	wants int64
}

type kind uint8

const (
	arrives kind = iota
	asked
	answered
	renewed
	extended
	relook
)

// happening is something that happens at a time.
type happening struct {
	at     time.Duration
	order  int
	kind   kind
	member int
	number uint64
	drawn  int
	end    func(bool) bool
	cmd    *kvdpb.PlacementCommand
}

type calendar []happening

func (c calendar) Len() int { return len(c) }
func (c calendar) Less(i, j int) bool {
	return c[i].at < c[j].at || c[i].at == c[j].at && c[i].order < c[j].order
}
func (c calendar) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c *calendar) Push(x any)   { *c = append(*c, x.(happening)) }
func (c *calendar) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

// Sequencer is a sequencer with the members that ask it, in virtual time.
type Sequencer struct {
	rng      *rand.Rand
	now      time.Duration
	calendar calendar
	order    int
	core     *placement.SequencerCore
	state    *placement.State
	view     *placement.View
	index    uint64
	askers   []asker
	rate     float64

	wantsRenewal, renewing, wantsExtension, extending bool
	relookAt                                          time.Duration

	waits    []time.Duration
	wishes   int64
	messages int64
	failed   error

	Windows []WindowSample
}

// NewSequencer makes one with so many members, the first of which it runs on.
func NewSequencer(seed uint64, members int) (*Sequencer, error) {
	s := &Sequencer{rng: rand.New(rand.NewPCG(seed, 1)), state: placement.NewState(), askers: make([]asker, members)}
	in := &kvdpb.PlacementInit{ClusterId: 1}
	for i := range members {
		in.Members = append(in.Members, described(uint64(i)+1))
	}
	in.Shards = []*kvdpb.Descriptor{{Shard: placement.FirstShard, Start: encodedKey(0), End: encodedKey(positions), Generation: 1,
		Replicas: []*kvdpb.Replica{{Member: 1, Replica: 1}}}}
	s.core = placement.NewSequencerCore(1, 1, 1, placement.SequencerHost{
		Clock:  func() time.Duration { return s.now },
		Reply:  s.reply,
		Renew:  func() { s.wantsRenewal = true },
		Extend: func() { s.wantsExtension = true },
	})
	for _, cmd := range []*kvdpb.PlacementCommand{
		{Command: &kvdpb.PlacementCommand_Init{Init: in}},
		{Command: &kvdpb.PlacementCommand_Claim{Claim: &kvdpb.Claim{Member: 1, Replica: 1, Incarnation: 1}}},
		{Command: &kvdpb.PlacementCommand_Serving{Serving: &kvdpb.PlacementServing{Epoch: 1, WindowEnd: 2}}},
	} {
		s.apply(cmd)
	}
	return s, s.failed
}

func (s *Sequencer) apply(cmd *kvdpb.PlacementCommand) {
	if res := s.state.Apply(cmd); res.Rejection != kvdpb.PlacementResult_NONE && s.failed == nil {
		s.failed = fmt.Errorf("placement refused %v: %s", cmd, res.Reason)
	}
	s.index++
	s.view = s.state.View(s.view, s.index)
	s.core.Observe(s.view)
}

func (s *Sequencer) plan(after time.Duration, h happening) {
	s.order++
	h.at, h.order = s.now+after, s.order
	heap.Push(&s.calendar, h)
}

func (s *Sequencer) exponential(mean time.Duration) time.Duration {
	return time.Duration(s.rng.ExpFloat64() * float64(mean))
}

// poisson draws how many wishes come in a time.
func (s *Sequencer) poisson(mean float64) int64 {
	if mean > 50 {
		return max(int64(math.Round(mean+math.Sqrt(mean)*s.rng.NormFloat64())), 0)
	}
	n, p, limit := int64(0), s.rng.Float64(), math.Exp(-mean)
	for p > limit {
		n++
		p *= s.rng.Float64()
	}
	return n
}

// expect draws when the next wish of a member comes that has none.
func (s *Sequencer) expect(member int) {
	a := &s.askers[member]
	a.drawn++
	if s.rate > 0 {
		s.plan(s.exponential(time.Duration(float64(len(s.askers))/s.rate*float64(time.Second))), happening{kind: arrives, member: member, drawn: a.drawn})
	}
}

// ask sends a message for so many wishes.
func (s *Sequencer) ask(member int, wishes int64) {
	a := &s.askers[member]
	allot := int64(0)
	for range min(wishes, 64) {
		allot += int64(s.rng.IntN(2))
	}
	allot += max(wishes-64, 0) / 2
	s.wishes += wishes
	s.messages++
	a.number++
	a.flying, a.sent, a.wants = true, s.now, allot
	if member == 0 {
		s.plan(0, happening{kind: asked, member: member, number: a.number})
		return
	}
	s.plan(hop+s.exponential(hopTail), happening{kind: asked, member: member, number: a.number})
}

// reply takes an answer of the core.
func (s *Sequencer) reply(member, number uint64, _ int64, allotted bool) {
	if !allotted && s.failed == nil {
		s.failed = fmt.Errorf("a message of member %d was refused", member)
	}
	after := hop + s.exponential(hopTail)
	if member == 1 {
		after = 0
	}
	s.plan(after, happening{kind: answered, member: int(member) - 1, number: number})
}

// Run plays steps, and tells what each showed.
func (s *Sequencer) Run(steps []Step) ([]StepResult, error) {
	var results []StepResult
	for _, step := range steps {
		results = append(results, s.step(step))
		if s.failed != nil {
			return nil, s.failed
		}
	}
	return results, nil
}

func (s *Sequencer) step(step Step) StepResult {
	s.rate = step.Rate
	for i := range s.askers {
		if !s.askers[i].flying {
			s.expect(i)
		}
	}
	began, until := s.now, s.now+step.For
	s.waits, s.wishes, s.messages = s.waits[:0], 0, 0
	stats := &s.core.Stats
	windows, renewals, parked := stats.Windows.Load(), stats.Renewals.Load(), stats.Parked.Load()
	bytes := s.core.AskBytes + s.core.AnswerBytes
	r := StepResult{Step: step}
	next := began
	for len(s.calendar) > 0 && s.calendar[0].at <= until && s.failed == nil {
		for ; next <= s.calendar[0].at; next += 50 * time.Millisecond {
			left := s.left()
			s.Windows = append(s.Windows, WindowSample{At: next, Rate: step.Rate, Left: left})
			// What the step before left is its own.
			if next >= began+2*placement.WindowIdle {
				r.Skipped = max(r.Skipped, left)
			}
		}
		h := heap.Pop(&s.calendar).(happening)
		s.now = h.at
		s.happen(h)
		s.drive()
	}
	s.now = until
	seconds := step.For.Seconds()
	r.Messages = float64(s.messages) / seconds / float64(len(s.askers))
	r.Windows, r.Renewals = float64(stats.Windows.Load()-windows)/seconds, float64(stats.Renewals.Load()-renewals)/seconds
	if s.messages > 0 {
		r.Wishes = float64(s.wishes) / float64(s.messages)
		r.Parked = float64(stats.Parked.Load()-parked) / float64(s.messages)
		r.Bytes = float64(s.core.AskBytes+s.core.AnswerBytes-bytes) / float64(s.messages)
	}
	if step.Rate > 0 {
		r.SkippedTime = float64(r.Skipped) / (step.Rate / 2)
	}
	slices.Sort(s.waits)
	if n := len(s.waits); n > 0 {
		r.P50, r.P99, r.Max = s.waits[n/2], s.waits[n*99/100], s.waits[n-1]
	}
	return r
}

// left is how many revisions a crash would skip now.
func (s *Sequencer) left() int64 {
	next, _ := s.core.Next()
	return s.view.WindowEnd - next
}

// Remembered is how many members' last answers the sequencer keeps.
func (s *Sequencer) Remembered() int {
	_, n := s.core.Next()
	return n
}

func (s *Sequencer) happen(h happening) {
	a := &s.askers[h.member]
	switch h.kind {
	case arrives:
		if !a.flying && h.drawn == a.drawn {
			a.before = 0
			s.ask(h.member, 1)
		}
	case asked:
		if h.member == 0 {
			if _, ok := s.core.Try(a.wants); ok {
				s.plan(0, happening{kind: answered, number: h.number})
				return
			}
		}
		if err := s.core.Ask(uint64(h.member)+1, h.number, a.wants); err != nil && s.failed == nil {
			s.failed = err
		}
	case answered:
		if !a.flying || h.number != a.number {
			return
		}
		flight := s.now - a.sent
		// One of the callers, who came at any time while the message before it was on
		// its way.
		s.waits = append(s.waits, flight+time.Duration(s.rng.Float64()*float64(a.before)))
		a.flying, a.before = false, flight
		if more := s.poisson(s.rate / float64(len(s.askers)) * flight.Seconds()); more > 0 {
			s.ask(h.member, more)
		} else {
			s.expect(h.member)
		}
	case renewed:
		s.renewing = h.end(true)
		if s.renewing {
			s.renew()
		}
	case extended:
		s.apply(h.cmd)
		s.core.Stats.Windows.Add(1)
		_, later := s.core.WindowEnd(h.cmd)
		s.extending = false
		s.extend()
		if later {
			s.lookLater()
		}
	case relook:
		if h.at != s.relookAt || s.extending {
			return
		}
		s.relookAt = 0
		cmd, ok, watchful := s.core.Retreat()
		if ok {
			s.extending = true
			s.plan(entryTime, happening{kind: extended, cmd: cmd})
		} else if watchful {
			s.lookLater()
		}
	}
}

func (s *Sequencer) lookLater() {
	s.relookAt = s.now + placement.WindowIdle
	s.plan(placement.WindowIdle, happening{kind: relook})
}

// drive does what the core asked for.
func (s *Sequencer) drive() {
	if s.wantsRenewal && !s.renewing {
		s.wantsRenewal = false
		s.renew()
	}
	if s.wantsExtension && !s.extending {
		s.wantsExtension = false
		s.extend()
	}
}

func (s *Sequencer) renew() {
	end, ok := s.core.Renewal()
	s.renewing = ok
	if ok {
		s.plan(readIndexTime, happening{kind: renewed, end: end})
	}
}

func (s *Sequencer) extend() {
	cmd, ok := s.core.Extension()
	s.extending = ok
	if ok {
		s.plan(entryTime, happening{kind: extended, cmd: cmd})
	}
}
