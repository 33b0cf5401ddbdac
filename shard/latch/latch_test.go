package latch

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

func point1(key string, write bool) Latch {
	return Latch{Span: keyspace.UserSpan([]byte(key), nil), Write: write}
}

func range1(start, end string, write bool) Latch {
	return Latch{Span: keyspace.UserSpan([]byte(start), []byte(end)), Write: write}
}

// recorder notes the calls of its guard.
type recorder struct {
	guard Guard
	calls int
	ok    bool
}

func (r *recorder) Latched(_ *Guard, ok bool) { r.calls++; r.ok = ok }

func (r *recorder) acquire(m *Manager, latches ...Latch) Status {
	return m.Acquire(&r.guard, latches, r)
}

func TestFirstComeFirstServed(t *testing.T) {
	m := New()
	var w1, w2, r1, r2, other recorder
	require.Equal(t, Granted, w1.acquire(m, point1("a", true)))
	require.Equal(t, Queued, r1.acquire(m, point1("a", false)))
	require.Equal(t, Queued, r2.acquire(m, range1("", "b", false)))
	require.Equal(t, Queued, w2.acquire(m, point1("a", true)))
	require.Equal(t, Granted, other.acquire(m, point1("b", true)))

	m.Release(&w1.guard)
	require.True(t, r1.ok)
	require.True(t, r2.ok)
	require.Zero(t, w2.calls)
	m.Release(&r1.guard)
	require.Zero(t, w2.calls)
	m.Release(&r2.guard)
	require.True(t, w2.ok)
}

func TestReadOfRangeMeetsWriteOfKey(t *testing.T) {
	m := New()
	var list, put, outside recorder
	require.Equal(t, Granted, list.acquire(m, range1("a", "c", false)))
	require.Equal(t, Queued, put.acquire(m, point1("b", true)))
	require.Equal(t, Granted, outside.acquire(m, point1("c", true)))
	m.Release(&list.guard)
	require.True(t, put.ok)
}

func TestRequestDoesNotConflictWithItself(t *testing.T) {
	m := New()
	var txn, next recorder
	require.Equal(t, Granted, txn.acquire(m,
		point1("a", false), point1("a", true), point1("a", false), range1("", "z", false), range1("a", "b", true)))
	require.Equal(t, Queued, next.acquire(m, point1("a", false)))
	m.Release(&txn.guard)
	require.True(t, next.ok)
	m.Release(&next.guard)
	require.Empty(t, m.mu.points)
	require.Zero(t, m.mu.ranges.Len())
	require.Zero(t, m.writers.Load())
}

func TestCancelledWaiterKeepsTheOrder(t *testing.T) {
	m := New()
	var w1, w2, w3 recorder
	require.Equal(t, Granted, w1.acquire(m, point1("a", true)))
	require.Equal(t, Queued, w2.acquire(m, point1("a", true)))
	require.Equal(t, Queued, w3.acquire(m, point1("a", true)))
	require.True(t, m.Cancel(&w2.guard))
	require.False(t, m.Cancel(&w2.guard))
	require.False(t, m.Cancel(&w1.guard), "it holds its latches")
	require.Zero(t, w3.calls)
	m.Release(&w1.guard)
	require.Zero(t, w2.calls)
	require.True(t, w3.ok)
}

// A read waits for the writer that holds the key, not for those that queue
// behind it.
func TestWaitWriters(t *testing.T) {
	m := New()
	span := []keyspace.Span{keyspace.UserSpan([]byte("a"), []byte("c"))}
	var w1, w2, del, r1, r2, r3 recorder
	require.Equal(t, Granted, m.WaitWriters(&r1.guard, span, &r1))
	require.Equal(t, Granted, w1.acquire(m, point1("b", true)))
	require.Equal(t, Queued, w2.acquire(m, point1("b", true)))
	require.Equal(t, Granted, del.acquire(m, range1("c", "e", true)))
	require.True(t, m.HasWriter(span[0]))
	require.True(t, m.HasWriter(keyspace.UserSpan([]byte("d"), nil)))
	require.False(t, m.HasWriter(keyspace.UserSpan([]byte("a"), nil)))
	require.Equal(t, Queued, m.WaitWriters(&r1.guard, span, &r1))
	require.Equal(t, Queued, m.WaitWriters(&r2.guard, span, &r2))
	require.True(t, m.Cancel(&r2.guard))
	m.Release(&w1.guard)
	require.True(t, r1.ok)
	require.Zero(t, r2.calls)
	require.True(t, w2.ok)
	require.Equal(t, Queued, m.WaitWriters(&r3.guard, []keyspace.Span{keyspace.Users()}, &r3))
	m.Release(&w2.guard)
	require.Zero(t, r3.calls)
	m.Release(&del.guard)
	require.True(t, r3.ok)
}

func TestCloseCallsWaiters(t *testing.T) {
	m := New()
	var w1, w2, r recorder
	require.Equal(t, Granted, w1.acquire(m, point1("a", true)))
	require.Equal(t, Queued, w2.acquire(m, point1("a", true)))
	require.Equal(t, Queued, m.WaitWriters(&r.guard, []keyspace.Span{keyspace.Users()}, &r))
	m.Close()
	m.Close()
	require.Equal(t, 1, w2.calls)
	require.False(t, w2.ok)
	require.Equal(t, 1, r.calls)
	require.False(t, r.ok)
	require.Equal(t, Closed, (&recorder{}).acquire(m, point1("x", true)))
	require.True(t, m.HasWriter(keyspace.UserSpan([]byte("x"), nil)), "a closed manager vouches for nothing")
	require.False(t, m.Cancel(&w2.guard))
	m.Release(&w1.guard)
}

