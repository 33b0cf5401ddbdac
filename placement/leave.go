package placement

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.uber.org/zap"
)

// leaving follows which members are stopping.
//
// When all members stop at once, each of them must stay until the others have
// finished what they began: a majority is needed to commit that, and to log the
// exact next revision (a clean restart skips none). When members stop one after
// another, the one with which the majority goes must stay until the sequencer,
// which cannot go on without it, has released. When one member stops alone,
// nobody waits.
//
// What is known here may be wrong: messages get lost, members crash. It costs at
// most a bounded wait or a gap in the revisions.
type leaving struct {
	sync.Mutex
	// count is the number of others, to be looked at without the lock.
	count atomic.Int64
	own   leaveStage
	// since is when this member began to stop.
	since time.Time
	// others holds what members said that are not staying.
	others map[uint64]leave
	// changed is closed and replaced with each change.
	changed chan struct{}
}

func newLeaving() *leaving {
	return &leaving{others: map[uint64]leave{}, changed: make(chan struct{})}
}

func (l *leaving) changedLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// heard takes in what a member says of itself. A message that is about to be
// overtaken by a new run of the member does no harm: that one says so first.
func (l *leaving) heard(from uint64, m leave) {
	l.Lock()
	defer l.Unlock()
	old := l.others[from]
	if old.incarnation == m.incarnation && m.stage < old.stage {
		return
	}
	l.others[from] = m
	if m.stage == staying {
		delete(l.others, from)
	}
	l.count.Store(int64(len(l.others)))
	l.changedLocked()
}

// alive takes note of a sign of life: a member that has said that it stops, and
// now runs under another incarnation, is back.
func (l *leaving) alive(from, incarnation uint64) {
	if l.count.Load() == 0 {
		return
	}
	l.Lock()
	old, ok := l.others[from]
	l.Unlock()
	if ok && old.incarnation != incarnation {
		l.heard(from, leave{stage: staying, incarnation: incarnation})
	}
}

// majorityStays tells whether a majority of the voters has not said that it
// stops.
func (l *leaving) majorityStays(self uint64, members []*kvdpb.Member) bool {
	l.Lock()
	defer l.Unlock()
	voters, stay := 0, 0
	for _, m := range members {
		if !m.Votes {
			continue
		}
		voters++
		_, leaves := l.others[m.Id]
		if !leaves && (m.Id != self || l.own == staying) {
			stay++
		}
	}
	return stay > voters/2
}

func (l *leaving) stage() leaveStage {
	l.Lock()
	defer l.Unlock()
	return l.own
}

// advance moves this member on; it never goes back.
func (l *leaving) advance(s leaveStage) {
	l.Lock()
	defer l.Unlock()
	if s > l.own {
		if l.own == staying {
			l.since = time.Now()
		}
		l.own = s
		l.changedLocked()
	}
}

// pending lists the members that are stopping and have not drained.
func (l *leaving) pending() (members []uint64, changed <-chan struct{}) {
	l.Lock()
	defer l.Unlock()
	for id, m := range l.others {
		if m.stage == stopping {
			members = append(members, id)
		}
	}
	return members, l.changed
}

// leaves tells whether a member is stopping.
func (l *leaving) leaves(member uint64) bool {
	l.Lock()
	defer l.Unlock()
	return l.others[member].stage != staying
}

// began tells when this member began to stop.
func (l *leaving) began() time.Time {
	l.Lock()
	defer l.Unlock()
	return l.since
}

const (
	// announceGrace is how long after Stopping the announcements of members that
	// are stopped at the same moment are let arrive.
	announceGrace = 150 * time.Millisecond
	// drainPatience is how long Release waits for others that stop, if its context
	// has no deadline.
	drainPatience = 5 * time.Second
)

// Stopping announces that this member begins no new work: it claims the group no
// more. Call it first when stopping.
func (n *Node) Stopping() {
	n.leaving.advance(stopping)
	n.announce(stopping)
}

