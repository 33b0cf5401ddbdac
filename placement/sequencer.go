package placement

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/ownership"
)

// driftMargin is what a new sequencer waits beyond the lease of its predecessor,
// because the two measure with different clocks: one part in eight.
const driftMargin = ownership.LeaseDuration / 8

// renewAfter is the age at which a lease is renewed while there is traffic.
const renewAfter = ownership.LeaseDuration / 3

// identity names one run of one member.
type identity struct{ member, replica, incarnation uint64 }

// sequencer hands out revisions while this process owns the placement group. It
// is a decision core: it has a lock and a clock that is given to it, but no
// goroutine, timer or socket.
//
// What happens to it, in order:
//
//  1. observe sees a claim of this very process applied. The phase is claimed:
//     every ask is answered "not yet serving", which proves to waiting owners
//     that their claims applied before this epoch's first reading.
//  2. observe sees Serving applied. The next revision is the window end that the
//     predecessor left, and the window is empty: it is opened for the first
//     revision that is asked for. So an epoch that allots nothing, as they come
//     and go while a cluster starts on a slow machine, costs no revision however
//     it ends, and one that does pays a single entry for it.
//  3. An ask is answered when the clock, read under the lock that guards the
//     next revision, is inside the lease. If it is not, or the window is used
//     up, the ask is parked and the renewal or the extension is woken.
//     renewBegin and renewEnd enclose a ReadIndex: the lease begins at the clock
//     before it, and belongs to the epoch that stood before it.
//  4. close ends the epoch before a release is proposed; or observe sees another
//     owner. Parked asks are sent away.
//
// Invariants: next <= limit <= the applied window end. A lease never outlives its
// epoch: each claim resets it, so that a process which hands over and comes back
// finds no lease of its former self. Within an epoch next never falls, and
// nothing is handed out in the phases idle, claimed and closed.
//
// Reading the clock once per batch of waiting asks is enough, because all of them
// had arrived before. Reading it before taking the lock would not be: a pause
// between the two would hand out a stale "next" under a fresh-looking reading.
type sequencer struct {
	me     identity
	clock  func() time.Duration
	quorum bool
	// reply sends an answer; it is called without the lock.
	reply func(to uint64, a answer)
	// wakeRenew, wakeWindow ask the driver for work. They must not block.
	wakeRenew, wakeWindow func()
	stats                 *Counters

	mu struct {
		sync.Mutex
		phase phase
		epoch uint64
		// owner is the member that owns the epoch; zero if it released.
		owner uint64
		// readyAt ends the wait-out of a claimed epoch.
		readyAt time.Duration
		next    int64
		limit   int64
		// used tells that the epoch has allotted a revision.
		used bool
		// leased tells whether there is a lease, which began at begin.
		leased bool
		begin  time.Duration

		answers map[uint64]lastAnswer
		parked  []parked
		// arrivals numbers the asks that were parked.
		arrivals  uint64
		renewing  bool
		extending bool

		window window
		// shrinking is a proposed lower end of the window that may yet apply: it
		// binds from before it is proposed until the window of that sequence
		// number is applied.
		shrinking bool
		shrinkSeq uint64
		shrinkEnd int64
		seq       uint64
		applied   int64

		mapVersion      uint64
		authVersion     uint64
		compactRevision int64
	}
}

type phase uint8

const (
	// idle: another member owns the group, or none.
	idle phase = iota
	// claimed: the claim is applied, Serving is not.
	claimed
	// serving: Serving is applied.
	serving
	// closed: this process has ended its epoch.
	closed
)

// lastAnswer is the last main-lane answer given to a member. One that allotted
// less than was asked for was a refusal.
type lastAnswer struct {
	incarnation, number uint64
	first, count        int64
}

// parked is an ask that waits for a lease or a window.
type parked struct {
	from    uint64
	ask     ask
	arrival uint64
}

// outgoing is an answer on its way out of the lock.
type outgoing struct {
	to     uint64
	answer answer
}

