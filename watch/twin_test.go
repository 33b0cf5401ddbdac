package watch

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"slices"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard"
)

// twin knows everything that was ever written and what each watch was told, and
// checks the guarantees by the dumbest means: a list.
type twin struct {
	t       *rapid.T
	w       *world
	changes []change // of all shards, in order
	streams int
	watches map[string]*twinWatch
	nextID  int64
	// stale are answers of owners that are no longer the newest.
	stale []shard.Resolved
	child uint64
	// compactMax is the largest compaction so far.
	compactMax int64
}

// twinWatch is a watch as its client knows it.
type twinWatch struct {
	stream string
	id     int64
	span   keyspace.Span
	mask   uint8
	frag   bool
	start  int64
	// next is the first revision that it has not seen for sure; -1 until created.
	next int64
	// inside is the revision of which a fragment came last; 0 if none.
	inside   int64
	created  bool
	canceled bool
	// lost says that a compaction ended it.
	lost bool
	// got counts what it has seen of the revision inside.
	got int
	// revision is the largest header revision so far.
	revision int64
}

// wants lists what a watch must see in revisions [from, to].
func (tw *twin) wants(x *twinWatch, from, to int64) []change {
	var out []change
	lo := sort.Search(len(tw.changes), func(i int) bool { return tw.changes[i].rev >= from })
	for _, c := range tw.changes[lo:] {
		if c.rev > to {
			break
		}
		if !x.span.Contains(c.kv.Key) || (c.delete && x.mask&noDelete != 0) || (!c.delete && x.mask&noPut != 0) {
			continue
		}
		out = append(out, c)
	}
	return out
}

// check takes in the responses that a stream received.
func (tw *twin) check(name string) {
	st := tw.w.streams[name]
	got := st.got
	st.got = nil
	for i := range got {
		r := &got[i]
		if r.WatchID == InvalidWatchID {
			require.Zero(tw.t, r.EventCount())
			for _, x := range tw.watches {
				if x.stream == name && x.created && !x.canceled && !x.lost {
					tw.progress(x, r.Revision)
				}
			}
			continue
		}
		x := tw.watches[fmt.Sprintf("%s/%d", name, r.WatchID)]
		require.NotNil(tw.t, x, "response for unknown watch %s", show(r))
		switch {
		case r.Created:
			require.False(tw.t, x.created)
			x.created = true
			if x.next < 0 {
				x.next = r.Revision + 1
			}
		case r.CompactRevision > 0:
			require.True(tw.t, x.created && !x.canceled && !x.lost)
			require.Less(tw.t, x.next, r.CompactRevision, "canceled though its history is there")
			require.LessOrEqual(tw.t, r.CompactRevision, tw.compactMax)
			x.lost = true
		case r.Canceled:
			require.True(tw.t, x.created && !x.canceled)
			x.canceled = true
		case r.EventCount() == 0:
			tw.progress(x, r.Revision)
		default:
			tw.events(x, r)
		}
	}
}

// progress checks a report: everything up to rev was seen, and a client that
// resumes behind it does not go back.
func (tw *twin) progress(x *twinWatch, rev int64) {
	require.Zero(tw.t, x.inside, "progress amid a revision")
	require.GreaterOrEqual(tw.t, rev+1, min(x.next, rev+1))
	require.GreaterOrEqual(tw.t, rev, x.revision, "progress goes back for %s/%d", x.stream, x.id)
	require.Empty(tw.t, tw.wants(x, x.next, rev), "progress %d before its events for %s/%d", rev, x.stream, x.id)
	x.next, x.revision = max(x.next, rev+1), rev
}

