package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// Raft is what the manager needs of the node host. *multiraft.Host is one.
type Raft interface {
	StartReplica(rc multiraft.ReplicaConfig, create func() multiraft.StateMachine) error
	StopReplica(ctx context.Context, shard, replica uint64) error
	HasReplica(shard, replica uint64) bool
	RemoveReplicaData(ctx context.Context, shard, replica uint64) error
	Membership(ctx context.Context, shard uint64) (multiraft.Membership, error)
	AddReplica(ctx context.Context, shard, replica, member, configChangeID uint64) error
	AddNonVoting(ctx context.Context, shard, replica, member, configChangeID uint64) error
	RemoveReplica(ctx context.Context, shard, replica, configChangeID uint64) error
	RequestSnapshot(ctx context.Context, shard uint64, override bool, overhead uint64) error
}

// Placement is what the manager needs of this member's placement node.
type Placement interface {
	// Shards lists all descriptors, those of children in seeding included.
	Shards() []*kvdpb.Descriptor
	// Sequencer is the member that is the sequencer, zero if unknown.
	Sequencer() uint64
	// OwnersFollow tells whether ownerships move to the sequencer's member.
	OwnersFollow() bool
	// Corrupt tells whether a member's replica of a shard was found to differ from the
	// others. It is cheap where none was.
	Corrupt(shard, member uint64) bool
	// Compacted is the cluster's compaction revision.
	Compacted() int64
	// Update has a command applied. It fails with the rejection's reason.
	Update(ctx context.Context, cmd *kvdpb.PlacementCommand) (*kvdpb.PlacementResult, error)
	// Barrier returns once this member has applied every change that was
	// finished when it was called.
	Barrier(ctx context.Context) error
}

// Config is what a Manager is made of.
type Config struct {
	Member, Incarnation uint64
	// Dir holds the replicas' stores.
	Dir       string
	Engine    *mvcc.Engine
	Raft      Raft
	Bind      func(shard uint64) shard.Raft
	Placement Placement
	Sequencer shard.Sequencer
	Sink      shard.Sink
	// Txns finishes transactions over several shards whose coordinator does not.
	Txns   shard.TxnResolver
	Limits shard.Limits
	Leases shard.Leases
	// Alive tells whether another member is connected; nil for always.
	Alive func(member uint64) bool
	// Ask asks a member what its replica of a shard reports.
	Ask func(ctx context.Context, member, shard uint64) (*kvdpb.ReplicaStatus, error)
	// Changed is told of each replica that begins or ends to serve, from a
	// goroutine of the manager.
	Changed func(shard uint64)
	Logger  *zap.Logger
}

// Manager keeps this member's replicas. Methods are safe for concurrent use.
type Manager struct {
	cfg     Config
	log     *zap.Logger
	disk    *disk
	workers *shard.Workers

	// replicas is copied on write, so that requests find a replica without a lock.
	replicas atomic.Pointer[map[uint64]*local]

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{}
	// starting bounds the replicas that are opened at once.
	starting chan struct{}

	mu struct {
		sync.Mutex
		closed bool
		// busy holds the shards that a step is under way for.
		busy map[uint64]bool
		// splits are those of this process that can still be cancelled.
		splits map[*split]bool
		// proposed are the splits of this process by parent.
		proposed map[uint64]proposal
		// reshaping holds the shards whose replicas are being changed by a step.
		reshaping map[uint64]bool
		// merging holds the left shards of merges that a step is under way for, merges
		// since when merges are seen, by attempt.
		merging map[uint64]bool
		merges  map[uint64]mergeTime
		// found are the replicas that were on the disk at the start.
		found map[place]bool
		// told are the shards whose loss was logged.
		told map[uint64]bool
		// awayFrom is when a shard was first seen to be owned here while the
		// sequencer is elsewhere.
		awayFrom map[uint64]time.Time
		// failed are the hand-overs that came to nothing, since the last that did not.
		failed map[uint64]failedHandOver
		// opening holds replicas that are started and not published yet: their
		// sink may ask for their stores.
		opening map[uint64]*shard.Replica
		// events are leader events of replicas that are not published yet.
		events map[uint64]multiraft.LeaderEvent
		// changed is closed and replaced by Wake.
		changed chan struct{}
	}
}

