package watch

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/ownership"
)

// change is one key that a revision changed. A key without the prefix of an
// encoded key never occurs here.
type change struct {
	rev, sub int64
	kv       *mvccpb.KeyValue
	delete   bool
}

// logEntry is one entry of a shard's log.
type logEntry struct {
	changes []change
	// child is set in a split.
	child, parent *kvdpb.Descriptor
	// whole is set where the right neighbour is absorbed, absorbed is its history.
	whole    *kvdpb.Descriptor
	absorbed []change
	// before is the descriptor that a split or a merge changed.
	before *kvdpb.Descriptor
}

// world is a member with a hub, and around it the shards of a cluster as they
// are: each has a log, of which the local replica has applied a part. All that
// the hub does happens when settle is called.
type world struct {
	t      require.TestingT
	hub    *Hub
	shards map[uint64]*simShard
	// rev is the largest revision that was allotted; compacted that of Compact.
	rev, compacted int64
	// down makes the sequencer unreachable.
	down    bool
	streams map[string]*simStream
	rounds  chan *simRound
	// spawned are goroutines that the hub wants to begin.
	spawned []func()
	open    []*simRound
	// owner makes this member the owner of all shards: it answers at once what it
	// can.
	owner bool
	// onRead is called when history is read from a disk.
	onRead func()
}

// simShard is one shard: the truth in log, and the local replica.
type simShard struct {
	desc *kvdpb.Descriptor // of the newest entry
	log  []logEntry
	// base is the state that the log begins with: what was split off the parent.
	base []change
	// pending are writes that have their revision but are not in the log yet, in
	// the order of revisions.
	pending []logEntry
	// dead: its left neighbour has absorbed it. Its owner says nothing any more.
	dead bool

	// The local replica.
	opened  bool
	applied uint64
	// compacted is the compaction revision of the store.
	compacted int64
	// broken makes the store unreadable.
	broken bool
}

// simStream is a client.
type simStream struct {
	s       *Stream
	blocked bool
	got     []Response
}

// simRound is a question to the owners.
type simRound struct {
	rev    int64
	shards []uint64
	answer func(shard.Resolved)
	end    chan struct{}
	done   chan struct{}
}

func newWorld(t require.TestingT, cfg Config) *world {
	w := &world{t: t, shards: map[uint64]*simShard{}, streams: map[string]*simStream{}, rounds: make(chan *simRound, 64), rev: 1}
	cfg.Stores, cfg.Resolver, cfg.Revisions = w, w, w
	cfg.manual, cfg.spawn = true, w.spawn
	w.hub = NewHub(cfg)
	return w
}

func (w *world) close() {
	for len(w.open) > 0 {
		w.endRound(w.open[0])
	}
	w.hub.Close()
}

func (w *world) spawn(f func()) { w.spawned = append(w.spawned, f) }

// Resolve implements Resolver: the test answers.
func (w *world) Resolve(ctx context.Context, rev int64, shards []uint64, answer func(shard.Resolved)) {
	r := &simRound{rev: rev, shards: append([]uint64(nil), shards...), answer: answer, end: make(chan struct{})}
	sort.Slice(r.shards, func(i, j int) bool { return r.shards[i] < r.shards[j] })
	w.rounds <- r
	<-r.end
}

// TryResolve implements TryResolver.
func (w *world) TryResolve(rev int64, shards []uint64, answer func(shard.Resolved)) {
	for _, id := range shards {
		if w.shards[id].dead {
			continue
		}
		if r := w.resolved(id); w.owner && w.shards[id].opened && r.Revision >= rev {
			answer(r)
		}
	}
}

// Current implements Revisions.
func (w *world) Current(context.Context) (shard.Grant, error) {
	return shard.Grant{}, errors.New("no sequencer")
}

// TryCurrent implements Revisions.
func (w *world) TryCurrent() (shard.Grant, bool) {
	return shard.Grant{First: w.rev, Stamp: ownership.Stamp{CompactRevision: w.compacted}}, !w.down
}

// settle lets the hub do all that it can do without answers from owners. It
// collects the rounds that begin.
func (w *world) settle() {
	for {
		for n := 0; w.hub.live.drain(100000) || w.hub.history.drain(100000); n++ {
			require.Less(w.t, n, 1000, "the hub goes in circles:\n%s", w.hub.dump())
		}
		w.collectRounds()
		progress := len(w.spawned) > 0
		for _, name := range w.streamNames() {
			st := w.streams[name]
			if st.blocked {
				continue
			}
			sent, err := st.s.flush(st.receive)
			require.NoError(w.t, err)
			progress = progress || sent
		}
		if !progress {
			return
		}
	}
}

