package mvcc

import (
	"bytes"
	"fmt"
	"sort"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/stretchr/testify/require"
)

// rowLaws checks, for any three byte strings, what pebble expects of a comparer.
func rowLaws(t require.TestingT, a, b, c []byte) {
	cmp := Comparer.Compare
	require.Equal(t, cmp(a, b), -cmp(b, a))
	require.Equal(t, cmp(a, b) == 0, Comparer.Equal(a, b))
	if cmp(a, b) <= 0 && cmp(b, c) <= 0 {
		require.LessOrEqual(t, cmp(a, c), 0)
	}
	n := Split(a)
	prefix := a[:n]
	require.Equal(t, n, Split(prefix))
	if n < len(a) {
		require.Negative(t, cmp(prefix, a), "a bare prefix sorts first")
	}
	if cmp(a, b) <= 0 {
		require.LessOrEqual(t, cmp(prefix, b[:Split(b)]), 0)
	}
	if bytes.Equal(prefix, b[:Split(b)]) {
		require.Equal(t, cmp(a, b), Comparer.ComparePointSuffixes(a[n:], b[Split(b):]))
	}
	if Comparer.AbbreviatedKey(a) < Comparer.AbbreviatedKey(b) {
		require.Negative(t, cmp(a, b))
	}
	next := Comparer.ImmediateSuccessor(nil, prefix)
	require.Equal(t, len(next), Split(next))
	require.Negative(t, cmp(prefix, next))
	if len(a) > 0 && len(b) > 0 && cmp(a, b) < 0 {
		sep := Comparer.Separator([]byte("x"), a, b)[1:]
		require.LessOrEqual(t, cmp(a, sep), 0)
		require.Negative(t, cmp(sep, b))
	}
	require.LessOrEqual(t, cmp(a, Comparer.Successor([]byte("x"), a)[1:]), 0)
	_ = fmt.Sprint(Comparer.FormatKey(a), Comparer.ValidateKey(a))
}

func FuzzComparer(f *testing.F) {
	f.Add([]byte(nil), []byte{0}, []byte{9})
	f.Add([]byte("a\x00"), []byte("a\x00\x00\x00\x00\x00\x00\x00\x00\x01\x09"), []byte("a\x00\x00"))
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x02\x09"), []byte("s"), []byte("a\x09"))
	f.Add(bytes.Repeat([]byte{9}, 12), bytes.Repeat([]byte{0xff}, 12), append(bytes.Repeat([]byte{0}, 11), 9))
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		rowLaws(t, a, b, c)
		// The same of rows that the store would build from them.
		rows := [][]byte{appendVersionKey(nil, a, 5), appendVersionKey(nil, a, 6), appendPrefix(nil, a), appendVersionKey(nil, b, 5), appendPrefix(nil, c)}
		for _, x := range rows {
			require.NoError(t, Comparer.ValidateKey(x))
			for _, y := range rows {
				for _, z := range rows {
					rowLaws(t, x, y, z)
				}
				if x[0] != y[0] {
					continue
				}
			}
		}
		require.Positive(t, Comparer.Compare(rows[0], rows[1]), "larger revisions sort first")
		require.Equal(t, bytes.Compare(a, b), Comparer.Compare(appendPrefix(nil, a), appendPrefix(nil, b)), "rows sort as keys do")
		if ka, kb := bytes.Compare(a, b), Comparer.Compare(rows[0], rows[3]); ka != 0 {
			require.Equal(t, ka, kb)
		}
	})
}

// TestSeeksInTables compares seeks in blocks of the key schema with a sorted
// slice.
func TestSeeksInTables(t *testing.T) {
	rng := testRand(1)
	s := openStore(t, newTestEngine(t), "db")
	g := s.current.Load()
	var rows [][]byte
	add := func(row []byte) {
		require.NoError(t, g.db.Set(row, []byte("v"), pebble.NoSync))
		rows = append(rows, row)
	}
	randomKey := func() []byte {
		k := []byte{0x01}
		for range rng.IntN(12) {
			k = append(k, "\x00\x01\x09ab\xff"[rng.IntN(6)])
		}
		return k
	}
	for range 3000 {
		k := randomKey()
		if rng.IntN(4) == 0 {
			add(appendPrefix(nil, k))
		}
		for range 1 + rng.IntN(8) {
			add(appendVersionKey(nil, k, 1+rng.Int64N(1<<uint(1+rng.IntN(60)))))
		}
	}
	sort.Slice(rows, func(i, j int) bool { return compareRows(rows[i], rows[j]) < 0 })
	distinct := rows[:1]
	for _, r := range rows[1:] {
		if !bytes.Equal(r, distinct[len(distinct)-1]) {
			distinct = append(distinct, r)
		}
	}
	rows = distinct
	require.NoError(t, g.db.Flush())
	require.NoError(t, g.db.Compact(t.Context(), []byte{0}, []byte{0xff, 0}, false))

	it, err := g.db.NewIter(&pointOptions)
	require.NoError(t, err)
	defer it.Close()
	i := 0
	for valid := it.First(); valid; valid = it.Next() {
		require.Equal(t, rows[i], it.Key())
		i++
	}
	require.Equal(t, len(rows), i)
	for range 5000 {
		var seek []byte
		switch k := randomKey(); rng.IntN(3) {
		case 0:
			seek = appendPrefix(nil, k)
		case 1:
			seek = appendVersionKey(nil, k, rng.Int64N(1<<uint(1+rng.IntN(60))))
		default:
			seek = rows[rng.IntN(len(rows))]
		}
		at := sort.Search(len(rows), func(i int) bool { return compareRows(rows[i], seek) >= 0 })
		if valid := it.SeekGE(seek); at == len(rows) {
			require.False(t, valid)
		} else {
			require.True(t, valid)
			require.Equal(t, rows[at], it.Key(), "seek %s", Comparer.FormatKey(seek))
			j := at + 1
			for j < len(rows) && bytes.Equal(rows[j][:Split(rows[j])], rows[at][:Split(rows[at])]) {
				j++
			}
			if it.NextPrefix() {
				require.Equal(t, rows[j], it.Key())
			}
		}
		if valid := it.SeekLT(seek); at == 0 {
			require.False(t, valid)
		} else {
			require.True(t, valid)
			require.Equal(t, rows[at-1], it.Key())
		}
		samePrefix := at < len(rows) && bytes.Equal(rows[at][:Split(rows[at])], seek[:Split(seek)])
		require.Equal(t, samePrefix, it.SeekPrefixGE(seek))
		require.NoError(t, it.Error())
	}
}