// local is a running replica.
type local struct {
	*shard.Replica
	replica uint64
}

// proposal is a split that this process has begun.
type proposal struct{ child, epoch uint64 }

const (
	// retryAfter is when a failed step is tried again.
	retryAfter = 500 * time.Millisecond
	// handOverAfter is how long owner and sequencer stay apart before the
	// ownership follows: long enough that a flapping sequencer drags nothing
	// behind it.
	handOverAfter = 2 * time.Second
	// lookAfter is the pace of what no event announces: handing over owners,
	// and telling shards of compactions.
	lookAfter = 500 * time.Millisecond
	// stepTimeout bounds one step of one shard.
	stepTimeout = 30 * time.Second
)

// New makes a manager that does nothing until Start.
func New(cfg Config) (*Manager, error) {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Alive == nil {
		cfg.Alive = func(uint64) bool { return true }
	}
	if cfg.Changed == nil {
		cfg.Changed = func(uint64) {}
	}
	d, err := openDisk(cfg.Dir)
	if err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: cfg, log: cfg.Logger, disk: d,
		workers:  shard.NewWorkers(16 * runtime.GOMAXPROCS(0)),
		wake:     make(chan struct{}, 1),
		starting: make(chan struct{}, 2*runtime.GOMAXPROCS(0)),
	}
	m.replicas.Store(&map[uint64]*local{})
	m.mu.busy = map[uint64]bool{}
	m.mu.reshaping = map[uint64]bool{}
	m.mu.merging, m.mu.merges = map[uint64]bool{}, map[uint64]mergeTime{}
	if m.mu.found, err = d.stores(); err != nil {
		return nil, err
	}
	m.mu.splits = map[*split]bool{}
	m.mu.proposed = map[uint64]proposal{}
	m.mu.told = map[uint64]bool{}
	m.mu.awayFrom = map[uint64]time.Time{}
	m.mu.failed = map[uint64]failedHandOver{}
	m.mu.opening = map[uint64]*shard.Replica{}
	m.mu.events = map[uint64]multiraft.LeaderEvent{}
	m.mu.changed = make(chan struct{})
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// Start begins the manager's work.
func (m *Manager) Start() {
	m.wg.Add(1)
	go m.run()
	m.Wake()
}

// Wake makes the manager look again. Call it when placement changed.
func (m *Manager) Wake() {
	m.mu.Lock()
	close(m.mu.changed)
	m.mu.changed = make(chan struct{})
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// next returns a channel that is closed when something has changed. Take it
// before looking.
func (m *Manager) next() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.changed
}

// Replica returns the running replica of a shard.
func (m *Manager) Replica(id uint64) (*shard.Replica, bool) {
	l, ok := (*m.replicas.Load())[id]
	if !ok {
		return nil, false
	}
	return l.Replica, true
}

// Each calls fn with every running replica, in no order, until it returns false.
func (m *Manager) Each(fn func(*shard.Replica) bool) {
	for _, l := range *m.replicas.Load() {
		if !fn(l.Replica) {
			return
		}
	}
}

// OnLeader takes in a leader event of a local replica; see multiraft.Config.
func (m *Manager) OnLeader(e multiraft.LeaderEvent) {
	m.mu.Lock()
	l := (*m.replicas.Load())[e.Shard]
	if l == nil {
		// The replica is being started; it is told once it is published.
		m.mu.events[e.Shard] = e
	}
	m.mu.Unlock()
	if l != nil && l.replica == e.Replica {
		l.LeaderChanged(e)
	}
}

// run looks at what is to do whenever something may have changed.
func (m *Manager) run() {
	defer m.wg.Done()
	tick := time.NewTicker(lookAfter)
	defer tick.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.wake:
			m.step()
			m.follow()
		case <-tick.C:
			// No event tells this member who owns a shard elsewhere.
			m.Wake()
		}
	}
}

