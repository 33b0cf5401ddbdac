package placement

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/ownership"
	"google.golang.org/protobuf/proto"
)

// story is a cluster of sequencers and clients without goroutines, timers or
// network: each line of a story moves one thing.
type story struct {
	t       *testing.T
	log     [][]byte
	members []*storyMember
	out     []string
	// authChanges counts the commands that changed auth.
	authChanges uint64
}

type storyMember struct {
	s      *story
	id     uint64
	clock  time.Duration
	paused bool
	state  *State
	view   *View
	at     int
	seq    *sequencer
	client *client
	stats  Counters
	// wire holds frames to this member, in order of arrival.
	wire    []storyFrame
	callers []*storyCaller
	renewal renewal
	// late is a window entry whose fate was unknown.
	late  *kvdpb.ExtendWindow
	wants map[string]bool
	// broken is a peer that cannot be sent to.
	broken map[uint64]bool
}

type storyFrame struct {
	from  uint64
	frame []byte
}

type storyCaller struct {
	name string
	w    *waiter
}

// stillTimer never ends by itself.
type stillTimer struct{}

func (stillTimer) Reset(time.Duration) bool { return false }
func (stillTimer) Stop() bool               { return false }

func newStory(t *testing.T, members int, quorum bool) *story {
	s := &story{t: t}
	for i := range members {
		m := &storyMember{s: s, id: uint64(i) + 1, wants: map[string]bool{}, broken: map[uint64]bool{}, clock: time.Duration(i+1) * time.Hour}
		m.restart(quorum)
		s.members = append(s.members, m)
	}
	s.append(1, testInit(t, members))
	return s
}

// restart makes the member a new process.
func (m *storyMember) restart(quorum bool) {
	incarnation := uint64(10)
	if m.client != nil {
		incarnation = m.client.incarnation + 1
	}
	m.state, m.at, m.callers, m.wire = NewState(), 0, nil, nil
	m.view = m.state.View(nil, 0)
	m.seq = &sequencer{
		me: identity{m.id, m.id, incarnation}, quorum: quorum, stats: &m.stats,
		clock:      func() time.Duration { return m.clock },
		reply:      m.reply,
		wakeRenew:  func() { m.wants["renew"] = true },
		wakeWindow: func() { m.wants["window"] = true },
	}
	m.client = &client{
		me: m.id, incarnation: incarnation, stats: &m.stats, closed: make(chan struct{}),
		newTimer: func(func()) timer { return stillTimer{} },
		post: func(to uint64, a ask) (answer, bool, error) {
			if to == m.id {
				out, now := m.seq.take(to, a)
				return out, now, nil
			}
			return answer{}, false, m.send(to, appendAsk(nil, &a))
		},
		sequencer: func() (uint64, uint64) {
			if m.view.Ownership.Released {
				return 0, m.view.Ownership.Epoch
			}
			return m.view.Ownership.Member, m.view.Ownership.Epoch
		},
	}
}

func (m *storyMember) reply(to uint64, a answer) {
	if to == m.id {
		m.client.answer(&a)
		return
	}
	if err := m.send(to, appendAnswer(nil, &a)); err != nil {
		m.s.say("member %d could not answer member %d", m.id, to)
	}
}

func (m *storyMember) send(to uint64, frame []byte) error {
	if m.broken[to] {
		return errors.New("not connected")
	}
	peer := m.s.members[to-1]
	peer.wire = append(peer.wire, storyFrame{m.id, frame})
	return nil
}

// apply applies the log as far as it goes.
func (m *storyMember) apply() {
	for ; m.at < len(m.s.log); m.at++ {
		c := &kvdpb.PlacementCommand{}
		if err := proto.Unmarshal(m.s.log[m.at], c); err != nil {
			m.s.t.Fatal(err)
		}
		m.state.Apply(c)
		m.view = m.state.View(m.view, uint64(m.at)+1)
		m.seq.observe(m.view)
		m.client.kick()
	}
}

