package placement

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
	"go.uber.org/zap"
)

// Node is this member's part of the placement group: its replica's view, the
// sequencer while this member owns the group, and the client of the sequencer
// wherever it is.
//
// Order of use: NewNode, start the raft replica with Machine as its state
// machine, Start; in the end Stopping, Release, Close, and only then stop the
// replica.
type Node struct {
	cfg     Config
	log     *zap.Logger
	machine *Machine
	seq     *sequencer
	client  *client
	leaving *leaving
	stats   Counters
	// attendance is the scheduler's.
	attendance attendance

	view atomic.Pointer[View]
	// learner tells whether this member is one.
	learner atomic.Bool
	// changed is closed and replaced with every view that tells subscribers
	// something.
	changed struct {
		sync.Mutex
		ch chan struct{}
	}
	subs struct {
		sync.Mutex
		next int
		fns  map[int]func(*View)
	}

	tend, renew, extend, news, yields, follow wake
	// term is the largest term that was told.
	term atomic.Uint64
	// hold suspends claims while leadership is being handed to another member.
	hold atomic.Bool
	// takeOver is the released epoch that this member was asked to succeed.
	takeOver atomic.Uint64
	// standing is the tenure's proposal under way.
	standing atomic.Pointer[standing]
	// campaigns counts the tries to do so; the tenure's goroutine alone uses it.
	campaigns struct {
		epoch uint64
		count int
	}

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	close  sync.Once
}

// wake is a bell that may be rung often and is answered once.
type wake chan struct{}

func newWake() wake { return make(wake, 1) }

func (w wake) ring() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// NewNode makes a node that does nothing until its replica applies entries and
// Start is called.
func NewNode(cfg Config) (*Node, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: cfg.Logger, tend: newWake(), renew: newWake(), extend: newWake(), news: newWake(), yields: newWake(), follow: newWake()}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.changed.ch = make(chan struct{})
	n.subs.fns = map[int]func(*View){}
	n.view.Store(NewState().View(nil, 0))
	n.machine = NewMachine(cfg.Open, n.applied)
	n.seq = &sequencer{
		me:         identity{cfg.Member, cfg.Replica, cfg.Incarnation},
		clock:      cfg.Clock,
		quorum:     cfg.ReadMode == ReadQuorum,
		reply:      n.reply,
		wakeRenew:  n.renew.ring,
		wakeWindow: n.extend.ring,
		stats:      &n.stats,
	}
	n.client = &client{
		me:          cfg.Member,
		incarnation: cfg.Incarnation,
		post:        n.post,
		sequencer:   n.sequencer,
		retryAfter:  cfg.Election / 2,
		newTimer:    newTimer,
		stats:       &n.stats,
		closed:      make(chan struct{}),
	}
	n.leaving = newLeaving()
	n.attendance.absences = absences{}
	return n, nil
}

// Machine is the state machine of this node's replica.
func (n *Node) Machine() *Machine { return n.machine }

// Start begins the node's work: claiming, renewing, telling subscribers.
func (n *Node) Start() {
	for _, run := range []func(){n.runTenure, n.runRenewal, n.runWindow, n.runNews, n.runGreeting, n.runYield, n.runGroup, n.runScheduler} {
		n.wg.Add(1)
		go func() {
			defer n.wg.Done()
			run()
		}()
	}
	n.tend.ring()
}

// Close ends all waits and stops the node's work. It releases nothing: see
// Release.
func (n *Node) Close() {
	n.close.Do(func() {
		n.cancel()
		n.client.close()
		n.wg.Wait()
	})
}

// applied takes in a view that the state machine has written. It runs on the
// goroutine that applies, and neither blocks nor calls raft.
func (n *Node) applied(v *View) {
	if m := v.Member(n.cfg.Member); m != nil {
		n.learner.Store(m.Learner)
	}
	old := n.view.Swap(v)
	n.seq.observe(v)
	if v.sameNews(old) {
		return
	}
	n.tend.ring()
	n.news.ring()
	n.follow.ring()
	n.changed.Lock()
	close(n.changed.ch)
	n.changed.ch = make(chan struct{})
	n.changed.Unlock()
}

// next returns a channel that is closed when a view that tells something new has
// been applied. Take it before looking at the view.
func (n *Node) next() <-chan struct{} {
	n.changed.Lock()
	defer n.changed.Unlock()
	return n.changed.ch
}