// step begins the next step of each shard that has one.
func (m *Manager) step() {
	v, err := m.look(0)
	if err != nil {
		m.log.Error("cannot look at the replicas' directories", zap.Error(err))
		return
	}
	for _, a := range decide(v) {
		m.begin(a)
	}
	m.reshapeAll(v)
	m.mergeAll()
}

// look gathers what decide needs for the steps of one shard, or of all with 0; then
// shards that a step is under way for are left out, since they get none meanwhile.
func (m *Manager) look(only uint64) (view, error) {
	v := view{member: m.cfg.Member, shards: m.cfg.Placement.Shards(), local: map[uint64]observed{}}
	if len(v.shards) == 0 {
		return v, nil // nothing of placement is known yet
	}
	running := *m.replicas.Load()
	var busy map[uint64]bool
	m.mu.Lock()
	if only == 0 {
		busy = maps.Clone(m.mu.busy)
	}
	for p := range m.mu.found {
		if l := running[p.shard]; (only == 0 || p.shard == only) && (l == nil || l.replica != p.replica) {
			v.here = append(v.here, p)
		}
	}
	m.mu.Unlock()
	for id, l := range running {
		if only == 0 || id == only {
			v.here = append(v.here, place{id, l.replica})
		}
	}
	if only != 0 {
		v.shards = related(v.shards, only)
	}
	for _, d := range v.shards {
		replica, mine := replicaOf(d, m.cfg.Member)
		if !mine {
			continue
		}
		l := running[d.Shard]
		if l == nil && busy[d.Shard] {
			v.local[d.Shard] = observed{busy: true}
			continue
		}
		if l != nil && l.replica != replica {
			v.local[d.Shard] = observed{other: true}
			continue
		}
		if l != nil {
			_, epoch := l.Owner()
			o := observed{running: true, hasSeed: true, hasLog: true, started: true, pending: l.Pending().GetShard(), serving: l.Serving(), epoch: epoch}
			m.mu.Lock()
			p := m.mu.proposed[d.Shard]
			m.mu.Unlock()
			o.proposed, o.proposedIn = p.child, p.epoch
			v.local[d.Shard] = o
			continue
		}
		o := observed{hasLog: m.cfg.Raft.HasReplica(d.Shard, replica)}
		var err [3]error
		o.hasSeed, err[0] = m.disk.hasStore(d.Shard, replica)
		o.started, err[1] = m.disk.marked(d.Shard, replica, markStarted)
		o.removed, err[2] = m.disk.marked(d.Shard, replica, markRemoved)
		if err := errors.Join(err[:]...); err != nil {
			return v, err
		}
		v.local[d.Shard] = o
	}
	return v, nil
}

// begin carries an action out in the background, unless the shard has one under
// way. Afterwards everything is looked at again.
func (m *Manager) begin(a action) {
	m.mu.Lock()
	if m.mu.closed || m.mu.busy[a.shard] {
		m.mu.Unlock()
		return
	}
	told := a.kind == lost && m.mu.told[a.shard]
	m.mu.Unlock()
	if told {
		return
	}
	m.background(a.shard, func(ctx context.Context) {
		if !m.wanted(a) {
			return
		}
		err := m.perform(ctx, a)
		if err == nil || m.ctx.Err() != nil {
			return
		}
		m.log.Warn("a step of a shard failed and is tried again",
			zap.String("step", string(a.kind)), zap.Uint64("shard", a.shard), zap.Uint64("child", a.child), zap.Error(err))
		select {
		case <-m.ctx.Done():
		case <-time.After(retryAfter):
		}
	})
}

// background runs a step of a shard, unless one is under way or the manager is
// closed. Afterwards everything is looked at again.
func (m *Manager) background(id uint64, run func(ctx context.Context)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed || m.mu.busy[id] {
		return
	}
	m.mu.busy[id] = true
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		ctx, cancel := context.WithTimeout(m.ctx, stepTimeout)
		run(ctx)
		cancel()
		m.free(id)
	}()
}