// events checks that a response goes on exactly where the watch is.
func (tw *twin) events(x *twinWatch, r *Response) {
	require.True(tw.t, x.created && !x.canceled && !x.lost, "events for a watch that is not open: %s", show(r))
	evs := r.Events()
	last := evs[len(evs)-1].Kv.ModRevision
	require.GreaterOrEqual(tw.t, r.Revision, last)
	require.GreaterOrEqual(tw.t, r.Revision, x.revision, "header goes back")
	want := tw.wants(x, x.next, last)
	if x.inside != 0 {
		want = want[x.got:]
	}
	if r.Fragment {
		require.True(tw.t, x.frag)
		require.LessOrEqual(tw.t, len(evs), len(want))
		want = want[:len(evs)]
	}
	require.Len(tw.t, evs, len(want), "watch %s/%d over %v at %d got %s, wants %v", x.stream, x.id, x.span, x.next, show(r), want)
	for i, ev := range evs {
		tw.same(x, ev, want[i])
	}
	if r.Fragment {
		if x.inside == 0 {
			x.got = 0
		}
		x.inside, x.got = last, x.got+len(evs)
		return
	}
	x.next, x.inside, x.got, x.revision = last+1, 0, 0, r.Revision
}

func (tw *twin) same(x *twinWatch, ev *mvccpb.Event, c change) {
	require.Equal(tw.t, c.rev, ev.Kv.ModRevision)
	require.Equal(tw.t, string(c.kv.Key[1:]), string(ev.Kv.Key))
	require.Equal(tw.t, c.delete, ev.Type == mvccpb.Event_DELETE)
	if !c.delete {
		require.Equal(tw.t, string(c.kv.Value), string(ev.Kv.Value))
		require.Equal(tw.t, c.kv.CreateRevision, ev.Kv.CreateRevision)
		require.Equal(tw.t, c.kv.Version, ev.Kv.Version)
	}
	prev := tw.prev(c)
	switch {
	case x.mask&withPrev == 0 || prev == nil:
		require.Nil(tw.t, ev.PrevKv)
	case ev.PrevKv == nil:
		require.Less(tw.t, c.rev-1, tw.compactMax, "previous value missing")
	default:
		require.Equal(tw.t, prev.ModRevision, ev.PrevKv.ModRevision)
		require.Equal(tw.t, string(prev.Value), string(ev.PrevKv.Value))
		require.Equal(tw.t, string(c.kv.Key[1:]), string(ev.PrevKv.Key))
	}
}

func (tw *twin) prev(c change) *mvccpb.KeyValue {
	for i := len(tw.changes) - 1; i >= 0; i-- {
		o := tw.changes[i]
		if o.rev < c.rev && string(o.kv.Key) == string(c.kv.Key) {
			if o.delete {
				return nil
			}
			return o.kv
		}
	}
	return nil
}

const twinKeys = "abcdefghijklmnop"

func (tw *twin) key() string {
	k := string(twinKeys[rapid.IntRange(0, len(twinKeys)-1).Draw(tw.t, "key")])
	if rapid.Bool().Draw(tw.t, "long") {
		k += "x"
	}
	return k
}