func (s *story) say(format string, args ...any) { s.out = append(s.out, fmt.Sprintf(format, args...)) }

func (s *story) member(id uint64) *storyMember { return s.members[id-1] }

// append logs a command of a member and applies it everywhere but where paused.
// It tells what the log made of it.
func (s *story) append(by uint64, c any) *kvdpb.PlacementResult {
	cmd := command(c)
	cmd.Epoch = s.member(by).view.Ownership.Epoch
	b, err := proto.Marshal(cmd)
	if err != nil {
		s.t.Fatal(err)
	}
	s.log = append(s.log, b)
	oracle := NewState()
	var res *kvdpb.PlacementResult
	for _, b := range s.log {
		c := &kvdpb.PlacementCommand{}
		if err := proto.Unmarshal(b, c); err != nil {
			s.t.Fatal(err)
		}
		res = oracle.Apply(c)
	}
	for _, m := range s.members {
		if !m.paused {
			m.apply()
		}
	}
	return res
}

func stampString(s ownership.Stamp, base time.Duration) string {
	out := fmt.Sprintf("epoch=%d reading=%v map=%d compact=%d", s.SeqEpoch, s.Reading-base, s.MapVersion, s.CompactRevision)
	if s.AuthVersion != 0 {
		out += fmt.Sprintf(" auth=%d", s.AuthVersion)
	}
	return out
}

func (s *story) frameString(f storyFrame, to uint64) string {
	switch f.frame[0] {
	case frameAsk:
		a, err := decodeAsk(f.frame)
		if err != nil {
			s.t.Fatal(err)
		}
		out := fmt.Sprintf("%d->%d ask lane=%d number=%d count=%d", f.from, to, a.lane, a.number, a.count)
		if a.auth != 0 {
			out += fmt.Sprintf(" auth=%d", a.auth)
		}
		return out
	case frameAnswer:
		a, err := decodeAnswer(f.frame)
		if err != nil {
			s.t.Fatal(err)
		}
		what := [...]string{"answered", "not serving", "not the sequencer", "refused"}[a.verdict]
		out := fmt.Sprintf("%d->%d %s lane=%d number=%d epoch=%d", f.from, to, what, a.lane, a.number, a.stamp.SeqEpoch)
		if a.verdict == answered {
			out += fmt.Sprintf(" first=%d", a.first)
		}
		if a.hint != 0 {
			out += fmt.Sprintf(" hint=%d", a.hint)
		}
		return out
	}
	return "?"
}

// collect tells which callers have got their answers.
func (s *story) collect() {
	for _, m := range s.members {
		m.callers = slices.DeleteFunc(m.callers, func(c *storyCaller) bool {
			select {
			case o := <-c.w.done:
				if o.err != nil {
					s.say("%s: %v", c.name, o.err)
					return true
				}
				owner := s.member(1)
				for _, m := range s.members {
					if m.seq.mu.epoch == o.grant.Stamp.SeqEpoch && m.seq.mu.phase != idle {
						owner = m
					}
				}
				base := time.Duration(owner.id) * time.Hour
				if c.w.n == 0 {
					s.say("%s: current %d, %s", c.name, o.grant.First, stampString(o.grant.Stamp, base))
				} else {
					s.say("%s: %d to %d, %s", c.name, o.grant.First, o.grant.First+c.w.n-1, stampString(o.grant.Stamp, base))
				}
				return true
			default:
				return false
			}
		})
	}
}