// free ends the reservation of a shard for one step.
func (m *Manager) free(id uint64) {
	m.mu.Lock()
	delete(m.mu.busy, id)
	m.mu.Unlock()
	m.Wake()
}

// wanted decides a second time, now that the shard is reserved for this step:
// between the first look and the reservation another step of the shard may have
// come and gone. Aborting a split on the word of an old look would take the child
// away from a split that was logged meanwhile.
func (m *Manager) wanted(a action) bool {
	v, err := m.look(a.shard)
	return err == nil && slices.Contains(decide(v), a)
}

func (m *Manager) perform(ctx context.Context, a action) error {
	switch a.kind {
	case seed:
		return m.seed(ctx, a)
	case confirm:
		return m.confirm(ctx, a.shard)
	case start:
		return m.start(ctx, a)
	case retire:
		return m.retire(ctx, a)
	case done:
		r, ok := m.Replica(a.shard)
		if !ok {
			return nil
		}
		return r.SplitDone(ctx, a.child)
	case lost:
		// Decided twice: a replica whose first start or removal came in between the two
		// looks has half of what it should have.
		m.mu.Lock()
		m.mu.told[a.shard] = true
		m.mu.Unlock()
		m.log.Error("a replica cannot start: its raft log or its store is gone; it must be replaced by a new replica",
			zap.Uint64("shard", a.shard), zap.Uint64("replica", a.replica))
		return nil
	case abort:
		m.log.Info("giving up a split that was never logged", zap.Uint64("shard", a.shard), zap.Uint64("child", a.child))
		return m.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_AbortSplit{AbortSplit: &kvdpb.AbortSplit{Child: a.child}}})
	}
	return fmt.Errorf("unknown step %q", a.kind)
}

func (m *Manager) update(ctx context.Context, cmd *kvdpb.PlacementCommand) error {
	_, err := m.cfg.Placement.Update(ctx, cmd)
	return err
}

// current reads placement linearizably and returns the shard's descriptor if it
// still names this replica.
func (m *Manager) current(ctx context.Context, id, replica uint64) (*kvdpb.Descriptor, error) {
	if err := m.cfg.Placement.Barrier(ctx); err != nil {
		return nil, fmt.Errorf("read placement: %w", err)
	}
	d := m.described(id)
	if d == nil {
		return nil, nil
	}
	if r, mine := replicaOf(d, m.cfg.Member); !mine || r != replica {
		return nil, nil
	}
	return d, nil
}

// seed makes the seed of a child from its parent's frozen span, and confirms it.
func (m *Manager) seed(ctx context.Context, a action) error {
	child, err := m.current(ctx, a.shard, a.replica)
	if child == nil || err != nil {
		return err
	}
	parent, ok := m.Replica(child.Parent)
	if !ok || parent.Pending().GetShard() != child.Shard {
		return nil
	}
	if err := parent.Seed(child.Shard, m.disk.store(a.shard, a.replica)); err != nil {
		return fmt.Errorf("make seed: %w", err)
	}
	return m.confirm(ctx, a.shard)
}

func (m *Manager) confirm(ctx context.Context, id uint64) error {
	err := m.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_ConfirmSeed{
		ConfirmSeed: &kvdpb.ConfirmSeed{Child: id, Member: m.cfg.Member},
	}})
	if err != nil {
		return fmt.Errorf("confirm seed: %w", err)
	}
	return nil
}