// collectRounds runs what the hub wanted to run on goroutines: rounds, which stay
// open until the test ends them, and what does not block.
func (w *world) collectRounds() {
	for len(w.spawned) > 0 {
		f := w.spawned[0]
		w.spawned = w.spawned[1:]
		done := make(chan struct{})
		go func() {
			defer close(done)
			f()
		}()
		select {
		case r := <-w.rounds:
			r.done = done
			w.open = append(w.open, r)
		case <-done:
		}
	}
}

// endRound ends a round; what it was not answered is asked again.
func (w *world) endRound(r *simRound) {
	close(r.end)
	<-r.done
	for i, o := range w.open {
		if o == r {
			w.open = append(w.open[:i:i], w.open[i+1:]...)
			break
		}
	}
}

func (w *world) streamNames() []string {
	names := make([]string, 0, len(w.streams))
	for n := range w.streams {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

func (w *world) stream(name string) *simStream {
	st := w.streams[name]
	if st == nil {
		st = &simStream{s: w.hub.NewStream()}
		w.streams[name] = st
	}
	return st
}

func (st *simStream) receive(r *Response) error {
	c := *r
	c.Batches = append([]*Batch(nil), r.Batches...)
	st.got = append(st.got, c)
	return nil
}

// addShard makes a shard over user keys [start, end); end "" is the end of all.
func (w *world) addShard(id uint64, start, end string) *simShard {
	s := &simShard{desc: &kvdpb.Descriptor{Shard: id, Start: keyspace.User([]byte(start)), End: keyspace.UserEnd(), Generation: 1}}
	if end != "" {
		s.desc.End = keyspace.User([]byte(end))
	}
	w.shards[id] = s
	return s
}

// openReplica starts the local replica of a shard, which has applied so much.
func (w *world) openReplica(id uint64, applied uint64) {
	s := w.shards[id]
	s.opened, s.applied = true, applied
	w.hub.Opened(id, s.descAt(applied), applied, s.lastAt(applied))
}

// descAt returns the descriptor as of a raft index.
func (s *simShard) descAt(applied uint64) *kvdpb.Descriptor {
	for _, e := range s.log[applied:] {
		if e.before != nil {
			return e.before
		}
	}
	return s.desc
}

// lastAt returns the largest revision applied at a raft index.
func (s *simShard) lastAt(applied uint64) int64 {
	last := int64(1)
	for _, c := range s.base {
		last = max(last, c.rev)
	}
	for _, e := range s.log[:applied] {
		for _, c := range e.changes {
			last = max(last, c.rev)
		}
		for _, c := range e.absorbed {
			last = max(last, c.rev)
		}
	}
	return last
}

// write allots a revision and puts it into the logs of the shards of its keys.
// A value of nil deletes.
func (w *world) write(rev int64, changes map[string]*string) {
	for _, id := range w.begin(rev, changes) {
		w.commit(id, len(w.shards[id].pending))
	}
}

// begin allots a revision to a transaction. It returns its shards; their logs get
// it by commit.
func (w *world) begin(rev int64, changes map[string]*string) (ids []uint64) {
	w.rev = max(w.rev, rev)
	keys := make([]string, 0, len(changes))
	for k := range changes {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	parts := map[uint64][]change{}
	for i, k := range keys {
		s := w.ownerOf(k)
		require.NotNil(w.t, s, "no shard for %q", k)
		c := change{rev: rev, sub: int64(i), kv: &mvccpb.KeyValue{Key: keyspace.User([]byte(k)), ModRevision: rev}}
		if v := changes[k]; v == nil {
			c.delete = true
		} else {
			c.kv.Value = []byte(*v)
		}
		parts[s.desc.Shard] = append(parts[s.desc.Shard], c)
	}
	for id, cs := range parts {
		w.shards[id].pending = append(w.shards[id].pending, logEntry{changes: cs})
		ids = append(ids, id)
	}
	return ids
}

// commit puts the oldest n pending writes of a shard into its log.
func (w *world) commit(id uint64, n int) {
	s := w.shards[id]
	for _, e := range s.pending[:n] {
		for _, c := range e.changes {
			if c.delete {
				continue
			}
			c.kv.CreateRevision, c.kv.Version = c.rev, 1
			if p := s.stateAt(c.kv.Key, c.rev-1, len(s.log)); p != nil {
				c.kv.CreateRevision, c.kv.Version = p.CreateRevision, p.Version+1
			}
		}
		s.log = append(s.log, e)
	}
	s.pending = s.pending[n:]
}

func (w *world) ownerOf(key string) *simShard {
	for _, s := range w.shards {
		if !s.dead && spanOf(s.desc).Contains(keyspace.User([]byte(key))) {
			return s
		}
	}
	return nil
}

// split puts a split into the log of the shard that holds key.
func (w *world) split(key string, child uint64) {
	s := w.ownerOf(key)
	g := s.desc.Generation + 1
	k := keyspace.User([]byte(key))
	c := &kvdpb.Descriptor{Shard: child, Start: k, End: s.desc.End, Generation: g, Parent: s.desc.Shard}
	p := &kvdpb.Descriptor{Shard: s.desc.Shard, Start: s.desc.Start, End: k, Generation: g}
	s.log = append(s.log, logEntry{child: c, parent: p, before: s.desc})
	s.desc = p
	cs := &simShard{desc: c}
	for _, h := range s.history(len(s.log)) {
		if spanOf(c).Contains(h.kv.Key) {
			cs.base = append(cs.base, h)
		}
	}
	w.shards[child] = cs
}

// merge makes the shard that holds key part of its left neighbour, if there is one
// and nothing is under way in either.
func (w *world) merge(key string) {
	right := w.ownerOf(key)
	for _, left := range w.shards {
		if left.dead || string(left.desc.End) != string(right.desc.Start) || len(left.pending)+len(right.pending) > 0 {
			continue
		}
		whole := &kvdpb.Descriptor{Shard: left.desc.Shard, Start: left.desc.Start, End: right.desc.End,
			Generation: max(left.desc.Generation, right.desc.Generation) + 1}
		// What was split off once is still in the left one's log here; it came back with
		// the rest.
		known := map[string]bool{}
		name := func(c change) string { return fmt.Sprint(c.rev, "/", c.sub, "/", string(c.kv.Key)) }
		for _, c := range left.history(len(left.log)) {
			known[name(c)] = true
		}
		var absorbed []change
		for _, c := range right.history(len(right.log)) {
			if !known[name(c)] {
				absorbed = append(absorbed, c)
			}
		}
		left.log = append(left.log, logEntry{whole: whole, absorbed: absorbed, before: left.desc})
		left.desc, right.dead = whole, true
		return
	}
}

// history returns all changes up to a raft index.
func (s *simShard) history(applied int) []change {
	out := append([]change(nil), s.base...)
	for _, e := range s.log[:applied] {
		out = append(append(out, e.changes...), e.absorbed...)
	}
	sort.SliceStable(out, func(i, j int) bool {
		return out[i].rev < out[j].rev || out[i].rev == out[j].rev && out[i].sub < out[j].sub
	})
	return out
}

func (s *simShard) stateAt(key []byte, rev int64, applied int) *mvccpb.KeyValue {
	var kv *mvccpb.KeyValue
	for _, c := range s.history(applied) {
		if c.rev <= rev && string(c.kv.Key) == string(key) {
			if kv = c.kv; c.delete {
				kv = nil
			}
		}
	}
	return kv
}

// apply makes the local replica apply n more entries, one at a time.
func (w *world) apply(id uint64, n int) {
	s := w.shards[id]
	for ; n > 0 && int(s.applied) < len(s.log); n-- {
		e := s.log[s.applied]
		s.applied++
		if e.child != nil {
			w.hub.Split(e.parent, e.child, s.applied, s.lastAt(s.applied))
			continue
		}
		if e.whole != nil {
			w.hub.Absorbed(e.whole, s.applied, s.lastAt(s.applied))
			continue
		}
		w.hub.Applied(id, s.applied, e.events())
	}
}

func (e logEntry) events() []shard.Event {
	var evs []shard.Event
	for _, c := range e.changes {
		evs = append(evs, shard.Event{Revision: c.rev, Sub: c.sub, KV: c.kv, Tombstone: c.delete})
	}
	return evs
}

// restore makes the local replica jump to a raft index by a snapshot.
func (w *world) restore(id uint64, applied uint64) {
	s := w.shards[id]
	s.applied = max(s.applied, applied)
	w.hub.Restored(id, s.descAt(s.applied), s.applied, s.lastAt(s.applied))
}

// resolved is what the owner of a shard would say now.
func (w *world) resolved(id uint64) shard.Resolved {
	return w.resolvedIn(id, spanOf(w.shards[id].desc))
}

// resolvedIn is what it would say if it served a part of its span only, as it does
// while a split of the rest is under way. Only of that part it is true.
func (w *world) resolvedIn(id uint64, span keyspace.Span) shard.Resolved {
	s := w.shards[id]
	rev := w.rev
	for i := len(s.pending) - 1; i >= 0; i-- {
		for _, c := range s.pending[i].changes {
			if span.Contains(c.kv.Key) {
				rev = c.rev - 1
			}
		}
	}
	return shard.Resolved{Shard: id, Generation: s.desc.Generation, Span: span, Applied: uint64(len(s.log)), Revision: rev}
}

// Snapshot implements Stores.
func (w *world) Snapshot(id uint64) (Snapshot, error) {
	s := w.shards[id]
	if s == nil || !s.opened {
		return nil, ErrNoReplica
	}
	if s.broken {
		return nil, errors.New("the disk is on fire")
	}
	return &simSnapshot{s: s, applied: int(s.applied), compacted: s.compacted, onRead: w.onRead}, nil
}

type simSnapshot struct {
	s         *simShard
	applied   int
	compacted int64
	onRead    func()
}

func (sn *simSnapshot) Close() {}

func (sn *simSnapshot) LastRevision() int64 { return sn.s.lastAt(uint64(sn.applied)) }

func (sn *simSnapshot) GetAt(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	if rev < sn.compacted {
		return nil, &mvcc.CompactedError{CompactRevision: sn.compacted}
	}
	return sn.s.stateAt(key, rev, sn.applied), nil
}

func (sn *simSnapshot) Events(_ context.Context, span keyspace.Span, from, to int64, maxBytes int, fn mvcc.VisitEvent) (int64, error) {
	if sn.onRead != nil {
		sn.onRead()
	}
	if from < sn.compacted {
		return from, &mvcc.CompactedError{CompactRevision: sn.compacted}
	}
	to = min(to, sn.LastRevision())
	if to < from {
		return from, nil
	}
	size, prev := 0, int64(0)
	for _, c := range sn.s.history(sn.applied) {
		if c.rev < from || c.rev > to || !span.Contains(c.kv.Key) {
			continue
		}
		if c.rev != prev && maxBytes > 0 && size >= maxBytes {
			return c.rev, nil
		}
		prev = c.rev
		size += len(c.kv.Key) + len(c.kv.Value)
		if !fn(c.rev, c.sub, c.kv, c.delete) {
			return c.rev, nil
		}
	}
	return to + 1, nil
}

// show renders a response as stories print it.
func show(r *Response) string {
	var b strings.Builder
	fmt.Fprintf(&b, "watch %d @%d", r.WatchID, r.Revision)
	if r.Created {
		b.WriteString(" created")
	}
	if r.Canceled {
		b.WriteString(" canceled")
	}
	if r.CompactRevision > 0 {
		fmt.Fprintf(&b, " compacted=%d", r.CompactRevision)
	}
	if r.CancelReason != "" {
		fmt.Fprintf(&b, " reason=%q", r.CancelReason)
	}
	if r.Fragment {
		b.WriteString(" fragment")
	}
	evs := r.Events()
	if len(evs) == 0 && !r.Created && !r.Canceled {
		b.WriteString(" progress")
	}
	for _, ev := range evs {
		fmt.Fprintf(&b, " %s", showEvent(ev))
	}
	return b.String()
}

func showEvent(ev *mvccpb.Event) string {
	s := fmt.Sprintf("%d:%s=%s", ev.Kv.ModRevision, ev.Kv.Key, short(ev.Kv.Value))
	if ev.Type == mvccpb.Event_DELETE {
		s = fmt.Sprintf("%d:-%s", ev.Kv.ModRevision, ev.Kv.Key)
	}
	if ev.PrevKv != nil {
		s += fmt.Sprintf("(was %d:%s)", ev.PrevKv.ModRevision, short(ev.PrevKv.Value))
	}
	return s
}

// short renders a long value as its first letter and its length.
func short(v []byte) string {
	if len(v) > 20 {
		return fmt.Sprintf("%c*%d", v[0], len(v))
	}
	return string(v)
}

func createRequest(id int64, key, end string, start int64) *pb.WatchCreateRequest {
	req := &pb.WatchCreateRequest{WatchId: id, StartRevision: start, Key: []byte(key)}
	if end != "" {
		req.RangeEnd = []byte(end)
	}
	return req
}

// dump renders the hub's state for a failed test.
func (h *Hub) dump() string {
	var b strings.Builder
	for _, s := range h.topology.Load().segments {
		v := s.view()
		fmt.Fprintf(&b, "segment %v shard %d local %v: floor %d resolved %d have %d entries %d\n",
			s.span, s.source.shard, s.source.local, v.floor, v.resolved, v.have, len(v.entries))
	}
	var groups []*group
	for _, g := range h.groups.live {
		groups = append(groups, g)
	}
	for _, cs := range h.groups.cohorts {
		groups = append(groups, cs...)
	}
	for _, g := range groups {
		fmt.Fprintf(&b, "group live %v over %v at %d: %d active, futures", g.live, g.span, g.pos.Load(), g.mu.active.size)
		for _, w := range g.mu.futures {
			fmt.Fprintf(&b, " %d", w.next)
		}
		b.WriteString("\n")
	}
	for s := range h.streams.open {
		fmt.Fprintf(&b, "stream: cost %d, %d watchers, %d stalled\n", s.cost.Load(), len(s.mu.watchers), len(s.mu.stalled))
	}
	return b.String()
}