func (tw *twin) anyShard() uint64 {
	ids := make([]uint64, 0, len(tw.w.shards))
	for id := range tw.w.shards {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids[rapid.IntRange(0, len(ids)-1).Draw(tw.t, "shard")]
}

func (tw *twin) anyStream() string {
	return string(rune('A' + rapid.IntRange(0, tw.streams-1).Draw(tw.t, "stream")))
}

func (tw *twin) write() {
	rev := tw.w.rev + int64(rapid.SampledFrom([]int{1, 1, 1, 1, 4}).Draw(tw.t, "step"))
	changes := map[string]*string{}
	for range rapid.SampledFrom([]int{1, 1, 1, 2, 5}).Draw(tw.t, "keys") {
		v := fmt.Sprintf("v%d%s", rev, "................"[:rapid.IntRange(0, 16).Draw(tw.t, "size")])
		changes[tw.key()] = &v
		if rapid.IntRange(0, 3).Draw(tw.t, "delete") == 0 {
			changes[tw.key()] = nil
		}
	}
	ids := tw.w.begin(rev, changes)
	var now []change
	for _, id := range ids {
		p := tw.w.shards[id].pending
		now = append(now, p[len(p)-1].changes...)
	}
	slices.SortFunc(now, func(a, b change) int { return int(a.sub - b.sub) })
	tw.changes = append(tw.changes, now...)
	if rapid.IntRange(0, 3).Draw(tw.t, "pending") > 0 {
		for _, id := range ids {
			tw.w.commit(id, len(tw.w.shards[id].pending))
		}
	}
}

// drop makes the owner of a shard lose what is pending there, where no other shard
// has a part in it. Those revisions stay empty.
func (tw *twin) drop(id uint64) {
	s := tw.w.shards[id]
	for _, e := range s.pending {
		n := 0
		for _, c := range tw.changes {
			if c.rev == e.changes[0].rev {
				n++
			}
		}
		if n != len(e.changes) {
			return
		}
	}
	for _, e := range s.pending {
		tw.changes = slices.DeleteFunc(tw.changes, func(c change) bool { return c.rev == e.changes[0].rev })
	}
	s.pending = nil
}

func (tw *twin) create(name string, x *twinWatch, start int64) {
	tw.nextID++
	x.stream, x.id = name, tw.nextID
	x.start, x.next, x.created, x.canceled = start, start, false, false
	if start == 0 {
		x.next = -1
	}
	tw.watches[fmt.Sprintf("%s/%d", name, x.id)] = x
	start0, _ := keyspace.UserKey(x.span.Start)
	req := &pb.WatchCreateRequest{WatchId: x.id, Key: start0, StartRevision: start, Fragment: x.frag, PrevKv: x.mask&withPrev != 0}
	if !x.span.IsKey() {
		req.RangeEnd = x.span.End[1:]
		if len(req.RangeEnd) == 0 {
			req.RangeEnd = []byte{0}
		}
	}
	if x.mask&noPut != 0 {
		req.Filters = append(req.Filters, pb.WatchCreateRequest_NOPUT)
	}
	if x.mask&noDelete != 0 {
		req.Filters = append(req.Filters, pb.WatchCreateRequest_NODELETE)
	}
	tw.makeRoom(name)
	require.NoError(tw.t, tw.w.stream(name).s.Create(context.Background(), req))
}

// makeRoom lets a client read before it asks for more, where it would be held up
// else.
func (tw *twin) makeRoom(name string) {
	st := tw.w.stream(name)
	st.s.mu.Lock()
	full := st.s.cost.Load() >= 2*st.s.limitLocked(true)
	st.s.mu.Unlock()
	if full {
		st.blocked = false
		tw.step()
	}
}

func (tw *twin) watch() {
	x := &twinWatch{mask: uint8(rapid.SampledFrom([]int{0, 0, 0, withPrev, withPrev, noPut, noDelete, withPrev | noDelete}).Draw(tw.t, "mask"))}
	x.frag = rapid.IntRange(0, 3).Draw(tw.t, "fragment") == 0
	a, b := tw.key(), tw.key()
	switch rapid.IntRange(0, 3).Draw(tw.t, "range") {
	case 0:
		x.span = keyspace.UserSpan([]byte(a), nil)
	case 1:
		x.span = keyspace.UserSpan([]byte(a), []byte{0})
	default:
		if a > b {
			a, b = b, a
		}
		x.span = keyspace.UserSpan([]byte(a), []byte(b+"y"))
	}
	start := int64(0)
	switch rapid.IntRange(0, 3).Draw(tw.t, "from") {
	case 0:
		start = tw.w.rev + int64(rapid.IntRange(0, 6).Draw(tw.t, "future"))
	case 1:
		start = int64(rapid.IntRange(1, int(tw.w.rev)).Draw(tw.t, "past"))
	}
	tw.create(tw.anyStream(), x, start)
}

// anyWatch returns a watch that its client believes to be open.
func (tw *twin) anyWatch() *twinWatch {
	var open []*twinWatch
	for _, x := range tw.watches {
		if !x.canceled && !x.lost && x.created {
			open = append(open, x)
		}
	}
	if len(open) == 0 {
		return nil
	}
	slices.SortFunc(open, func(a, b *twinWatch) int { return int(a.id - b.id) })
	return open[rapid.IntRange(0, len(open)-1).Draw(tw.t, "watch")]
}

// resume cancels a watch, or loses its whole stream, and begins again where the
// client was.
func (tw *twin) resume() {
	x := tw.anyWatch()
	if x == nil || x.next < 0 || x.inside != 0 {
		return
	}
	if rapid.Bool().Draw(tw.t, "cancel") {
		tw.w.streams[x.stream].blocked = false
		tw.step()
		require.NoError(tw.t, tw.w.streams[x.stream].s.Cancel(context.Background(), x.id))
		tw.step()
		require.True(tw.t, x.canceled || x.lost)
		if !x.lost {
			tw.create(tw.anyStream(), tw.again(x), x.next)
		}
		return
	}
	st := tw.w.streams[x.stream]
	st.s.Close()
	delete(tw.w.streams, x.stream)
	var lost []*twinWatch
	for key, y := range tw.watches {
		if y.stream == x.stream {
			delete(tw.watches, key)
			if y.created && !y.canceled && !y.lost && y.inside == 0 {
				lost = append(lost, y)
			}
		}
	}
	slices.SortFunc(lost, func(a, b *twinWatch) int { return int(a.id - b.id) })
	for _, y := range lost {
		tw.create(tw.anyStream(), tw.again(y), y.next)
	}
}

func (tw *twin) again(x *twinWatch) *twinWatch {
	return &twinWatch{span: x.span, mask: x.mask, frag: x.frag}
}

func (tw *twin) step() {
	tw.w.settle()
	for _, name := range tw.w.streamNames() {
		tw.check(name)
	}
}

// answer lets owners answer an open round: truly, late, or not at all. An answer
// is always true of the index that it names.
func (tw *twin) answer() {
	if len(tw.w.open) == 0 {
		return
	}
	r := tw.w.open[rapid.IntRange(0, len(tw.w.open)-1).Draw(tw.t, "round")]
	for _, id := range r.shards {
		what := rapid.IntRange(0, 6).Draw(tw.t, "answer")
		if tw.w.shards[id].dead {
			what = min(what, 1)
		}
		switch what {
		case 0:
		case 1:
			for _, s := range tw.stale {
				if s.Shard == id {
					r.answer(s)
				}
			}
		case 2:
			// The owner is about to split, and speaks for its left half.
			span := spanOf(tw.w.shards[id].desc)
			if k := keyspace.User([]byte(tw.key())); span.Contains(k) {
				span.End = k
			}
			if !span.Empty() {
				r.answer(tw.w.resolvedIn(id, span))
			}
		default:
			r.answer(tw.w.resolved(id))
		}
	}
	if rapid.Bool().Draw(tw.t, "end") {
		tw.w.endRound(r)
	}
}

func TestHubAgainstTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{StreamBytes: 1, RingBytes: 1 << 20, WindowBytes: 100, MaxResponseBytes: envelopeSize + 60}
		if rapid.Bool().Draw(t, "roomy") {
			cfg.StreamBytes = 1 << 20
		}
		if rapid.Bool().Draw(t, "smallRing") {
			cfg.RingBytes = 6000
		}
		tw := &twin{t: t, w: newWorld(t, cfg), watches: map[string]*twinWatch{}, streams: 3, child: 10}
		defer tw.w.close()
		tw.w.owner = rapid.Bool().Draw(t, "owner")
		tw.w.addShard(1, "", "f")
		tw.w.addShard(2, "f", "k")
		tw.w.addShard(3, "k", "")
		for id := uint64(1); id <= 3; id++ {
			tw.w.openReplica(id, 0)
		}
		t.Repeat(map[string]func(*rapid.T){
			"write":  func(t *rapid.T) { tw.t = t; tw.write() },
			"write2": func(t *rapid.T) { tw.t = t; tw.write() },
			"apply": func(t *rapid.T) {
				tw.t = t
				id := tw.anyShard()
				if tw.w.shards[id].opened {
					tw.w.apply(id, rapid.IntRange(1, 5).Draw(t, "n"))
				}
			},
			"split": func(t *rapid.T) {
				tw.t = t
				k := tw.key()
				if s := tw.w.ownerOf(k); string(s.desc.Start) != string(keyspace.User([]byte(k))) && tw.child < 16 && len(s.pending) == 0 {
					tw.child++
					tw.w.split(k, tw.child)
				}
			},
			"merge": func(t *rapid.T) {
				tw.t = t
				if rapid.Bool().Draw(t, "merge") {
					tw.w.merge(tw.key())
				}
			},
			"commit": func(t *rapid.T) {
				tw.t = t
				id := tw.anyShard()
				tw.w.commit(id, rapid.IntRange(0, len(tw.w.shards[id].pending)).Draw(t, "n"))
			},
			"drop": func(t *rapid.T) {
				tw.t = t
				if rapid.IntRange(0, 3).Draw(t, "drop") == 0 {
					tw.drop(tw.anyShard())
				}
			},
			"open": func(t *rapid.T) {
				tw.t = t
				id := tw.anyShard()
				if s := tw.w.shards[id]; !s.opened {
					tw.w.openReplica(id, max(s.applied, uint64(rapid.IntRange(0, len(s.log)).Draw(t, "applied"))))
				}
			},
			"close": func(t *rapid.T) {
				tw.t = t
				id := tw.anyShard()
				if s := tw.w.shards[id]; s.opened && rapid.IntRange(0, 3).Draw(t, "close") == 0 {
					s.opened = false
					tw.w.hub.Closed(id)
				}
			},
			"rewind": func(t *rapid.T) {
				// A replica that was moved away and back, or rewound in a crash, begins
				// below what watches have seen.
				tw.t = t
				id := tw.anyShard()
				if s := tw.w.shards[id]; !s.opened {
					s.applied = uint64(rapid.IntRange(0, int(s.applied)).Draw(t, "to"))
					tw.w.openReplica(id, s.applied)
				}
			},
			"restore": func(t *rapid.T) {
				tw.t = t
				id := tw.anyShard()
				if s := tw.w.shards[id]; s.opened && rapid.IntRange(0, 2).Draw(t, "restore") == 0 {
					tw.w.restore(id, uint64(rapid.IntRange(int(s.applied), len(s.log)).Draw(t, "to")))
				}
			},
			"break": func(t *rapid.T) {
				tw.t = t
				s := tw.w.shards[tw.anyShard()]
				s.broken = !s.broken && rapid.IntRange(0, 3).Draw(t, "break") == 0
				tw.w.hub.wakeGroups()
			},
			"compact": func(t *rapid.T) {
				tw.t = t
				if rapid.IntRange(0, 5).Draw(t, "compact") == 0 {
					tw.w.compacted = max(tw.w.compacted, int64(rapid.IntRange(1, int(tw.w.rev)).Draw(t, "rev")))
					tw.compactMax = tw.w.compacted
				}
				// Every store follows in its own time.
				tw.w.shards[tw.anyShard()].compacted = tw.w.compacted
			},
			"watch":  func(t *rapid.T) { tw.t = t; tw.watch() },
			"resume": func(t *rapid.T) { tw.t = t; tw.resume() },
			"progress": func(t *rapid.T) {
				tw.t = t
				name := tw.anyStream()
				tw.makeRoom(name)
				require.NoError(t, tw.w.stream(name).s.Progress(context.Background()))
			},
			"block": func(t *rapid.T) {
				tw.t = t
				st := tw.w.stream(tw.anyStream())
				st.blocked = !st.blocked
			},
			"answer":  func(t *rapid.T) { tw.t = t; tw.answer() },
			"answer2": func(t *rapid.T) { tw.t = t; tw.answer() },
			"remember": func(t *rapid.T) {
				tw.t = t
				if id := tw.anyShard(); !tw.w.shards[id].dead {
					tw.stale = append(tw.stale, tw.w.resolved(id))
				}
			},
			"": func(t *rapid.T) { tw.t = t; tw.step() },
		})
		tw.t = t
		tw.heal()
	})
}

