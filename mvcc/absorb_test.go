package mvcc

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// absorb makes right's span of keys part of left.
func absorb(t require.TestingT, left, right *Store, span keyspace.Span) {
	sn := right.NewSnapshot()
	defer sn.Close()
	b := left.NewBatch()
	defer b.Close()
	b.Absorb(span, sn.CompactRevision(), sn.LastRevision())
	var last []byte
	require.NoError(t, sn.Versions(context.Background(), span, sn.CompactRevision(), max(sn.LastRevision(), sn.CompactRevision()), func(v *Version) error {
		b.AbsorbVersion(v, !bytes.Equal(v.Key, last))
		last = append(last[:0], v.Key...)
		return nil
	}))
	require.NoError(t, b.Commit())
}

// Merge splits a span off into a store of its own, lets both sides go on, and
// absorbs it back: as if it had never been away.
func (m *machine) Merge(t *rapid.T) {
	span := m.span(t)
	if span.Empty() {
		t.Skip("empty span")
	}
	dir := fmt.Sprintf("children/%d-%d", m.name, m.twin.drops)
	require.NoError(t, m.engine.Seed(dir, m.store, span, m.store.LastRevision(), nil))
	child, err := m.engine.Open(dir)
	require.NoError(t, err)
	defer child.Close()
	b := m.store.NewBatch()
	b.DropSpan(span)
	require.NoError(t, b.Commit())
	m.twin.drops++
	for range rapid.IntRange(0, 8).Draw(t, "steps") {
		s := rapid.SampledFrom([]*Store{m.store, child}).Draw(t, "store")
		switch rapid.IntRange(0, 3).Draw(t, "what") {
		case 0:
			_, err := s.Collect(context.Background(), CollectLimits{Rows: 3, Deletes: 3})
			require.NoError(t, err)
		case 1:
			if m.twin.last > 0 {
				b := s.NewBatch()
				b.SetCompactRevision(int64(rapid.IntRange(1, int(m.twin.last)).Draw(t, "compact")))
				require.NoError(t, b.Commit())
			}
		default:
			k := rapid.SampledFrom(modelKeys).Draw(t, "key")
			if s = m.store; span.Contains(k) {
				s = child
			}
			m.twin.last++
			tombstone := m.twin.get(string(k), 0).Version > 0 && rapid.Bool().Draw(t, "delete")
			b := s.NewBatch()
			b.Put(m.twin.last, 0, m.twin.effect(m.twin.last, 0, k, "merged", 0, tombstone))
			require.NoError(t, b.Commit())
		}
	}
	m.twin.compact = max(m.store.CompactRevision(), child.CompactRevision())
	absorb(t, m.store, child, span)
	require.NoError(t, child.Close())
	m.twin.drops++
	m.twin.last = m.store.LastRevision()
	m.Check(t)
	m.Flush(t)
}

func TestAbsorbAgainstTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		defer m.close()
		m.keeps = true
		t.Repeat(map[string]func(*rapid.T){
			"Apply": m.Apply, "Apply2": m.Apply, "Merge": m.Merge, "Merge2": m.Merge,
			"Compact": m.Compact, "Collect": m.Collect, "Refine": m.Refine, "CheckGarbage": m.CheckGarbage,
			"Hold": m.Hold, "Reopen": m.Reopen, "Crash": m.Crash, "Stream": m.Stream, "Check": m.Check,
		})
		m.CheckGarbage(t)
	})
}

func TestAbsorbedLeases(t *testing.T) {
	e := newTestEngine(t)
	left, right := openStore(t, e, "left"), openStore(t, e, "right")
	defer func() { require.NoError(t, left.Close()); require.NoError(t, right.Close()) }()
	attached := func(k string, version, lease, detach int64) *Effect {
		eff := put(k, "v", version)
		eff.Lease, eff.Detach = lease, detach
		if version > 1 {
			eff.Create = 3
		}
		return eff
	}
	apply(t, left, 2, attached("a", 1, 7, 0))
	apply(t, right, 3, attached("n", 1, 7, 0), attached("o", 1, 7, 0), attached("p", 1, 7, 0))
	apply(t, right, 4, attached("o", 2, 8, 7), &Effect{Key: key("p"), Tombstone: true, Detach: 7})
	absorb(t, left, right, keyspace.Span{Start: key("m"), End: keyspace.Max()})
	sn := left.NewSnapshot()
	defer sn.Close()
	keys := func(lease int64) (out []string) {
		require.NoError(t, sn.Leased(lease, keyspace.Users(), func(k []byte) bool {
			out = append(out, string(k[1:]))
			return true
		}))
		return out
	}
	require.Equal(t, []string{"a", "n"}, keys(7))
	require.Equal(t, []string{"o"}, keys(8))
}

func TestFaultyAbsorptionsAreRefused(t *testing.T) {
	e := newTestEngine(t)
	s := openStore(t, e, "s")
	defer func() { require.NoError(t, s.Close()) }()
	apply(t, s, 5, put("a", "1", 1))
	right := keyspace.Span{Start: key("m"), End: keyspace.Max()}
	good := func() *Version { return &Version{Key: key("n"), Revision: 4, Create: 4, Version: 1} }
	for name, do := range map[string]func(b *Batch){
		"no span":             func(b *Batch) { b.Absorb(keyspace.Span{}, 0, 3) },
		"twice":               func(b *Batch) { b.Absorb(right, 0, 3); b.Absorb(right, 0, 3) },
		"after a put":         func(b *Batch) { b.Put(6, 0, put("b", "1", 1)); b.Absorb(right, 0, 3) },
		"a put after it":      func(b *Batch) { b.Absorb(right, 0, 3); b.Put(6, 0, put("b", "1", 1)) },
		"a drop after it":     func(b *Batch) { b.Absorb(right, 0, 3); b.DropSpan(right) },
		"no beginning":        func(b *Batch) { b.AbsorbVersion(good(), true) },
		"negative revisions":  func(b *Batch) { b.Absorb(right, -1, 3) },
		"outside":             func(b *Batch) { b.Absorb(right, 0, 4); v := good(); v.Key = key("a"); b.AbsorbVersion(v, true) },
		"beyond the end":      func(b *Batch) { b.Absorb(right, 0, 4); v := good(); v.Revision = 9; b.AbsorbVersion(v, true) },
		"created later":       func(b *Batch) { b.Absorb(right, 0, 4); v := good(); v.Create = 5; b.AbsorbVersion(v, true) },
		"no version":          func(b *Batch) { b.Absorb(right, 0, 4); v := good(); v.Version = 0; b.AbsorbVersion(v, true) },
		"no place in its txn": func(b *Batch) { b.Absorb(right, 0, 4); v := good(); v.Sub = -1; b.AbsorbVersion(v, true) },
	} {
		b := s.NewBatch()
		do(b)
		require.Error(t, b.Commit(), name)
	}
	require.Equal(t, int64(5), s.LastRevision())
}
