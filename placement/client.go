package placement

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/ownership"
)

// ErrBusy says that too many callers wait for the sequencer.
var ErrBusy = errors.New("placement: too many requests wait for the sequencer")

// ErrClosed says that the node was closed.
var ErrClosed = errors.New("placement: node is closed")

const (
	// maxWaiting bounds the callers that wait on one lane.
	maxWaiting = 1 << 16
	// maxAllocate bounds what one caller may ask for.
	maxAllocate = 1 << 16

	// soon and later are the bounds of the wait before a message is sent again
	// that could not be delivered, or that reached a member which is not the
	// sequencer or does not serve yet.
	soon  = 10 * time.Millisecond
	later = 160 * time.Millisecond
)

// client is one member's way to the sequencer. It gathers what the member's
// callers want while a message is on its way, and sends that as the next one: so
// there is one message at a time, and none waits when nothing is on its way.
//
// Rules:
//
//  1. Which callers a message serves is fixed when it first leaves. Whoever comes
//     later waits for the next one.
//  2. A message of the main lane keeps its number however often and to whomever
//     it is sent, so that the same sequencer, or the one it handed over to in
//     order, gives the same revisions. A probe allots nothing and gets a new
//     number each time, for all who wait by then.
//  3. An answer counts if its number is that of the message under way. Late ones
//     are dropped: the callers they were meant for have been served.
//  4. Allocate and Current share the main lane in order of arrival: a caller's
//     answer is as if each caller had been served alone, in that order.
//  5. A message asks under one auth version. If the sequencer's is another one it
//     allots nothing: those who wanted revisions get shard.ErrOldAuth, those who
//     only wanted the current one get it.
type client struct {
	me          uint64
	incarnation uint64
	// post gives an ask to a member. For the own member it answers at once where
	// it can. An error means that the ask was not sent.
	post func(to uint64, a ask) (out answer, now bool, err error)
	// sequencer names the member to ask, and the epoch of which that is known.
	sequencer func() (member, epoch uint64)
	// retryAfter is how long an answer may take before the message is sent again.
	retryAfter time.Duration
	// newTimer makes a timer that is not running and calls f when it ends.
	newTimer func(f func()) timer
	stats    *Counters
	closed   chan struct{}
	// waiters keeps waiters for the next callers.
	waiters sync.Pool
	// waiting counts the callers on the main lane that have no answer, so that a
	// function call does not overtake them.
	waiting atomic.Int64

	mu struct {
		sync.Mutex
		lanes [lanes]laneState
		// hint is what a member that is no sequencer said about who is.
		hint struct{ member, epoch uint64 }
	}
}

type laneState struct {
	queue []*waiter
	// flight holds the callers of the message under way, in order.
	flight []*waiter
	busy   bool
	ask    ask
	// target is whom the message was last sent to, as the sequencer of epoch.
	target, epoch uint64
	// tries counts the sendings of the message that came to nothing.
	tries int
	// patient is set while the message is believed to be on its way to a serving
	// sequencer.
	patient bool
	timer   timer
}

// timer is what a client uses of a time.Timer.
type timer interface {
	Reset(d time.Duration) bool
	Stop() bool
}

// newTimer is client.newTimer in earnest.
func newTimer(f func()) timer {
	t := time.AfterFunc(time.Hour, f)
	t.Stop()
	return t
}

// waiter is one caller.
type waiter struct {
	// n is how many revisions it wants; zero for the current one.
	n      int64
	offset int64
	// auth is the version under which it was checked, if it wants revisions.
	auth uint64
	done chan outcome
}

type outcome struct {
	grant Grant
	err   error
}

// request waits for an answer to a message that leaves after the call.
func (c *client) request(ctx context.Context, l lane, n int64, auth uint64) (Grant, error) {
	w, err := c.enqueue(l, n, auth)
	if err != nil {
		return Grant{}, err
	}
	select {
	case o := <-w.done:
		c.waiters.Put(w)
		return o.grant, o.err
	case <-ctx.Done():
		return c.leave(l, w, ctx.Err())
	case <-c.closed:
		return c.leave(l, w, ErrClosed)
	}
}