// announce tells all other members how far this one is.
func (n *Node) announce(s leaveStage) {
	frame := appendLeave(nil, leave{stage: s, incarnation: n.cfg.Incarnation})
	for _, m := range n.Members() {
		if m.Id == n.cfg.Member {
			continue
		}
		// A member that cannot be reached needs nobody to wait for it.
		if err := n.cfg.Send(m.Id, frame); err != nil {
			n.log.Debug("placement: could not tell a member of the stop", zap.Uint64("member", m.Id), zap.Error(err))
		}
	}
}

// Release ends this member's part in order, after its shards have drained and
// released: a sequencer logs the exact next revision and hands over. It returns
// when this member may stop its raft replicas, which is when all members that
// are stopping too have drained; or with ctx's error, after which stopping is
// still safe but may skip revisions.
func (n *Node) Release(ctx context.Context) error {
	n.Stopping()
	var errs []error
	if n.owns(n.View().Ownership) {
		// Members that stop at the same moment still need revisions and readings
		// for what they have begun. Whoever hangs must not cost the release.
		patience := drainPatience
		if deadline, ok := ctx.Deadline(); ok {
			patience = time.Until(deadline) / 2
		}
		short, cancel := context.WithTimeout(ctx, patience)
		if err := n.awaitDrained(short); err != nil {
			errs = append(errs, err)
		}
		cancel()
		if err := n.release(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	n.leaving.advance(drained)
	n.announce(drained)
	if err := n.awaitDrained(ctx); err != nil {
		errs = append(errs, err)
	}
	if n.leaving.majorityStays(n.cfg.Member, n.Members()) {
		n.moveOn(ctx)
	} else if err := n.awaitReleased(ctx); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// awaitReleased waits until the sequencer has released, because the majority goes
// with this member: without it not even that could be logged.
func (n *Node) awaitReleased(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, 2*n.cfg.Election)
	defer cancel()
	for {
		changed := n.next()
		own := n.View().Ownership
		if own.Epoch == 0 || own.Released || !own.Serving {
			return nil
		}
		select {
		case <-short.Done():
			return fmt.Errorf("wait for the sequencer to release: %w", short.Err())
		case <-n.ctx.Done():
			return ErrClosed
		case <-changed:
		}
	}
}

// yield releases the sequencer when the majority leaves: it could not go on, and
// must not lose the rest of its window. It claims again after a while, if raft
// still finds a majority.
func (n *Node) yield() {
	if n.leaving.stage() != staying || n.leaving.majorityStays(n.cfg.Member, n.Members()) || !n.Serving() || n.hold.Swap(true) {
		return
	}
	n.log.Info("placement: a majority of members stops")
	ctx, cancel := context.WithTimeout(n.ctx, 2*n.cfg.Election)
	defer cancel()
	if err := n.release(ctx); err != nil {
		n.log.Info("placement: could not release before the majority stopped", zap.Error(err))
	}
	<-ctx.Done()
	n.hold.Store(false)
	n.tend.ring()
}

func (n *Node) runYield() {
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.yields:
			n.yield()
		}
	}
}

// runGreeting tells each other member once that this one is back, for those who
// remember that its former self stopped.
func (n *Node) runGreeting() {
	frame := appendLeave(nil, leave{stage: staying, incarnation: n.cfg.Incarnation})
	greeted := map[uint64]bool{n.cfg.Member: true}
	p := newPause(soon, time.Second)
	defer p.stop()
	for {
		changed := n.next()
		members := n.Members()
		for _, m := range members {
			if n.leaving.stage() != staying {
				return
			}
			greeted[m.Id] = greeted[m.Id] || n.cfg.Send(m.Id, frame) == nil
		}
		var again <-chan time.Time
		if len(members) == 0 || slices.ContainsFunc(members, func(m *kvdpb.Member) bool { return !greeted[m.Id] }) {
			again = p.after()
		} else {
			p.reset()
		}
		select {
		case <-n.ctx.Done():
			return
		case <-changed:
			// A member that was added is greeted too: every member keeps a connection
			// to every other one, and knows how long it has had it.
		case <-again:
		}
	}
}