// heal lets everything work and demands that every watch sees everything.
func (tw *twin) heal() {
	for _, id := range sortedIDs(tw.w.shards) {
		s := tw.w.shards[id]
		s.broken = false
		tw.w.commit(id, len(s.pending))
		if s.dead {
			if s.opened {
				s.opened = false
				tw.w.hub.Closed(id)
			}
			continue
		}
		if !s.opened {
			tw.w.openReplica(id, s.applied)
		}
		tw.w.apply(id, math.MaxInt)
	}
	for _, st := range tw.w.streams {
		st.blocked = false
	}
	tw.w.hub.wakeGroups()
	for range 100 {
		tw.step()
		for len(tw.w.open) > 0 {
			r := tw.w.open[0]
			for _, id := range r.shards {
				if !tw.w.shards[id].dead {
					r.answer(tw.w.resolved(id))
				}
			}
			tw.w.endRound(r)
			tw.step()
		}
		// What was waiting for a retry that a timer would have brought.
		tw.w.hub.wakeGroups()
	}
	for _, x := range tw.watches {
		if x.created && !x.canceled && !x.lost {
			require.Empty(tw.t, tw.wants(x, x.next, tw.w.rev), "watch %s/%d over %v stands still at %d", x.stream, x.id, x.span, x.next)
		}
	}
	// With everything in reach, progress is answered for all.
	for _, name := range tw.w.streamNames() {
		require.NoError(tw.t, tw.w.streams[name].s.Progress(context.Background()))
	}
	for range 20 {
		tw.step()
		for len(tw.w.open) > 0 {
			r := tw.w.open[0]
			for _, id := range r.shards {
				if !tw.w.shards[id].dead {
					r.answer(tw.w.resolved(id))
				}
			}
			tw.w.endRound(r)
			tw.step()
		}
	}
	for _, x := range tw.watches {
		future := false
		for _, y := range tw.watches {
			future = future || y.stream == x.stream && !y.canceled && !y.lost && y.start > tw.w.rev
		}
		if x.created && !x.canceled && !x.lost && !future {
			require.Equal(tw.t, tw.w.rev+1, x.next, "watch %s/%d was not told its progress", x.stream, x.id)
		}
	}
}