func (s *story) run(d *datadriven.TestData) string {
	s.out = nil
	var id uint64
	if d.HasArg("member") {
		d.ScanArgs(s.t, "member", &id)
	}
	var m *storyMember
	if id != 0 {
		m = s.member(id)
	}
	switch d.Cmd {
	case "claim":
		res := s.append(id, &kvdpb.Claim{PreviousEpoch: m.view.Ownership.Epoch, Member: id, Replica: id, Incarnation: m.client.incarnation})
		if res.Rejection != kvdpb.PlacementResult_NONE {
			s.say("rejected: %s", res.Reason)
		} else if !m.paused {
			s.say("epoch %d, wait %v", m.view.Ownership.Epoch, m.view.Ownership.MustWait)
		}
	case "serve":
		remaining, ph := m.seq.waitOut(m.view.Ownership.Epoch)
		if ph != claimed || remaining > 0 {
			s.say("may not serve: phase %d, %v to wait", ph, remaining)
			break
		}
		begin, epoch := m.clock, m.view.Ownership.Epoch
		// Most stories are not about the window and begin with an open one.
		end := m.view.WindowEnd
		if !d.HasArg("closed") {
			end += minWindow
		}
		res := s.append(id, &kvdpb.PlacementServing{Epoch: epoch, WindowEnd: end})
		if res.Rejection != kvdpb.PlacementResult_NONE {
			s.say("rejected: %s", res.Reason)
		} else if !d.HasArg("lost") {
			m.seq.proposed(epoch, begin)
		}
	case "release":
		rel, ok := m.seq.close()
		if !ok {
			s.say("not serving")
			break
		}
		s.say("next revision %d, %d answers", rel.NextRevision, len(rel.Answers))
		if !d.HasArg("lost") {
			if res := s.append(id, rel); res.Rejection != kvdpb.PlacementResult_NONE {
				s.say("rejected: %s", res.Reason)
			}
		}
	case "crash":
		m.restart(m.seq.quorum)
		m.apply()
	case "pause":
		m.paused = true
	case "resume":
		m.paused = false
		if !d.HasArg("behind") {
			m.apply()
		}
	case "catch-up":
		m.apply()
	case "advance":
		var ms int
		d.ScanArgs(s.t, "ms", &ms)
		for _, o := range s.members {
			if m == nil || o == m {
				o.clock += time.Duration(ms) * time.Millisecond
			}
		}
	case "allocate", "current", "probe":
		var name string
		n, l := int64(0), mainLane
		d.ScanArgs(s.t, "name", &name)
		if d.Cmd == "allocate" {
			d.ScanArgs(s.t, "n", &n)
		}
		if d.Cmd == "probe" {
			l = probeLane
		}
		var auth uint64
		d.MaybeScanArgs(s.t, "auth", &auth)
		if d.HasArg("exempt") {
			auth = shard.AuthExempt
		}
		w, err := m.client.enqueue(l, n, auth)
		if err != nil {
			s.say("%v", err)
			break
		}
		m.callers = append(m.callers, &storyCaller{name, w})
	case "try":
		var n int64
		d.ScanArgs(s.t, "n", &n)
		var auth uint64
		d.MaybeScanArgs(s.t, "auth", &auth)
		switch g, ok, err := m.seq.try(n, auth); {
		case err != nil:
			s.say("%v", err)
		case ok:
			s.say("%d, %s", g.First, stampString(g.Stamp, time.Duration(id)*time.Hour))
		default:
			s.say("no")
		}
	case "auth":
		// a change of auth, as the owner has it applied
		s.authChanges++
		c := &kvdpb.AuthCommand{Id: s.authChanges, Checked: m.view.Auth.Version()}
		switch {
		case d.HasArg("on"):
			c.Change = &kvdpb.AuthCommand_Switch{Switch: &kvdpb.AuthSwitch{On: true, Secret: make([]byte, authstate.SecretBytes)}}
		case d.HasArg("user"):
			c.Change = &kvdpb.AuthCommand_AddUser{AddUser: &kvdpb.AuthPutUser{Name: "root", NoPassword: true}}
		case d.HasArg("grant"):
			c.Change = &kvdpb.AuthCommand_GrantRole{GrantRole: &kvdpb.AuthGrant{User: "root", Role: "root"}}
		case d.HasArg("role"):
			c.Change = &kvdpb.AuthCommand_AddRole{AddRole: &kvdpb.AuthName{Name: fmt.Sprint("role", s.authChanges)}}
		}
		if res := s.append(id, c); res.Rejection != kvdpb.PlacementResult_NONE {
			s.say("rejected: %s", res.Reason)
		} else {
			s.say("auth version %d", m.view.Auth.Version())
		}
	case "deliver", "drop", "duplicate":
		frames := m.wire
		if d.HasArg("one") {
			frames = m.wire[:1]
		}
		m.wire = slices.Clone(m.wire[len(frames):])
		for _, f := range frames {
			s.say("%s", s.frameString(f, id))
			if d.Cmd == "drop" {
				continue
			}
			if d.Cmd == "duplicate" {
				m.wire = append(m.wire, f)
			}
			if f.frame[0] == frameAsk {
				a, _ := decodeAsk(f.frame)
				m.seq.handle(f.from, a)
			} else {
				a, _ := decodeAnswer(f.frame)
				m.client.answer(&a)
			}
		}
	case "break", "mend":
		var peer uint64
		d.ScanArgs(s.t, "peer", &peer)
		m.broken[peer] = d.Cmd == "break"
		if m.broken[peer] {
			m.client.peerDown(peer)
		}
	case "timer":
		for l := range lanes {
			m.client.again(l)
		}
	case "renew-begin":
		var ok bool
		if m.renewal, ok = m.seq.renewBegin(); !ok {
			s.say("nothing to renew")
		}
		delete(m.wants, "renew")
	case "renew-end":
		if m.seq.renewEnd(m.renewal, !d.HasArg("failed")) {
			s.say("again")
		}
	case "extend", "retreat":
		var cmd *kvdpb.ExtendWindow
		var ok bool
		delete(m.wants, "window")
		if d.Cmd == "extend" {
			cmd, ok = m.seq.extension()
		} else {
			cmd, ok = m.seq.retreat()
		}
		if !ok {
			s.say("not needed")
			break
		}
		s.say("window to %d", cmd.End)
		switch {
		case d.HasArg("never"):
			m.seq.windowEnd(cmd, true)
		case d.HasArg("unknown"):
			m.late = cmd
			m.seq.windowEnd(cmd, false)
		default:
			if res := s.append(id, cmd); res.Rejection != kvdpb.PlacementResult_NONE {
				s.say("rejected: %s", res.Reason)
			}
			m.seq.windowEnd(cmd, false)
		}
	case "late":
		if res := s.append(id, m.late); res.Rejection != kvdpb.PlacementResult_NONE {
			s.say("rejected: %s", res.Reason)
		}
	case "compact":
		var rev int64
		d.ScanArgs(s.t, "revision", &rev)
		if res := s.append(id, &kvdpb.CompactHistory{Revision: rev}); res.Rejection != kvdpb.PlacementResult_NONE {
			s.say("rejected: %s", res.Reason)
		}
	case "show":
		q := &m.seq.mu
		var wants []string
		for w, on := range m.wants {
			if on {
				wants = append(wants, w)
			}
		}
		slices.Sort(wants)
		s.say("%s epoch=%d next=%d limit=%d leased=%v parked=%d wants=[%s]",
			[...]string{"idle", "claimed", "serving", "closed"}[q.phase], q.epoch, q.next, q.limit,
			m.seq.leasedLocked(m.clock), len(q.parked), strings.Join(wants, " "))
	default:
		d.Fatalf(s.t, "unknown command %s", d.Cmd)
	}
	s.collect()
	return lines(s.out)
}

func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s *story
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "cluster" {
				members := 3
				if d.HasArg("members") {
					d.ScanArgs(t, "members", &members)
				}
				s = newStory(t, members, d.HasArg("quorum"))
				return "ok\n"
			}
			s.t = t
			return s.run(d)
		})
	})
}
