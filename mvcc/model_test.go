package mvcc

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

func testRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// modelKeys are awkward on purpose: prefixes of each other, with the bytes that
// end a row's key.
var modelKeys = func() (keys [][]byte) {
	for _, k := range []string{"a", "a\x00", "a\x00\x00", "a\x09", "a\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09", "ab", "b", "b\xff", "c", "\xff\xff"} {
		keys = append(keys, key(k))
	}
	return append(keys, keyspace.Internal([]byte("l")))
}()

// machine drives a store and its twin through the same steps.
type machine struct {
	t      *rapid.T
	fs     *vfs.MemFS
	engine *Engine
	store  *Store
	twin   *twin
	// history has the twin after every batch since the last flush that is known
	// to be durable: a crash may go back to any of them.
	history []*twin
	held    []heldSnapshot
	name    int
	// keeps: no span is ever dropped for good.
	keeps bool
}

type heldSnapshot struct {
	sn   *Snapshot
	twin *twin
}

func newMachine(t *rapid.T) *machine {
	m := &machine{t: t, fs: vfs.NewCrashableMem(), twin: &twin{local: map[string]string{}}}
	m.open()
	m.history = []*twin{m.twin.clone()}
	return m
}

func (m *machine) open() {
	e, err := NewEngine(EngineOptions{
		CacheBytes: 4 << 20, MemtableBudget: 64 << 20, FS: m.fs, NoBackground: true,
		fatal: func(msg string) { panic(msg) },
	})
	require.NoError(m.t, err)
	e.bulkEvents = rapid.SampledFrom([]int{1, 3, 1000}).Draw(m.t, "bulk events")
	s, err := e.Open(m.dir())
	require.NoError(m.t, err)
	m.engine, m.store = e, s
}

func (m *machine) dir() string { return fmt.Sprintf("stores/%d", m.name) }

func (m *machine) close() {
	for _, h := range m.held {
		h.sn.Close()
	}
	m.held = nil
	require.NoError(m.t, m.store.Close())
	require.NoError(m.t, m.engine.Close())
}

func (m *machine) committed() { m.history = append(m.history, m.twin.clone()) }

// durable notes that the present state survives a crash.
func (m *machine) durable() { m.history = []*twin{m.twin.clone()} }

// Apply commits a batch of some revisions.
func (m *machine) Apply(t *rapid.T) {
	b := m.store.NewBatch()
	defer b.Close()
	if !m.keeps && rapid.IntRange(0, 19).Draw(t, "drop first") == 0 {
		span := m.span(t)
		b.DropSpan(span)
		m.twin.drop(span)
	}
	for range rapid.IntRange(1, 3).Draw(t, "revisions") {
		rev := m.twin.last + int64(rapid.IntRange(1, 3).Draw(t, "step"))
		keys := rapid.SliceOfNDistinct(rapid.SampledFrom(modelKeys), 1, 4, func(k []byte) string { return string(k) }).Draw(t, "keys")
		for i, k := range keys {
			sub := int64(i)
			if rapid.IntRange(0, 9).Draw(t, "large sub") == 0 {
				sub += 250
			}
			if len(m.twin.events) > 0 && m.twin.events[len(m.twin.events)-1].rev == rev {
				sub = max(sub, m.twin.events[len(m.twin.events)-1].sub+1)
			}
			tombstone := m.twin.get(string(k), 0).Version > 0 && rapid.Bool().Draw(t, "delete")
			value := rapid.StringMatching(`[a-z]{0,12}`).Draw(t, "value")
			lease := int64(rapid.IntRange(-1, 1).Draw(t, "lease"))
			b.Put(rev, sub, m.twin.effect(rev, sub, k, value, lease, tombstone))
		}
		m.twin.last = rev
	}
	if rapid.Bool().Draw(t, "local") {
		name := rapid.StringMatching(`[ab]{0,2}`).Draw(t, "name")
		if rapid.Bool().Draw(t, "delete local") {
			b.DeleteLocal([]byte(name))
			delete(m.twin.local, name)
		} else {
			b.SetLocal([]byte(name), []byte("v"))
			m.twin.local[name] = "v"
		}
	}
	m.twin.applied++
	b.SetAppliedIndex(m.twin.applied)
	require.NoError(t, b.Commit())
	m.committed()
}

// Compact raises the compaction revision.
func (m *machine) Compact(t *rapid.T) {
	if m.twin.last == 0 {
		t.Skip("empty")
	}
	rev := int64(rapid.IntRange(1, int(m.twin.last)).Draw(t, "revision"))
	b := m.store.NewBatch()
	defer b.Close()
	b.SetCompactRevision(rev)
	require.NoError(t, b.Commit())
	m.twin.compact = max(m.twin.compact, rev)
	m.committed()
}

// Drop drops a span.
func (m *machine) Drop(t *rapid.T) {
	span := m.span(t)
	b := m.store.NewBatch()
	defer b.Close()
	b.DropSpan(span)
	require.NoError(t, b.Commit())
	m.twin.drop(span)
	m.committed()
}

func (m *machine) span(t *rapid.T) keyspace.Span {
	bound := rapid.SampledFrom(append([][]byte{keyspace.Min(), keyspace.UserEnd(), keyspace.Max()}, modelKeys...))
	s := keyspace.Span{Start: bound.Draw(t, "start"), End: bound.Draw(t, "end")}
	if bytes.Compare(s.Start, s.End) > 0 {
		s.Start, s.End = s.End, s.Start
	}
	return s
}

// Collect does a step of collection.
func (m *machine) Collect(t *rapid.T) {
	l := CollectLimits{Rows: rapid.IntRange(1, 5).Draw(t, "rows"), Deletes: rapid.IntRange(1, 5).Draw(t, "deletes")}
	_, err := m.store.Collect(context.Background(), l)
	require.NoError(t, err)
	require.LessOrEqual(t, m.store.CollectedRevision(), m.store.CompactRevision())
}