// observe takes in a view that has just been applied. It is called in order, by
// the goroutine that applies.
func (s *sequencer) observe(v *View) {
	now := s.clock()
	s.mu.Lock()
	own := v.Ownership
	mine := own.IsOwner(s.me.member, s.me.replica, s.me.incarnation) && !own.Released
	s.mu.mapVersion = v.Map.Version()
	s.mu.authVersion = v.Auth.Version()
	s.mu.compactRevision = v.CompactRevision
	s.mu.seq = own.NextSeq
	var out []outgoing
	switch {
	case !mine:
		s.mu.phase = idle
		s.mu.epoch = own.Epoch
		s.mu.owner = own.Member
		if own.Released {
			s.mu.owner = 0
		}
		s.mu.leased = false
		out = s.sendAwayLocked()
	case own.Epoch != s.mu.epoch || s.mu.phase == idle:
		s.claimedLocked(v, now)
	}
	if mine {
		s.mu.applied = v.WindowEnd
		if s.mu.shrinking && s.mu.seq > s.mu.shrinkSeq {
			s.mu.shrinking = false
		}
		s.setLimitLocked()
		if own.Serving && s.mu.phase == claimed {
			s.mu.phase = serving
			s.mu.window.reset(now, s.mu.next)
		}
		if s.mu.phase == serving {
			out = s.serveLocked(now, s.mu.arrivals)
		}
	}
	s.mu.Unlock()
	s.send(out)
}

// claimedLocked begins an epoch of this process.
func (s *sequencer) claimedLocked(v *View, now time.Duration) {
	own := v.Ownership
	// A process that claims directly on its own epoch remembers what it handed
	// out: nobody else can have handed out anything since.
	direct := s.mu.phase == closed && own.Epoch == s.mu.epoch+1
	if !direct {
		s.mu.next = v.WindowEnd
		s.mu.used = false
		s.mu.answers = map[uint64]lastAnswer{}
		for _, a := range v.Released.GetAnswers() {
			s.mu.answers[a.Member] = lastAnswer{a.Incarnation, a.Number, a.First, int64(a.Count)}
		}
	}
	s.mu.phase = claimed
	s.mu.epoch = own.Epoch
	s.mu.owner = own.Member
	s.mu.leased = false
	s.mu.renewing, s.mu.extending, s.mu.shrinking = false, false, false
	s.mu.readyAt = now
	if own.MustWait {
		s.mu.readyAt = now + ownership.LeaseDuration + driftMargin
	}
}

func (s *sequencer) setLimitLocked() {
	s.mu.limit = s.mu.applied
	if s.mu.shrinking {
		s.mu.limit = min(s.mu.limit, s.mu.shrinkEnd)
	}
}

// try hands out n revisions, or reports the current one where n is zero, if that
// is possible at once. It is the way of callers on the sequencer's own member. An
// error says that auth is not at the version under which the caller was checked.
func (s *sequencer) try(n int64, auth uint64) (Grant, bool, error) {
	if s.quorum {
		return Grant{}, false, nil
	}
	s.mu.Lock()
	if s.mu.phase != serving {
		s.mu.Unlock()
		return Grant{}, false, nil
	}
	now := s.clock()
	if !s.leasedLocked(now) || s.mu.limit-s.mu.next < n {
		s.mu.Unlock()
		return Grant{}, false, nil
	}
	if n > 0 && auth != s.mu.authVersion && auth != shard.AuthExempt {
		s.mu.Unlock()
		return Grant{}, true, shard.ErrOldAuth
	}
	g := Grant{First: s.mu.next, Stamp: s.stampLocked(now)}
	if n == 0 {
		g.First--
	}
	s.advanceLocked(n)
	s.noticeLocked(now)
	s.mu.Unlock()
	return g, true, nil
}

// advanceLocked allots n revisions.
func (s *sequencer) advanceLocked(n int64) {
	s.mu.next += n
	s.mu.used = s.mu.used || n > 0
}

// lowLocked tells whether it is time to extend the window ahead of need.
func (s *sequencer) lowLocked() bool { return s.mu.used && s.mu.window.low(s.mu.limit-s.mu.next) }

// leasedLocked tells whether the lease holds at now.
func (s *sequencer) leasedLocked(now time.Duration) bool {
	return s.mu.leased && now < s.mu.begin+ownership.LeaseDuration
}

func (s *sequencer) stampLocked(now time.Duration) ownership.Stamp {
	return ownership.Stamp{
		SeqEpoch:        s.mu.epoch,
		Reading:         now,
		MapVersion:      s.mu.mapVersion,
		AuthVersion:     s.mu.authVersion,
		CompactRevision: s.mu.compactRevision,
	}
}