// start starts a replica and publishes it.
func (m *Manager) start(ctx context.Context, a action) error {
	select {
	case m.starting <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-m.starting }()
	if _, running := m.Replica(a.shard); running {
		return nil // decided before the last step of the shard had ended
	}
	rc := multiraft.ReplicaConfig{Shard: a.shard, Replica: a.replica, QuickFirstElection: a.campaign}
	desc := m.described(a.shard)
	if len(desc.GetReplicas()) == 1 {
		rc.QuickFirstElection = true
	}
	if a.first {
		var err error
		if desc, err = m.current(ctx, a.shard, a.replica); desc == nil || err != nil {
			return err
		}
		if a.join {
			// It was added as non-voting, and stays configured so for ever.
			rc.Join, rc.NonVoting, rc.QuickFirstElection = true, true, false
		} else {
			rc.Initial = make(map[uint64]uint64, len(desc.Initial))
			for _, r := range desc.Initial {
				rc.Initial[r.Replica] = r.Member
			}
			// A group of the bootstrap has nobody to wait for but its first replica.
			rc.QuickFirstElection = a.campaign || (desc.Parent == 0 && desc.Initial[0].Replica == a.replica)
		}
		// A directory without a store tells a crash in the first start, which is
		// resumed, from a store that was lost.
		if err := m.disk.makeStore(a.shard, a.replica); err != nil {
			return err
		}
	}
	r, err := shard.New(shard.Config{
		Member: m.cfg.Member, Incarnation: m.cfg.Incarnation,
		Shard: a.shard, Replica: a.replica, Descriptor: desc, Joined: !began(desc, a.replica),
		Engine: m.cfg.Engine, Dir: m.disk.store(a.shard, a.replica),
		Raft: m.cfg.Bind(a.shard), Sequencer: m.cfg.Sequencer, Sink: m.cfg.Sink, Workers: m.workers, Txns: m.cfg.Txns, Leases: m.cfg.Leases,
		OnPending:   func(uint64, *kvdpb.Descriptor) { m.Wake() },
		OnSplitDone: func(uint64, uint64) { m.Wake() },
		OnMerge:     func(uint64) { m.Wake() },
		OnOwner: func(id uint64) {
			m.cfg.Changed(id)
			m.Wake()
		},
		Limits: m.cfg.Limits, Logger: m.log,
	})
	if err != nil {
		return err
	}
	m.setOpening(a.shard, r)
	defer m.setOpening(a.shard, nil)
	if err := m.cfg.Raft.StartReplica(rc, func() multiraft.StateMachine { return r }); err != nil {
		return fmt.Errorf("start replica: %w", err)
	}
	if err := m.disk.setMark(a.shard, a.replica, markStarted); err != nil {
		return err
	}
	m.publish(a.shard, &local{Replica: r, replica: a.replica})
	m.log.Info("started a replica", zap.Uint64("shard", a.shard), zap.Uint64("replica", a.replica), zap.Bool("first", a.first))
	return nil
}

func (m *Manager) setOpening(id uint64, r *shard.Replica) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r == nil {
		delete(m.mu.opening, id)
		return
	}
	m.mu.opening[id] = r
}

// Store returns the store of a local replica, from the moment on that its sink
// was told of it; nil if there is none.
func (m *Manager) Store(id uint64) *mvcc.Store {
	if r, ok := m.Replica(id); ok {
		return r.Store()
	}
	m.mu.Lock()
	r := m.mu.opening[id]
	m.mu.Unlock()
	if r == nil {
		// It may have been published since.
		r, _ = m.Replica(id)
	}
	if r == nil {
		return nil
	}
	return r.Store()
}

// publish shows a replica to requests, and tells it the leader event that came
// while it was being started.
func (m *Manager) publish(id uint64, l *local) {
	m.mu.Lock()
	next := maps.Clone(*m.replicas.Load())
	next[id] = l
	m.replicas.Store(&next)
	e, ok := m.mu.events[id]
	delete(m.mu.events, id)
	m.mu.Unlock()
	if ok && e.Replica == l.replica {
		l.LeaderChanged(e)
	}
}

// Close stops all replicas. Owners should have been released before (Drain).
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.mu.closed = true
	m.mu.Unlock()
	m.cancel()
	m.wg.Wait()
	var errs []error
	for id, l := range *m.replicas.Load() {
		if err := m.cfg.Raft.StopReplica(ctx, id, l.replica); err != nil {
			errs = append(errs, fmt.Errorf("stop replica of shard %d: %w", id, err))
		}
	}
	return errors.Join(errs...)
}
