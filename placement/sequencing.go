package placement

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kvd-io/kvd/shard/ownership"
	"go.uber.org/zap"
)

// Allocate allots n consecutive revisions; Grant.First is the smallest. It waits
// for a sequencer that serves. Ending ctx after the message has left loses the
// revisions: only an owner that has been deposed may do so. auth is the auth
// version under which the writers were checked, shard.AuthExempt for kvd's own:
// shard.ErrOldAuth says that it is not the present one, and nothing is allotted.
func (n *Node) Allocate(ctx context.Context, count int, auth uint64) (Grant, error) {
	if count <= 0 {
		return Grant{}, fmt.Errorf("placement: allocation of %d revisions", count)
	}
	return n.ask(ctx, int64(count), auth)
}

// Current answers the largest revision that was allotted, from a message that
// left after the call. It waits for a sequencer that serves.
func (n *Node) Current(ctx context.Context) (Grant, error) { return n.ask(ctx, 0, 0) }

// TryCurrent is Current where it is a function call: on the sequencer's member,
// inside its lease.
func (n *Node) TryCurrent() (Grant, bool) {
	if n.client.waiting.Load() != 0 {
		return Grant{}, false
	}
	g, ok, _ := n.seq.try(0, 0)
	return g, ok
}

func (n *Node) ask(ctx context.Context, count int64, auth uint64) (Grant, error) {
	if count <= maxAllocate && n.client.waiting.Load() == 0 {
		if g, ok, err := n.seq.try(count, auth); ok {
			return g, err
		}
	}
	return n.client.request(ctx, mainLane, count, auth)
}

// Probe answers a reading of the sequencer's clock, or *ownership.ErrNotServing
// from a sequencer that has claimed and does not serve yet. The message left
// after the call.
func (n *Node) Probe(ctx context.Context) (ownership.Stamp, error) {
	g, err := n.client.request(ctx, probeLane, 0, 0)
	return g.Stamp, err
}

// post gives an ask to a member. The own member answers at once where it can.
func (n *Node) post(to uint64, a ask) (answer, bool, error) {
	if to == n.cfg.Member {
		out, now := n.seq.take(to, a)
		return out, now, nil
	}
	buf := frames.Get().(*[]byte)
	defer frames.Put(buf)
	*buf = appendAsk((*buf)[:0], &a)
	return answer{}, false, n.cfg.Send(to, *buf)
}

var frames = sync.Pool{New: func() any { b := make([]byte, 0, 64); return &b }}

// reply sends an answer. One that does not arrive is asked for again.
func (n *Node) reply(to uint64, a answer) {
	if to == n.cfg.Member {
		n.client.answer(&a)
		return
	}
	buf := frames.Get().(*[]byte)
	defer frames.Put(buf)
	*buf = appendAnswer((*buf)[:0], &a)
	if err := n.cfg.Send(to, *buf); err != nil {
		n.log.Debug("placement: answer could not be sent", zap.Uint64("member", to), zap.Error(err))
	}
}

// HandleFrame takes in a frame of another member whose first byte is at most
// FrameKindMax. The frame is used only during the call.
func (n *Node) HandleFrame(from uint64, frame []byte) {
	if err := n.handleFrame(from, frame); err != nil {
		n.stats.Malformed.Add(1)
		n.log.Debug("placement: frame refused", zap.Uint64("member", from), zap.Error(err))
	}
}

func (n *Node) handleFrame(from uint64, frame []byte) error {
	if len(frame) == 0 {
		return errFrame
	}
	switch frame[0] {
	case frameAsk:
		a, err := decodeAsk(frame)
		if err != nil {
			return err
		}
		n.leaving.alive(from, a.incarnation)
		n.seq.handle(from, a)
	case frameAnswer:
		a, err := decodeAnswer(frame)
		if err != nil {
			return err
		}
		n.client.answer(&a)
	case frameLeave:
		l, err := decodeLeave(frame)
		if err != nil {
			return err
		}
		n.leaving.heard(from, l)
		if l.stage == drained {
			n.yields.ring()
		}
	case frameTake:
		t, err := decodeTake(frame)
		if err != nil {
			return err
		}
		n.takeOver.Store(t.epoch)
		n.tend.ring()
	default:
		return fmt.Errorf("%w: kind %#x", errFrame, frame[0])
	}
	return nil
}

// PeerDown tells that the request connection to a member was lost: what was on
// its way is of unknown fate and is sent again.
func (n *Node) PeerDown(member uint64) { n.client.peerDown(member) }

// runRenewal performs the ReadIndexes that the sequencer asks for.
func (n *Node) runRenewal() {
	p := newPause(soon, later)
	defer p.stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.renew:
		}
		for {
			r, ok := n.seq.renewBegin()
			if !ok {
				break
			}
			err := n.readIndex()
			if err != nil {
				n.stats.RenewalFailures.Add(1)
				// The next caller would try at once; this bounds how often.
				select {
				case <-n.ctx.Done():
					return
				case <-p.after():
				}
			} else {
				p.reset()
			}
			if !n.seq.renewEnd(r, err == nil) {
				break
			}
		}
	}
}

func (n *Node) readIndex() error {
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.Election)
	defer cancel()
	return n.cfg.Raft.ReadIndex(ctx)
}

// runWindow proposes the window entries that the sequencer asks for, and gives
// back windows that have become too large.
func (n *Node) runWindow() {
	p := newPause(soon, later)
	defer p.stop()
	idle := newPause(windowIdle, windowIdle)
	defer idle.stop()
	// relook is set while the window is larger than an idle sequencer's.
	var relook <-chan time.Time
	for {
		cmd, ok := n.seq.extension()
		if !ok {
			select {
			case <-n.ctx.Done():
				return
			case <-n.extend:
				continue
			case <-relook:
				relook = nil
				if cmd, ok = n.seq.retreat(); !ok {
					if n.seq.watchful() {
						relook = idle.after()
					}
					continue
				}
			}
		}
		out := n.propose(command(cmd))
		again, later := n.seq.windowEnd(cmd, out.Fate == NotAppended)
		if later {
			relook = idle.after()
		}
		if out.ok() {
			n.stats.Windows.Add(1)
			p.reset()
			continue
		}
		n.stats.Rejected.Add(1)
		if again {
			select {
			case <-n.ctx.Done():
				return
			case <-p.after():
			}
		}
	}
}