// noticeLocked wakes the renewal of an aged lease and the extension of a low
// window.
func (s *sequencer) noticeLocked(now time.Duration) {
	if !s.quorum && !s.mu.renewing && (!s.mu.leased || now >= s.mu.begin+renewAfter) {
		s.mu.renewing = true
		s.wakeRenew()
	}
	if !s.mu.extending && s.lowLocked() {
		s.mu.extending = true
		s.wakeWindow()
	}
}

// take takes in an ask. ok is false where there is no answer now: the ask is
// parked and will be answered through reply, or it is the late copy of one whose
// successor has been answered.
func (s *sequencer) take(from uint64, a ask) (out answer, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.mu.phase {
	case idle, closed:
		return s.strangerLocked(a), true
	case claimed:
		s.stats.NotServing.Add(1)
		return answer{lane: a.lane, verdict: notServing, incarnation: a.incarnation, number: a.number,
			stamp: ownership.Stamp{SeqEpoch: s.mu.epoch}}, true
	}
	if a.lane == mainLane {
		if last, ok := s.mu.answers[from]; ok && last.incarnation == a.incarnation && a.number < last.number {
			return answer{}, false
		}
	}
	now := s.clock()
	if !s.quorum && s.leasedLocked(now) {
		if out, ok := s.answerLocked(from, a, now); ok {
			s.noticeLocked(now)
			return out, true
		}
	}
	s.parkLocked(from, a)
	s.noticeParkedLocked(now)
	return answer{}, false
}

// handle takes in an ask and sends its answer.
func (s *sequencer) handle(from uint64, a ask) {
	if out, ok := s.take(from, a); ok {
		s.reply(from, out)
	}
}

// strangerLocked is the answer of a member that is not the sequencer.
func (s *sequencer) strangerLocked(a ask) answer {
	out := answer{lane: a.lane, verdict: notSequencer, incarnation: a.incarnation, number: a.number,
		stamp: ownership.Stamp{SeqEpoch: s.mu.epoch}}
	if s.mu.phase == idle {
		out.hint = s.mu.owner
	}
	return out
}

// answerLocked answers an ask, if the window allows. The caller has made sure of
// the lease.
func (s *sequencer) answerLocked(from uint64, a ask, now time.Duration) (answer, bool) {
	out := answer{lane: a.lane, verdict: answered, incarnation: a.incarnation, number: a.number, stamp: s.stampLocked(now)}
	if a.lane == probeLane {
		out.first = s.mu.next
		return out, true
	}
	if last, ok := s.mu.answers[from]; ok && last.incarnation == a.incarnation && last.number == a.number {
		out.first = last.first
		if last.count < a.count {
			out.verdict = refused
		}
		s.stats.Repeated.Add(1)
		return out, true
	}
	if a.count > 0 && a.auth != s.mu.authVersion && a.auth != shard.AuthExempt {
		// Nothing is allotted, and the answer stays this one however often the
		// message comes.
		out.verdict, out.first = refused, s.mu.next
		s.mu.answers[from] = lastAnswer{a.incarnation, a.number, out.first, 0}
		return out, true
	}
	if s.mu.limit-s.mu.next < a.count {
		return answer{}, false
	}
	out.first = s.mu.next
	s.advanceLocked(a.count)
	s.mu.answers[from] = lastAnswer{a.incarnation, a.number, out.first, a.count}
	return out, true
}

// parkLocked keeps an ask until it can be answered: one per member and lane, so
// the queue is bounded by the number of members.
func (s *sequencer) parkLocked(from uint64, a ask) {
	s.mu.arrivals++
	i := slices.IndexFunc(s.mu.parked, func(p parked) bool { return p.from == from && p.ask.lane == a.lane })
	switch {
	case i < 0:
		s.stats.Parked.Add(1)
		s.mu.parked = append(s.mu.parked, parked{from, a, s.mu.arrivals})
	case s.mu.parked[i].ask != a:
		s.mu.parked[i].ask, s.mu.parked[i].arrival = a, s.mu.arrivals
	}
}