// Refine cuts counters.
func (m *machine) Refine(t *rapid.T) {
	_, err := m.store.refineCounters(context.Background())
	require.NoError(t, err)
}

// Hold keeps a snapshot open, to be looked at later.
func (m *machine) Hold(*rapid.T) {
	if len(m.held) == 3 {
		m.held[0].sn.Close()
		m.held = m.held[1:]
	}
	m.held = append(m.held, heldSnapshot{m.store.NewSnapshot(), m.twin.clone()})
}

// Flush makes the state durable.
func (m *machine) Flush(t *rapid.T) {
	require.NoError(t, m.store.Flush())
	m.durable()
}

// Reopen closes the store in order.
func (m *machine) Reopen(*rapid.T) {
	m.close()
	m.open()
	m.durable()
}

// Crash loses what was not durable, and some more or less of the rest.
func (m *machine) Crash(t *rapid.T) {
	fs := m.fs.CrashClone(vfs.CrashCloneCfg{
		UnsyncedDataPercent: rapid.SampledFrom([]int{0, 50, 100}).Draw(t, "unsynced"),
		RNG:                 testRand(rapid.Uint64().Draw(t, "seed")),
	})
	m.close()
	m.fs = fs
	m.open()
	found := false
	for _, w := range m.history {
		if w.applied == m.store.AppliedIndex() && w.last == m.store.LastRevision() && w.compact == m.store.CompactRevision() && w.sameDrops(m.store) {
			m.twin, found = w.clone(), true
		}
	}
	require.True(t, found, "the crash left a state that never was: %d/%d", m.store.AppliedIndex(), m.store.LastRevision())
	m.durable()
}

func (w *twin) sameDrops(s *Store) bool {
	sn := s.NewSnapshot()
	defer sn.Close()
	return int(sn.meta.drops) == w.drops
}

// Stream moves the state to a new store, over what that one held.
func (m *machine) Stream(t *rapid.T) {
	var buf bytes.Buffer
	sn := m.store.NewSnapshot()
	err := m.store.WriteSnapshot(sn, &buf, nil)
	sn.Close()
	require.NoError(t, err)
	if rapid.Bool().Draw(t, "to another") {
		m.close()
		m.name++
		m.open()
		apply(t, m.store, 7, put("foreign", "x", 1))
	}
	require.NoError(t, m.store.ReadSnapshot(&buf, nil))
	m.durable()
}

// Seed goes on with a child of the store.
func (m *machine) Seed(t *rapid.T) {
	keep := m.span(t)
	if keep.Empty() {
		t.Skip("empty span")
	}
	m.name++
	local := map[string][]byte{"child": []byte("yes")}
	require.NoError(t, m.engine.Seed(m.dir(), m.store, keep, m.store.LastRevision(), local))
	m.name--
	m.Check(t)
	m.close()
	m.name++
	m.open()
	m.twin.applied = 0
	m.twin.local = map[string]string{"child": "yes"}
	kept := m.twin.events[:0:0]
	for _, ev := range m.twin.events {
		if keep.Contains([]byte(ev.key)) {
			kept = append(kept, ev)
		}
	}
	m.twin.events = kept
	m.twin.drops = int(m.store.state().drops)
	m.durable()
}

// Check compares everything that can be read.
func (m *machine) Check(t *rapid.T) {
	sn := m.store.NewSnapshot()
	defer sn.Close()
	spans := []keyspace.Span{keyspace.All(), keyspace.Users(), m.span(t), keyspace.Key(modelKeys[rapid.IntRange(0, len(modelKeys)-1).Draw(t, "key")])}
	rev := int64(rapid.IntRange(0, int(m.twin.last)+2).Draw(t, "revision"))
	m.twin.check(t, sn, spans, []int64{0, rev, m.twin.compact})
	for _, h := range m.held {
		h.twin.check(t, h.sn, spans[:2], []int64{0, h.twin.compact})
	}
}

// CheckGarbage collects to the end, and counts the rows that are left: neither
// too few nor too many.
func (m *machine) CheckGarbage(t *rapid.T) {
	for done := false; !done; {
		var err error
		done, err = m.store.Collect(context.Background(), CollectLimits{Rows: 3, Deletes: 3})
		require.NoError(t, err)
	}
	require.Equal(t, m.twin.compact, m.store.CollectedRevision())
	var versions, index int
	base := map[string]twinEvent{}
	for _, ev := range m.twin.events {
		if ev.rev >= m.twin.compact {
			index++
		}
		if ev.rev > m.twin.compact {
			versions++
		} else {
			base[ev.key] = ev
		}
	}
	for _, ev := range base {
		if !ev.tombstone || ev.rev == m.twin.compact {
			versions++
		}
	}
	gotVersions, gotIndex := countStoredRows(t, m.store)
	require.Equal(t, versions, gotVersions, "versions stored")
	require.Equal(t, index, gotIndex, "index entries stored")
	m.Check(t)
}

func TestStoreAgainstTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		defer m.close()
		t.Repeat(map[string]func(*rapid.T){
			"Apply": m.Apply, "Apply2": m.Apply, "Apply3": m.Apply,
			"Compact": m.Compact, "Collect": m.Collect, "Collect2": m.Collect, "Refine": m.Refine, "CheckGarbage": m.CheckGarbage,
			"Drop": m.Drop, "Hold": m.Hold, "Flush": m.Flush, "Reopen": m.Reopen, "Crash": m.Crash,
			"Stream": m.Stream, "Seed": m.Seed,
			"Check": m.Check,
		})
		m.CheckGarbage(t)
	})
}