// enqueue puts a caller into the queue, and sends a message if none is under way.
func (c *client) enqueue(l lane, n int64, auth uint64) (*waiter, error) {
	if n < 0 || n > maxAllocate {
		return nil, fmt.Errorf("placement: allocation of %d revisions", n)
	}
	c.mu.Lock()
	ls := &c.mu.lanes[l]
	if len(ls.queue) >= maxWaiting {
		c.mu.Unlock()
		return nil, ErrBusy
	}
	w, _ := c.waiters.Get().(*waiter)
	if w == nil {
		w = &waiter{done: make(chan outcome, 1)}
	}
	w.n, w.offset, w.auth = n, 0, auth
	ls.queue = append(ls.queue, w)
	c.countLocked(l, 1)
	ready := c.nextLocked(l)
	c.mu.Unlock()
	if ready {
		c.drive(l)
	}
	return w, nil
}

// countLocked counts the callers that have no answer yet. Those that have one and
// have not run since do not count, or a crowd would keep itself from the short
// way for ever.
func (c *client) countLocked(l lane, n int) {
	if l == mainLane {
		c.waiting.Add(int64(n))
	}
}

// leave takes a caller out of the queue. A caller whose message has left gets its
// answer if it is here already; if not, what will be allotted to it is lost.
func (c *client) leave(l lane, w *waiter, err error) (Grant, error) {
	c.mu.Lock()
	ls := &c.mu.lanes[l]
	if i := slices.Index(ls.queue, w); i >= 0 {
		ls.queue = slices.Delete(ls.queue, i, i+1)
		c.countLocked(l, -1)
	}
	c.mu.Unlock()
	select {
	case o := <-w.done:
		return o.grant, o.err
	default:
		return Grant{}, err
	}
}

// nextLocked makes a message of the callers that wait, if none is under way. Those
// that want revisions share the version under which they were checked.
func (c *client) nextLocked(l lane) bool {
	ls := &c.mu.lanes[l]
	if ls.busy || len(ls.queue) == 0 {
		return false
	}
	count, taken, auth := int64(0), 0, uint64(0)
	for _, w := range ls.queue {
		if count+w.n > maxCount || (count > 0 && w.n > 0 && w.auth != auth) {
			break
		}
		if w.n > 0 {
			auth = w.auth
		}
		w.offset = count
		count += w.n
		taken++
	}
	ls.flight = append(ls.flight[:0], ls.queue[:taken]...)
	rest := copy(ls.queue, ls.queue[taken:])
	clear(ls.queue[rest:])
	ls.queue = ls.queue[:rest]
	ls.busy = true
	ls.tries = 0
	ls.ask = ask{lane: l, incarnation: c.incarnation, number: ls.ask.number + 1, count: count, auth: auth}
	c.stats.Messages.Add(1)
	return true
}

// drive sends the message under way, and, as long as answers come at once, those
// that follow it.
func (c *client) drive(l lane) {
	for {
		target, epoch := c.target()
		c.mu.Lock()
		ls := &c.mu.lanes[l]
		if !ls.busy {
			c.mu.Unlock()
			return
		}
		a := ls.ask
		ls.target, ls.epoch = target, epoch
		ls.patient = target != 0
		if target == 0 {
			c.backOffLocked(l)
			c.mu.Unlock()
			return
		}
		if target != c.me {
			c.armLocked(l, c.retryAfter)
		}
		c.mu.Unlock()

		out, now, err := c.post(target, a)
		switch {
		case err != nil:
			c.failed(l, a.number)
			return
		case !now:
			if target == c.me {
				c.await(l, a.number)
			}
			return
		case !c.answerFrom(&out, epoch):
			return
		}
	}
}

// target is the member to ask: the one that the applied state names, unless a
// member that is ahead named another.
func (c *client) target() (member, epoch uint64) {
	member, epoch = c.sequencer()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.hint.epoch > epoch && c.mu.hint.member != 0 {
		return c.mu.hint.member, c.mu.hint.epoch
	}
	return member, epoch
}

// await arms the timer of a message that the own member has parked.
func (c *client) await(l lane, number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ls := &c.mu.lanes[l]; ls.busy && ls.ask.number == number {
		c.armLocked(l, c.retryAfter)
	}
}

// failed notes that a message could not be sent.
func (c *client) failed(l lane, number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ls := &c.mu.lanes[l]; ls.busy && ls.ask.number == number {
		c.backOffLocked(l)
	}
}

// backOffLocked sends the message again after a while.
func (c *client) backOffLocked(l lane) {
	ls := &c.mu.lanes[l]
	ls.patient = false
	wait := min(soon<<min(ls.tries, 8), later)
	ls.tries++
	c.armLocked(l, wait)
}