func sortedIDs(m map[uint64]*simShard) []uint64 {
	ids := make([]uint64, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// TestIndexAgainstTwin compares the index of watchers with a list of them.
func TestIndexAgainstTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newIndex()
		var list []*watcher
		streams := []*Stream{{}, {}, {}}
		key := rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 1, 3, -1)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				a, b := key.Draw(t, "start"), key.Draw(t, "end")
				if rapid.Bool().Draw(t, "single") {
					b = ""
				} else if a > b {
					a, b = b, a
				}
				span := keyspace.UserSpan([]byte(a), []byte(b))
				if span.Empty() {
					return
				}
				w := &watcher{stream: streams[rand.Intn(3)], span: span, id: int64(len(list))}
				if rapid.Bool().Draw(t, "prev") {
					w.mask = withPrev
				}
				list = append(list, w)
				x.add(w)
			},
			"remove": func(t *rapid.T) {
				if len(list) == 0 {
					return
				}
				i := rapid.IntRange(0, len(list)-1).Draw(t, "which")
				require.True(t, x.remove(list[i]))
				require.False(t, x.remove(list[i]))
				list = slices.Delete(list, i, i+1)
			},
			"": func(t *rapid.T) {
				require.Equal(t, len(list), x.size)
				k := keyspace.User([]byte(key.Draw(t, "key")))
				got := map[*watcher]int{}
				x.visit(k, func(n *node) {
					prevs := 0
					n.each(func(w *watcher) {
						got[w]++
						if w.mask&withPrev != 0 {
							prevs++
						}
					})
					require.Equal(t, prevs, n.prevs)
				})
				want := map[*watcher]int{}
				for _, w := range list {
					if w.span.Contains(k) {
						want[w]++
					}
				}
				require.Equal(t, want, got)
				require.Equal(t, len(want) > 0, x.concerns(k))
			},
		})
	})
}