// noticeParkedLocked wakes whatever the parked asks wait for.
func (s *sequencer) noticeParkedLocked(now time.Duration) {
	if !s.mu.renewing && (s.quorum || !s.leasedLocked(now)) {
		s.mu.renewing = true
		s.wakeRenew()
	}
	if !s.mu.extending && s.mu.limit-s.mu.next < s.needLocked() {
		s.mu.extending = true
		s.stats.WindowWaits.Add(1)
		s.wakeWindow()
	}
	if !s.quorum {
		s.noticeLocked(now)
	}
}

// needLocked is how many revisions the parked asks want together.
func (s *sequencer) needLocked() (n int64) {
	for i := range s.mu.parked {
		n += s.mu.parked[i].ask.count
	}
	return n
}

// serveLocked answers the parked asks that arrived up to upTo, if the lease
// holds. With quorum reads the caller has just proven the ownership for them.
func (s *sequencer) serveLocked(now time.Duration, upTo uint64) (out []outgoing) {
	if len(s.mu.parked) == 0 || s.quorum || !s.leasedLocked(now) {
		return nil
	}
	return s.answerParkedLocked(now, upTo)
}

func (s *sequencer) answerParkedLocked(now time.Duration, upTo uint64) (out []outgoing) {
	s.mu.parked = slices.DeleteFunc(s.mu.parked, func(p parked) bool {
		if p.arrival > upTo {
			return false
		}
		a, ok := s.answerLocked(p.from, p.ask, now)
		if ok {
			out = append(out, outgoing{p.from, a})
		}
		return ok
	})
	return out
}

// sendAwayLocked ends every parked ask.
func (s *sequencer) sendAwayLocked() (out []outgoing) {
	for _, p := range s.mu.parked {
		out = append(out, outgoing{p.from, s.strangerLocked(p.ask)})
	}
	s.mu.parked = nil
	return out
}

func (s *sequencer) send(out []outgoing) {
	for i := range out {
		s.reply(out[i].to, out[i].answer)
	}
}

// renewal is one ReadIndex on its way.
type renewal struct {
	epoch uint64
	begin time.Duration
	// upTo is the last ask that had arrived before it.
	upTo uint64
}

// renewBegin is called before a ReadIndex. ok is false if there is nothing to
// renew.
func (s *sequencer) renewBegin() (r renewal, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.phase != serving {
		s.mu.renewing = false
		return renewal{}, false
	}
	return renewal{epoch: s.mu.epoch, begin: s.clock(), upTo: s.mu.arrivals}, true
}

// renewEnd is called after a ReadIndex, once everything up to it is applied. It
// tells whether another one is needed at once.
func (s *sequencer) renewEnd(r renewal, proven bool) (again bool) {
	s.mu.Lock()
	// An epoch that has changed, even to a later one of this same process, makes
	// the proof void.
	if s.mu.phase != serving || s.mu.epoch != r.epoch {
		again = s.mu.phase == serving && len(s.mu.parked) > 0
		s.mu.renewing = again
		s.mu.Unlock()
		return again
	}
	now := s.clock()
	var out []outgoing
	if proven {
		s.stats.Renewals.Add(1)
		if s.quorum {
			out = s.answerParkedLocked(now, r.upTo)
		} else {
			s.leaseLocked(r.begin)
			out = s.serveLocked(now, s.mu.arrivals)
		}
	}
	if s.quorum {
		// Asks that wait for the window are proven anew once it is there.
		again = slices.ContainsFunc(s.mu.parked, func(p parked) bool { return p.arrival > r.upTo || !proven })
		if len(out) > 0 && !s.mu.extending && s.lowLocked() {
			s.mu.extending = true
			s.wakeWindow()
		}
	} else {
		again = len(s.mu.parked) > 0 && !s.leasedLocked(now)
	}
	s.mu.renewing = again
	s.mu.Unlock()
	s.send(out)
	return again
}

func (s *sequencer) leaseLocked(begin time.Duration) {
	if !s.mu.leased || begin > s.mu.begin {
		s.mu.leased, s.mu.begin = true, begin
	}
}

// proposed begins a lease at a reading taken before a command of the epoch was
// proposed that has now applied: like a ReadIndex it proves that no later claim
// had been committed at that reading.
func (s *sequencer) proposed(epoch uint64, begin time.Duration) {
	s.mu.Lock()
	var out []outgoing
	if s.mu.phase == serving && s.mu.epoch == epoch && !s.quorum {
		s.leaseLocked(begin)
		out = s.serveLocked(s.clock(), s.mu.arrivals)
	}
	s.mu.Unlock()
	s.send(out)
}