func (c *client) armLocked(l lane, d time.Duration) {
	ls := &c.mu.lanes[l]
	if ls.timer == nil {
		ls.timer = c.newTimer(func() { c.again(l) })
	}
	ls.timer.Reset(d)
}

// again sends the message under way once more.
func (c *client) again(l lane) {
	select {
	case <-c.closed:
		return
	default:
	}
	c.mu.Lock()
	ready := c.againLocked(l)
	c.mu.Unlock()
	if ready {
		c.drive(l)
	}
}

// againLocked prepares the message under way to be sent once more.
func (c *client) againLocked(l lane) bool {
	ls := &c.mu.lanes[l]
	if !ls.busy {
		return false
	}
	c.stats.Resent.Add(1)
	if l == probeLane {
		// A probe leaves its answer to nobody in particular: whoever waits by now
		// may join, under a number of its own.
		ls.ask.number++
		ls.flight = append(ls.flight, ls.queue...)
		clear(ls.queue)
		ls.queue = ls.queue[:0]
	}
	return true
}

// kick sends again what waits for a sequencer, after news about who that is.
func (c *client) kick() {
	target, epoch := c.target()
	for l := range lanes {
		c.mu.Lock()
		ls := &c.mu.lanes[l]
		ready := ls.busy && target != 0 && (target != ls.target || epoch != ls.epoch || !ls.patient)
		if ready {
			ls.tries = 0
			ready = c.againLocked(l)
		}
		c.mu.Unlock()
		if ready {
			c.drive(l)
		}
	}
}

// peerDown sends again what was on its way to a member whose connection is lost.
func (c *client) peerDown(member uint64) {
	for l := range lanes {
		c.mu.Lock()
		ready := false
		if ls := &c.mu.lanes[l]; ls.busy && ls.target == member && ls.patient {
			ready = c.againLocked(l)
		}
		c.mu.Unlock()
		if ready {
			c.drive(l)
		}
	}
}

// answer takes in an answer that did not come at once.
func (c *client) answer(a *answer) {
	_, epoch := c.target()
	if c.answerFrom(a, epoch) {
		c.drive(a.lane)
	}
}

// answerFrom takes in an answer. It tells whether there is a message to send now.
// known is the epoch of which the present target is known.
func (c *client) answerFrom(a *answer, known uint64) bool {
	c.mu.Lock()
	ls := &c.mu.lanes[a.lane]
	if !ls.busy || a.number != ls.ask.number || a.incarnation != c.incarnation {
		c.mu.Unlock()
		c.stats.Late.Add(1)
		return false
	}
	switch {
	case a.verdict == notSequencer:
		defer c.mu.Unlock()
		if a.hint != 0 && a.stamp.SeqEpoch > max(known, c.mu.hint.epoch) {
			c.mu.hint.member, c.mu.hint.epoch = a.hint, a.stamp.SeqEpoch
			return c.againLocked(a.lane)
		}
		c.backOffLocked(a.lane)
		return false
	case a.verdict == notServing && a.lane == mainLane:
		// Callers of this lane wait until somebody serves.
		defer c.mu.Unlock()
		c.backOffLocked(a.lane)
		return false
	}
	if ls.timer != nil {
		ls.timer.Stop()
	}
	ls.busy = false
	c.countLocked(a.lane, -len(ls.flight))
	for i, w := range ls.flight {
		o := outcome{grant: Grant{First: a.first + w.offset, Stamp: a.stamp}}
		if a.verdict == refused {
			// Nothing was allotted to those before it either.
			o.grant.First = a.first
		}
		if w.n == 0 {
			o.grant.First--
		}
		switch {
		case a.verdict == notServing:
			o = outcome{err: &ownership.ErrNotServing{SeqEpoch: a.stamp.SeqEpoch}}
		case a.verdict == refused && w.n > 0:
			o = outcome{err: shard.ErrOldAuth}
		}
		// The channel holds one and a waiter gets one answer: this never blocks.
		w.done <- o
		ls.flight[i] = nil
	}
	ready := c.nextLocked(a.lane)
	c.mu.Unlock()
	return ready
}

// close ends all waits.
func (c *client) close() {
	close(c.closed)
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range lanes {
		if t := c.mu.lanes[l].timer; t != nil {
			t.Stop()
		}
	}
}
