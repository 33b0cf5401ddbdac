package shard

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
)

// patience bounds every wait of a test; it is reached only by a failing one.
const patience = 2 * time.Minute

// fakeSequencer is a sequencer whose clock a test moves by hand.
type fakeSequencer struct {
	mu struct {
		sync.Mutex
		epoch   uint64
		reading time.Duration
		last    int64
		compact int64
		// auth is the auth version that answers carry.
		auth uint64
		// remote: no answer without a message. notServing: claimed only.
		remote, notServing bool
		// held: questions wait until it is closed; nil: they do not.
		held  chan struct{}
		asked int
		// probes counts the questions of wait-outs since the last change of leader.
		probes int
	}
}

func newFakeSequencer() *fakeSequencer {
	s := &fakeSequencer{}
	s.mu.epoch, s.mu.reading, s.mu.last = 1, time.Second, 1
	return s
}

func (s *fakeSequencer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *fakeSequencer) stampLocked() ownership.Stamp {
	return ownership.Stamp{SeqEpoch: s.mu.epoch, Reading: s.mu.reading, AuthVersion: s.mu.auth, CompactRevision: s.mu.compact}
}

// pass waits while questions are held.
func (s *fakeSequencer) pass(ctx context.Context) error {
	s.mu.Lock()
	s.mu.asked++
	held := s.mu.held
	s.mu.Unlock()
	if held == nil {
		return ctx.Err()
	}
	select {
	case <-held:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *fakeSequencer) Allocate(ctx context.Context, n int, auth uint64) (Grant, error) {
	if err := s.pass(ctx); err != nil {
		return Grant{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.notServing {
		return Grant{}, &ownership.ErrNotServing{SeqEpoch: s.mu.epoch}
	}
	if auth != s.mu.auth && auth != AuthExempt {
		return Grant{}, ErrOldAuth
	}
	g := Grant{First: s.mu.last + 1, Stamp: s.stampLocked()}
	s.mu.last += int64(n)
	return g, nil
}

func (s *fakeSequencer) Current(ctx context.Context) (Grant, error) {
	if err := s.pass(ctx); err != nil {
		return Grant{}, err
	}
	return s.current()
}

func (s *fakeSequencer) current() (Grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.notServing {
		return Grant{}, &ownership.ErrNotServing{SeqEpoch: s.mu.epoch}
	}
	return Grant{First: s.mu.last, Stamp: s.stampLocked()}, nil
}

func (s *fakeSequencer) TryCurrent() (Grant, bool) {
	s.mu.Lock()
	remote := s.mu.remote || s.mu.held != nil
	s.mu.Unlock()
	if remote {
		return Grant{}, false
	}
	g, err := s.current()
	return g, err == nil
}

func (s *fakeSequencer) Probe(context.Context) (ownership.Stamp, error) {
	g, err := s.current()
	s.set(func() { s.mu.probes++ })
	return g.Stamp, err
}

func (s *fakeSequencer) advance(d time.Duration) { s.set(func() { s.mu.reading += d }) }

// fakeGroup is a raft group in memory: one log, nodes that apply it at their own
// pace, and a leader that the test names.
type fakeGroup struct {
	t     testing.TB
	nodes []*fakeNode

	mu struct {
		sync.Mutex
		leader  int // index of the leading node, -1: none
		term    uint64
		entries []fakeEntry
		// committed: entries up to here may be applied.
		committed int
		// hold: what is proposed stays uncommitted until commit is called.
		hold bool
		// lose: proposals are accepted and never appended; their outcome is the
		// kind given, or silence.
		lose    multiraft.OutcomeKind
		dropped []fakeEntry
		changed chan struct{}
		closed  bool
	}
}

type fakeEntry struct {
	cmd      []byte
	proposal *fakeProposal
	by       int
}

type fakeProposal struct {
	done    chan multiraft.Signal
	outcome multiraft.Outcome
}

func (p *fakeProposal) Done() <-chan multiraft.Signal              { return p.done }
func (p *fakeProposal) Outcome(multiraft.Signal) multiraft.Outcome { return p.outcome }
func (p *fakeProposal) finish(o multiraft.Outcome)                 { p.outcome = o; p.done <- multiraft.Signal{} }

// fakeNode is one member's end of a group.
type fakeNode struct {
	g       *fakeGroup
	index   int
	replica *Replica
	engine  *mvcc.Engine
	cfg     Config
	stopped chan struct{}
	ended   sync.WaitGroup

	mu struct {
		sync.Mutex
		applied int
		paused  bool
		down    bool
		// isolated: it hears nothing of the others, nor they of it.
		isolated bool
	}
}

const fakeShard = 7

// silence, as what becomes of a proposal, is that nothing is heard of it.
const silence = multiraft.OutcomeKind(99)

func newFakeGroup(t testing.TB) *fakeGroup {
	g := &fakeGroup{t: t}
	g.mu.leader = -1
	g.mu.changed = make(chan struct{})
	t.Cleanup(g.close)
	return g
}

func testEngine(t testing.TB) *mvcc.Engine {
	e, err := mvcc.NewEngine(mvcc.EngineOptions{
		CacheBytes: 8 << 20, MemtableBudget: 64 << 20, FS: vfs.NewMem(), NoBackground: true,
	})
	require.NoError(t, err)
	return e
}

func wholeShard() *kvdpb.Descriptor {
	return &kvdpb.Descriptor{Shard: fakeShard, Start: keyspace.Min(), End: keyspace.Max(), Generation: 1}
}

// addNode adds a member with an empty replica. It applies from the next change on.
func (g *fakeGroup) addNode(seq Sequencer, mutate func(*Config)) *fakeNode {
	n := &fakeNode{g: g, index: len(g.nodes), engine: testEngine(g.t)}
	n.cfg = Config{
		Member: uint64(n.index + 1), Incarnation: 100 + uint64(n.index), Shard: fakeShard, Replica: uint64(n.index + 1),
		Descriptor: wholeShard(), Engine: n.engine, Dir: "shard", Raft: n, Sequencer: seq,
		Workers: NewWorkers(4), Logger: zaptest.NewLogger(g.t, zaptest.Level(zap.ErrorLevel)),
	}
	if mutate != nil {
		mutate(&n.cfg)
	}
	g.nodes = append(g.nodes, n)
	n.open()
	return n
}

// open makes the replica and begins to apply.
func (n *fakeNode) open() {
	r, err := New(n.cfg)
	require.NoError(n.g.t, err)
	n.replica = r
	applied, err := r.Open(nil)
	require.NoError(n.g.t, err)
	n.mu.Lock()
	n.mu.applied = int(applied)
	n.mu.down = false
	n.mu.Unlock()
	n.stopped = make(chan struct{})
	n.ended.Go(n.applyLoop)
}

// stop closes the replica.
func (n *fakeNode) stop() {
	n.mu.Lock()
	down := n.mu.down
	n.mu.down = true
	n.mu.Unlock()
	if down {
		return
	}
	close(n.stopped)
	n.ended.Wait()
	require.NoError(n.g.t, n.replica.Close())
}

func (g *fakeGroup) close() {
	g.do(func() { g.mu.closed = true })
	for _, n := range g.nodes {
		n.stop()
	}
	for _, n := range g.nodes {
		require.NoError(g.t, n.engine.Close())
	}
	g.nodes = nil
}

func (g *fakeGroup) changeLocked() {
	close(g.mu.changed)
	g.mu.changed = make(chan struct{})
}

func (g *fakeGroup) do(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	g.changeLocked()
}

// lead makes a node the leader (nil: nobody) and tells all.
func (g *fakeGroup) lead(n *fakeNode) {
	g.do(func() {
		g.mu.leader = -1
		if n != nil {
			g.mu.leader = n.index
		}
		g.mu.term++
	})
	for _, o := range g.nodes {
		if !o.isIsolated() {
			o.tellLeader()
		}
	}
}

// leading returns the leading node, nil if there is none.
func (g *fakeGroup) leading() *fakeNode {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.leader < 0 {
		return nil
	}
	return g.nodes[g.mu.leader]
}

// tellLeader tells a node who leads.
func (n *fakeNode) tellLeader() {
	leader := uint64(0)
	if l := n.g.leading(); l != nil {
		leader = l.cfg.Replica
	}
	n.g.mu.Lock()
	term := n.g.mu.term
	n.g.mu.Unlock()
	n.replica.LeaderChanged(multiraft.LeaderEvent{Shard: fakeShard, Replica: n.cfg.Replica, Term: term, Leader: leader})
}

func (n *fakeNode) isIsolated() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.isolated
}

// isolate cuts a node off from the group, or lets it back in.
func (n *fakeNode) isolate(isolated bool) {
	n.mu.Lock()
	n.mu.isolated, n.mu.paused = isolated, isolated
	n.mu.Unlock()
	n.g.do(func() {})
	if !isolated {
		n.tellLeader()
	}
}

// pause stops a node from applying, or lets it go on.
func (n *fakeNode) pause(paused bool) {
	n.mu.Lock()
	n.mu.paused = paused
	n.mu.Unlock()
	n.g.do(func() {})
}

// commitAll commits what was held and ends the holding.
func (g *fakeGroup) commitAll() {
	g.do(func() { g.mu.hold = false; g.mu.committed = len(g.mu.entries) })
}

// truncate throws away what is not committed, as a new leader does whose log
// lacks it.
func (g *fakeGroup) truncate() {
	g.do(func() { g.mu.entries = g.mu.entries[:g.mu.committed] })
}

// applyLoop applies what is committed, several entries at a time.
func (n *fakeNode) applyLoop() {
	for {
		n.g.mu.Lock()
		changed := n.g.mu.changed
		entries := n.g.mu.entries[:n.g.mu.committed:n.g.mu.committed]
		n.g.mu.Unlock()
		n.mu.Lock()
		paused, from := n.mu.paused, n.mu.applied
		n.mu.Unlock()
		if !paused && from < len(entries) {
			n.apply(entries[from:], from)
			continue
		}
		select {
		case <-changed:
		case <-n.stopped:
			return
		}
	}
}

func (n *fakeNode) apply(entries []fakeEntry, from int) {
	batch := make([]multiraft.Entry, len(entries))
	for i := range entries {
		batch[i] = multiraft.Entry{Index: uint64(from + i + 1), Cmd: entries[i].cmd}
	}
	if err := n.replica.Apply(batch); err != nil {
		panic(fmt.Sprintf("apply at node %d: %v", n.index, err))
	}
	n.mu.Lock()
	n.mu.applied = from + len(entries)
	n.mu.Unlock()
	n.g.do(func() {})
	for i := range entries {
		if entries[i].by == n.index && entries[i].proposal != nil {
			entries[i].proposal.finish(multiraft.Outcome{Kind: multiraft.Applied, Result: batch[i].Result})
		}
	}
}

// Propose implements Raft.
func (n *fakeNode) Propose(cmd []byte) (Proposal, error) {
	g := n.g
	p := &fakeProposal{done: make(chan multiraft.Signal, 1)}
	if n.isIsolated() {
		return p, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.leader != n.index {
		return nil, multiraft.ErrNotLeader
	}
	e := fakeEntry{cmd: append([]byte(nil), cmd...), proposal: p, by: n.index}
	if g.mu.lose != 0 {
		g.mu.dropped = append(g.mu.dropped, e)
		if g.mu.lose != silence {
			p.finish(multiraft.Outcome{Kind: g.mu.lose, Err: multiraft.ErrNotReady})
		}
		g.changeLocked()
		return p, nil
	}
	g.mu.entries = append(g.mu.entries, e)
	if !g.mu.hold {
		g.mu.committed = len(g.mu.entries)
	}
	g.changeLocked()
	return p, nil
}

// ReadIndex implements Raft.
func (n *fakeNode) ReadIndex(ctx context.Context) error {
	if n.isIsolated() {
		return multiraft.ErrNotReady
	}
	n.g.mu.Lock()
	if n.g.mu.leader < 0 {
		n.g.mu.Unlock()
		return multiraft.ErrNotReady
	}
	index := n.g.mu.committed
	n.g.mu.Unlock()
	return n.g.wait(ctx, func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.mu.applied >= index
	})
}

// TransferLeader implements Raft.
func (n *fakeNode) TransferLeader(to uint64) error {
	for _, o := range n.g.nodes {
		if o.cfg.Replica == to {
			n.g.lead(o)
			return nil
		}
	}
	return multiraft.ErrNotFound
}

// wait waits for a condition that changes with the group.
func (g *fakeGroup) wait(ctx context.Context, ok func() bool) error {
	for {
		g.mu.Lock()
		changed := g.mu.changed
		g.mu.Unlock()
		if ok() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// until waits for a condition of whatever kind.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("it never came to this: %s", what)
		}
		pause(context.Background(), time.Millisecond)
	}
}

func entryOf(index uint64, cmd []byte) []multiraft.Entry {
	return []multiraft.Entry{{Index: index, Cmd: cmd}}
}