// extension plans the next window entry. ok is false if none is needed.
func (s *sequencer) extension() (cmd *kvdpb.ExtendWindow, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	need := s.needLocked()
	if s.mu.phase != serving || (!s.lowLocked() && s.mu.limit-s.mu.next >= need) {
		s.mu.extending = false
		return nil, false
	}
	s.mu.extending = true
	end := s.mu.next + s.mu.window.extend(s.clock(), need)
	return &kvdpb.ExtendWindow{Epoch: s.mu.epoch, Seq: s.mu.seq, End: max(end, s.mu.applied)}, true
}

// retreat plans to give back the end of a window that is larger than its use
// deserves. From here on nothing above the lower end is handed out. ok is false
// if the window may stay.
func (s *sequencer) retreat() (cmd *kvdpb.ExtendWindow, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.phase != serving || s.mu.extending || s.mu.shrinking {
		return nil, false
	}
	keep, ok := s.mu.window.shrink(s.clock(), s.mu.next, s.mu.limit-s.mu.next)
	if !ok {
		return nil, false
	}
	s.mu.extending = true
	s.mu.shrinking, s.mu.shrinkSeq, s.mu.shrinkEnd = true, s.mu.seq, s.mu.next+keep
	s.setLimitLocked()
	return &kvdpb.ExtendWindow{Epoch: s.mu.epoch, Seq: s.mu.seq, End: s.mu.shrinkEnd}, true
}

// windowEnd is called when the fate of a window entry is known, or will not be
// known. never means that it was not appended and never will be. It tells
// whether to look at the window again at once, and whether it is large enough
// to be looked at later.
func (s *sequencer) windowEnd(cmd *kvdpb.ExtendWindow, never bool) (again, later bool) {
	s.mu.Lock()
	var out []outgoing
	if s.mu.epoch == cmd.Epoch && s.mu.phase == serving {
		if never && s.mu.shrinking && s.mu.shrinkSeq == cmd.Seq && s.mu.shrinkEnd == cmd.End {
			s.mu.shrinking = false
			s.setLimitLocked()
		}
		remaining := s.mu.limit - s.mu.next
		again = s.lowLocked() || remaining < s.needLocked()
		later = watchful(remaining)
		now := s.clock()
		out = s.serveLocked(now, s.mu.arrivals)
		if s.quorum && len(s.mu.parked) > 0 && !s.mu.renewing {
			s.mu.renewing = true
			s.wakeRenew()
		}
	}
	s.mu.extending = again
	s.mu.Unlock()
	s.send(out)
	return again, later
}

// watchful tells whether the window is worth looking at once traffic stops.
func (s *sequencer) watchful() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.phase == serving && watchful(s.mu.limit-s.mu.next)
}

// waitOut returns how long the claimed epoch has still to wait, and the phase.
func (s *sequencer) waitOut(epoch uint64) (remaining time.Duration, ph phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.epoch != epoch {
		return 0, idle
	}
	return max(s.mu.readyAt-s.clock(), 0), s.mu.phase
}

// close ends the epoch: nothing is handed out or reported in it any more. It
// returns the release to propose; ok is false if this process does not serve.
func (s *sequencer) close() (rel *kvdpb.PlacementRelease, ok bool) {
	s.mu.Lock()
	if s.mu.phase != serving && s.mu.phase != closed {
		s.mu.Unlock()
		return nil, false
	}
	s.mu.phase = closed
	s.mu.leased = false
	rel = &kvdpb.PlacementRelease{Epoch: s.mu.epoch, NextRevision: s.mu.next}
	for _, member := range slices.Sorted(maps.Keys(s.mu.answers)) {
		a := s.mu.answers[member]
		rel.Answers = append(rel.Answers, &kvdpb.SequencerAnswer{
			Member: member, Incarnation: a.incarnation, Number: a.number, First: a.first, Count: uint64(a.count),
		})
	}
	out := s.sendAwayLocked()
	s.mu.Unlock()
	s.send(out)
	return rel, true
}