// awaitDrained waits until no other member is between stopping and drained.
func (n *Node) awaitDrained(ctx context.Context) error {
	wait := announceGrace - time.Since(n.leaving.began())
	if len(n.Members()) < 2 {
		wait = 0
	}
	grace := time.NewTimer(wait)
	defer grace.Stop()
	for graced := wait <= 0; ; {
		members, changed := n.leaving.pending()
		if len(members) == 0 && graced {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d stopping members: %w", len(members), ctx.Err())
		case <-n.ctx.Done():
			return ErrClosed
		case <-changed:
		case <-grace.C:
			graced = true
		}
	}
}

// release logs the end of this process's epoch.
func (n *Node) release(ctx context.Context) error {
	// However long the rest of the stop took, this is worth a try.
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < n.cfg.Election {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), n.cfg.Election)
		defer cancel()
	}
	return n.retry(ctx, func(ctx context.Context) (bool, error) {
		own := n.View().Ownership
		if !n.owns(own) {
			return true, nil
		}
		rel, ok := n.seq.close()
		if !ok {
			// Claimed, not serving: the successor inherits the wait.
			return true, nil
		}
		out := n.proposeIn(ctx, command(rel))
		if out.ok() {
			n.log.Info("placement: released the sequencer", zap.Uint64("epoch", rel.Epoch), zap.Int64("next_revision", rel.NextRevision))
			return true, nil
		}
		return false, n.failed("release", out)
	})
}

// moveOn hands raft leadership to a member that stays, so that the others need
// not wait for an election.
func (n *Node) moveOn(ctx context.Context) {
	for _, m := range n.Members() {
		if m.Id == n.cfg.Member || n.leaving.leaves(m.Id) {
			continue
		}
		short, cancel := context.WithTimeout(ctx, n.cfg.Election)
		err := n.pass(short, m)
		cancel()
		if err == nil {
			return
		}
		n.log.Info("placement: leadership was not taken over", zap.Uint64("member", m.Id), zap.Error(err))
	}
}

// pass passes raft leadership of a released group to another member. It returns
// when this member's replica leads no more.
func (n *Node) pass(ctx context.Context, to *kvdpb.Member) error {
	epoch := n.View().Ownership.Epoch
	return n.retry(ctx, func(context.Context) (bool, error) {
		if leader, _ := n.cfg.Raft.Leader(); leader != n.cfg.Replica {
			return true, nil
		}
		// Raft's own hand-over is lost if the other replica has not applied all that
		// is committed, as is likely right behind the release. So the other member
		// is asked to campaign when it has.
		if err := n.cfg.Send(to.Id, appendTake(nil, take{epoch})); err != nil {
			return false, errors.Join(err, n.cfg.Raft.TransferLeader(to.Replica))
		}
		return false, nil
	})
}

// HandOver releases the sequencer and passes raft leadership to another member,
// which then claims without a wait.
func (n *Node) HandOver(ctx context.Context, to uint64) error {
	m := n.View().Member(to)
	if m == nil || to == n.cfg.Member {
		return fmt.Errorf("placement: hand over to member %016x: no such other member", to)
	}
	if n.hold.Swap(true) {
		return errors.New("placement: hand over: another one is under way")
	}
	defer func() {
		n.hold.Store(false)
		n.tend.ring()
	}()
	if err := n.release(ctx); err != nil {
		return fmt.Errorf("placement: hand over: %w", err)
	}
	// Leadership may end elsewhere: whoever leads claims.
	if err := n.pass(ctx, m); err != nil {
		return fmt.Errorf("placement: hand over: %w", err)
	}
	return nil
}
