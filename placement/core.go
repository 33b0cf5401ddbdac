package placement

import (
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// SequencerCore is the sequencer's decision core without a node, raft group or
// network around it, for whoever drives it in a time of his own: simulations of
// clusters that are larger than any machine. Its methods are the steps that [Node]
// takes, and asks and answers are encoded and decoded as on the wire.
//
// It must be used by one goroutine.
type SequencerCore struct {
	seq  *sequencer
	host SequencerHost
	// Stats are what a node counts.
	Stats Counters
	// AskBytes and AnswerBytes count the bytes of the messages.
	AskBytes, AnswerBytes uint64
	buf                   []byte
}

// SequencerHost is what a core needs.
type SequencerHost struct {
	// Clock is the sequencer's monotonic clock.
	Clock func() time.Duration
	// Reply takes the answer to a member's message: its revisions begin at first.
	// allotted is false if it was refused, because this is not the sequencer, or not
	// yet.
	Reply func(member, number uint64, first int64, allotted bool)
	// Renew asks for a renewal, Extend for a look at Extension. They are called from
	// within the core, and must not call it back at once.
	Renew, Extend func()
}

// coreIncarnation is that of every member that asks a core.
const coreIncarnation = 1

// NewSequencerCore returns the core of a member's process.
func NewSequencerCore(member, replica, incarnation uint64, host SequencerHost) *SequencerCore {
	c := &SequencerCore{host: host}
	c.seq = &sequencer{
		me: identity{member, replica, incarnation}, clock: host.Clock, reply: c.reply,
		wakeRenew: host.Renew, wakeWindow: host.Extend, stats: &c.Stats,
	}
	return c
}

func (c *SequencerCore) reply(to uint64, a answer) {
	c.buf = appendAnswer(c.buf[:0], &a)
	c.AnswerBytes += uint64(len(c.buf))
	got, err := decodeAnswer(c.buf)
	c.host.Reply(to, a.number, got.first, err == nil && got.verdict == answered)
}

// Observe takes in a view that was just applied.
func (c *SequencerCore) Observe(v *View) { c.seq.observe(v) }

// Ask takes in a member's message, which wants so many revisions; none to be told
// the current one. The answer comes by SequencerHost.Reply, now or later.
func (c *SequencerCore) Ask(member, number uint64, count int64) error {
	c.buf = appendAsk(c.buf[:0], &ask{incarnation: coreIncarnation, number: number, count: count, auth: shard.AuthExempt})
	c.AskBytes += uint64(len(c.buf))
	a, err := decodeAsk(c.buf)
	if err != nil {
		return err
	}
	c.seq.handle(member, a)
	return nil
}

// Try is how callers on the sequencer's own member ask: a function call. ok is false
// if there is no answer at once.
func (c *SequencerCore) Try(count int64) (first int64, ok bool) {
	g, ok, err := c.seq.try(count, shard.AuthExempt)
	return g.First, ok && err == nil
}

// Renewal is called before a ReadIndex; end after it, with whether it succeeded, and
// tells whether another one is needed at once. ok is false if there is nothing to
// renew.
func (c *SequencerCore) Renewal() (end func(proven bool) (again bool), ok bool) {
	r, ok := c.seq.renewBegin()
	return func(proven bool) bool { return c.seq.renewEnd(r, proven) }, ok
}

// Extension plans the next window entry. ok is false if none is needed.
func (c *SequencerCore) Extension() (cmd *kvdpb.PlacementCommand, ok bool) {
	w, ok := c.seq.extension()
	return command(w), ok
}

// Retreat plans to give back the end of a window that is larger than its use
// deserves. watchful tells whether to look again later where it may stay.
func (c *SequencerCore) Retreat() (cmd *kvdpb.PlacementCommand, ok, watchful bool) {
	w, ok := c.seq.retreat()
	return command(w), ok, c.seq.watchful()
}

// WindowEnd is called once a window entry is applied and observed. It tells whether
// to look at Extension again at once, and whether to look at Retreat later.
func (c *SequencerCore) WindowEnd(cmd *kvdpb.PlacementCommand) (again, later bool) {
	return c.seq.windowEnd(cmd.GetExtendWindow(), false)
}

// WindowIdle is how much later that is.
const WindowIdle = windowIdle

// Next is the next revision, Remembered how many members' last answers are kept.
func (c *SequencerCore) Next() (next int64, remembered int) {
	c.seq.mu.Lock()
	defer c.seq.mu.Unlock()
	return c.seq.mu.next, len(c.seq.mu.answers)
}