// Changed returns a channel that is closed with the next change of members,
// descriptors, settings or ownership. Take it before looking.
func (n *Node) Changed() <-chan struct{} { return n.next() }

// View returns what this member has applied. It may lag behind; see Barrier.
func (n *Node) View() *View { return n.view.Load() }

// Map returns the range map that this member has applied.
func (n *Node) Map() *Map { return n.View().Map }

// Members returns the members of the cluster, by id, as this member has applied
// them. The caller must not change them.
func (n *Node) Members() []*kvdpb.Member { return n.View().Members }

// Learner tells whether this member is a learner.
func (n *Node) Learner() bool { return n.learner.Load() }

// ClusterID returns the cluster's id; zero until the first entry is applied.
func (n *Node) ClusterID() uint64 { return n.View().ClusterID }

// SequencerMember returns the member that owns the placement group, as far as
// this member knows; zero if there is none.
func (n *Node) SequencerMember() uint64 {
	member, _ := n.sequencer()
	return member
}

func (n *Node) sequencer() (member, epoch uint64) {
	own := &n.View().Ownership
	if own.Released {
		return 0, own.Epoch
	}
	return own.Member, own.Epoch
}

// Serving tells whether this member is the sequencer and serves.
func (n *Node) Serving() bool {
	own := n.View().Ownership
	return n.owns(own) && own.Serving
}

// owns tells whether this very process owns the placement group.
func (n *Node) owns(own ownership.State) bool {
	return own.IsOwner(n.cfg.Member, n.cfg.Replica, n.cfg.Incarnation) && !own.Released
}

// Term returns the raft term of the placement group, which answers clients as
// the term of the cluster. It never falls, and stays while there is no leader.
func (n *Node) Term() uint64 {
	_, term := n.cfg.Raft.Leader()
	for {
		last := n.term.Load()
		if term <= last {
			return last
		}
		if n.term.CompareAndSwap(last, term) {
			return term
		}
	}
}

// Counters returns what the node counts.
func (n *Node) Counters() *Counters { return &n.stats }

// Subscribe calls fn with the newest view after each change of members,
// descriptors, ownership, alarms or compaction revision, and once at the beginning. Calls
// come one after another on one goroutine for all subscribers, outside any lock;
// views that follow fast are told as one. The returned function ends the
// subscription; a call that is under way may still end after it.
func (n *Node) Subscribe(fn func(*View)) (cancel func()) {
	n.subs.Lock()
	defer n.subs.Unlock()
	id := n.subs.next
	n.subs.next++
	n.subs.fns[id] = fn
	n.news.ring()
	return func() {
		n.subs.Lock()
		defer n.subs.Unlock()
		delete(n.subs.fns, id)
	}
}

// runNews tells subscribers, and the client, of new views.
func (n *Node) runNews() {
	told := map[int]*View{}
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.news:
		}
		n.client.kick()
		v := n.View()
		fns := n.subscribers()
		maps.DeleteFunc(told, func(id int, _ *View) bool { return fns[id] == nil })
		for id, fn := range fns {
			if old := told[id]; old == nil || !v.sameNews(old) {
				told[id] = v
				fn(v)
			}
		}
	}
}

// subscribers returns the present subscribers, so that they are called without
// the lock.
func (n *Node) subscribers() map[int]func(*View) {
	n.subs.Lock()
	defer n.subs.Unlock()
	return maps.Clone(n.subs.fns)
}

// Barrier returns once this member has applied every change that was finished
// when it was called.
func (n *Node) Barrier(ctx context.Context) error {
	return n.retry(ctx, func(ctx context.Context) (bool, error) {
		// A read that is lost in a change of leader never ends by itself.
		ctx, cancel := context.WithTimeout(ctx, n.cfg.Election)
		defer cancel()
		err := n.cfg.Raft.ReadIndex(ctx)
		return err == nil, err
	})
}

// retry calls try until it is done, with growing pauses. It ends with the
// context's error, joined with the last one of try.
func (n *Node) retry(ctx context.Context, try func(context.Context) (done bool, err error)) error {
	pause := newPause(soon, later)
	defer pause.stop()
	for {
		changed := n.next()
		done, err := try(ctx)
		if done {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-n.ctx.Done():
			return ErrClosed
		case <-changed:
		case <-pause.after():
		}
	}
}