// twin is the manager as a sorted slice: a request is granted once no earlier
// one that is still there conflicts with it.
type twin struct {
	requests []*twinRequest
}

type twinRequest struct {
	recorder
	latches                  []Latch
	held, cancelled, expects bool
}

func (t *twin) conflict(a, b *twinRequest) bool {
	for _, x := range a.latches {
		for _, y := range b.latches {
			if (x.Write || y.Write) && x.Span.Overlaps(y.Span) {
				return true
			}
		}
	}
	return false
}

// settle grants what can be granted, in order, and removes cancelled requests
// whose turn has come.
func (t *twin) settle() {
	for again := true; again; {
		again = false
		for i, r := range t.requests {
			blocked := false
			for _, earlier := range t.requests[:i] {
				blocked = blocked || t.conflict(earlier, r)
			}
			switch {
			case blocked || r.held:
			case r.cancelled:
				t.requests = append(t.requests[:i:i], t.requests[i+1:]...)
				again = true
			default:
				r.held = true
			}
			if again {
				break
			}
		}
	}
}

func (t *twin) remove(r *twinRequest) {
	for i, o := range t.requests {
		if o == r {
			t.requests = append(t.requests[:i:i], t.requests[i+1:]...)
			return
		}
	}
}

// twinWait is a WaitWriters under way.
type twinWait struct {
	recorder
	holders map[*twinRequest]bool
}

func TestManagerAgainstSortedSlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, tw := New(), &twin{}
		var waits []*twinWait
		key := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		end := rapid.SampledFrom([]string{"", "", "b", "c", "d", "\x00"})
		latch := rapid.Custom(func(t *rapid.T) Latch {
			return Latch{
				Span:  keyspace.UserSpan([]byte(key.Draw(t, "key")), []byte(end.Draw(t, "end"))),
				Write: rapid.Bool().Draw(t, "write"),
			}
		})
		pick := func(t *rapid.T, held bool) *twinRequest {
			var of []*twinRequest
			for _, r := range tw.requests {
				if r.held == held && !r.cancelled {
					of = append(of, r)
				}
			}
			if len(of) == 0 {
				t.Skip("none")
			}
			return rapid.SampledFrom(of).Draw(t, "request")
		}
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) {
				r := &twinRequest{latches: rapid.SliceOfN(latch, 0, 3).Draw(t, "latches")}
				status := m.Acquire(&r.guard, r.latches, r)
				tw.requests = append(tw.requests, r)
				tw.settle()
				r.expects = !r.held
				require.Equal(t, r.held, status == Granted)
			},
			"release": func(t *rapid.T) {
				r := pick(t, true)
				tw.remove(r)
				for _, w := range waits {
					delete(w.holders, r)
				}
				tw.settle()
				m.Release(&r.guard)
			},
			"cancel": func(t *rapid.T) {
				r := pick(t, false)
				r.cancelled = true
				require.True(t, m.Cancel(&r.guard))
				tw.settle()
			},
			"wait for writers": func(t *rapid.T) {
				w := &twinWait{holders: make(map[*twinRequest]bool)}
				span := latch.Draw(t, "span").Span
				for _, r := range tw.requests {
					for _, l := range r.latches {
						if r.held && l.Write && l.Span.Overlaps(span) {
							w.holders[r] = true
						}
					}
				}
				require.Equal(t, len(w.holders) > 0, m.HasWriter(span))
				status := m.WaitWriters(&w.guard, []keyspace.Span{span}, w)
				require.Equal(t, len(w.holders) == 0, status == Granted)
				if status == Queued {
					waits = append(waits, w)
				}
			},
			"": func(t *rapid.T) {
				for _, r := range tw.requests {
					want := 0
					if r.expects && r.held {
						want = 1
					}
					require.Equal(t, want, r.calls)
				}
				for _, w := range waits {
					require.Equal(t, len(w.holders) == 0, w.calls == 1)
				}
				if len(tw.requests) == 0 {
					require.Empty(t, m.mu.points)
					require.Zero(t, m.mu.order.Len())
					require.Zero(t, m.mu.ranges.Len())
					require.Zero(t, m.writers.Load())
				}
			},
		})
	})
}

// chanWaiter wakes the goroutine that waits.
type chanWaiter chan bool

func (c chanWaiter) Latched(_ *Guard, ok bool) { c <- ok }

func TestConcurrentWritersExcludeEachOther(t *testing.T) {
	m := New()
	var counter, inside atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				l := point1("k", true)
				if (i+j)%5 == 0 {
					l = range1("a", "z", true)
				}
				var g Guard
				w := make(chanWaiter, 1)
				if m.Acquire(&g, []Latch{l}, w) == Queued && !<-w {
					t.Error("closed")
				}
				if inside.Add(1) != 1 {
					t.Error("two writers inside")
				}
				counter.Add(1)
				inside.Add(-1)
				m.Release(&g)
			}
		})
	}
	wg.Wait()
	require.Equal(t, int64(1600), counter.Load())
	require.Empty(t, m.mu.points)
}

func BenchmarkPoint(b *testing.B) {
	m := New()
	l := []Latch{point1("some/key/of/usual/length/000001", true)}
	var r recorder
	b.ReportAllocs()
	for b.Loop() {
		m.Acquire(&r.guard, l, &r)
		m.Release(&r.guard)
	}
}
