package mvcc

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

func numberKey(i int) []byte { return key(fmt.Sprintf("%05d", i)) }

// TestCountAgainstTwin creates and deletes runs of keys, and counts spans at the
// newest and at recent revisions, comparing with a slice.
func TestCountAgainstTwin(t *testing.T) {
	const keys = 8000
	rapid.Check(t, func(t *rapid.T) {
		e, err := NewEngine(EngineOptions{CacheBytes: 8 << 20, MemtableBudget: 64 << 20, FS: newMem(), NoBackground: true})
		require.NoError(t, err)
		defer e.Close()
		s, err := e.Open("db")
		require.NoError(t, err)
		live := make([]bool, keys)
		past := map[int64][]bool{0: append([]bool(nil), live...)}
		number := rapid.IntRange(0, keys-1)
		rev := int64(0)
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				from, n := number.Draw(t, "from"), rapid.SampledFrom([]int{1, 10, 300, 3000}).Draw(t, "n")
				create := rapid.Bool().Draw(t, "create")
				rev++
				b := s.NewBatch()
				defer b.Close()
				for i := from; i < min(from+n, keys); i++ {
					switch {
					case create && !live[i]:
						b.Put(rev, int64(i), &Effect{Key: numberKey(i), Version: 1})
					case create:
						b.Put(rev, int64(i), &Effect{Key: numberKey(i), Create: 1, Version: 2})
					case live[i]:
						b.Put(rev, int64(i), &Effect{Key: numberKey(i), Tombstone: true})
					default:
						continue
					}
					live[i] = create
				}
				require.NoError(t, b.Commit())
				if rev = s.LastRevision(); rev > 0 {
					past[rev] = append([]bool(nil), live...)
				}
			},
			"refine": func(t *rapid.T) {
				_, err := s.refineCounters(context.Background())
				require.NoError(t, err)
			},
			"reopen": func(t *rapid.T) {
				require.NoError(t, s.Close())
				s, err = e.Open("db")
				require.NoError(t, err)
			},
			"count": func(t *rapid.T) {
				from, to := number.Draw(t, "from"), number.Draw(t, "to")
				at := max(rev-int64(rapid.IntRange(0, 3).Draw(t, "back")), 0)
				want := int64(0)
				for i := from; i < to; i++ {
					if past[at][i] {
						want++
					}
				}
				sn := s.NewSnapshot()
				defer sn.Close()
				span := keyspace.Span{Start: numberKey(from), End: numberKey(to)}
				for range 2 {
					n, err := sn.Count(context.Background(), span, at)
					require.NoError(t, err)
					if at == 0 {
						want = n // revision 0 asks for the newest
					}
					require.Equal(t, want, n, "[%d, %d) at %d", from, to, at)
				}
				if n, exact := sn.g.counters.total(); exact {
					want = 0
					for _, l := range live {
						if l {
							want++
						}
					}
					require.Equal(t, want, n)
				}
			},
		})
	})
}

// TestCountDuringWrites counts while another goroutine writes: a count equals
// what a scan of the same snapshot gives.
func TestCountDuringWrites(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		rng := testRand(2)
		live := make([]bool, 6000)
		for rev := int64(1); ; rev++ {
			select {
			case <-stop:
				return
			default:
			}
			b := s.NewBatch()
			from := rng.IntN(len(live))
			for i := from; i < min(from+20, len(live)); i++ {
				b.Put(rev, int64(i), &Effect{Key: numberKey(i), Version: 1, Tombstone: live[i]})
				live[i] = !live[i]
			}
			if err := b.Commit(); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	rng := testRand(3)
	counts, scans := 0, 0
	for s.LastRevision() < 2000 {
		from := rng.IntN(6000)
		span := keyspace.Span{Start: numberKey(from), End: numberKey(from + rng.IntN(6000-from) + 1)}
		sn := s.NewSnapshot()
		n, err := sn.Count(context.Background(), span, 0)
		require.NoError(t, err)
		scanned, err := sn.countRows(context.Background(), span, 0)
		require.NoError(t, err)
		require.Equal(t, scanned, n)
		_, rest, ok := sn.g.counters.tally(span, sn.meta.last, sn.meta.drops)
		if !ok || len(rest) > 2 {
			scans++
		}
		counts++
		sn.Close()
		_, err = s.refineCounters(context.Background())
		require.NoError(t, err)
	}
	close(stop)
	<-done
	require.LessOrEqual(t, scans, counts/2, "the counters were of no use")
}

// TestCountReadsOnlyEdges counts the keys that are read once the buckets are
// cut.
func TestCountReadsOnlyEdges(t *testing.T) {
	s := openStore(t, newTestEngine(t), "db")
	b := s.NewBatch()
	for i := range 20000 {
		b.Put(1, int64(i), &Effect{Key: numberKey(i), Version: 1})
	}
	require.NoError(t, b.Commit())
	sn := s.NewSnapshot()
	defer sn.Close()
	span := keyspace.Span{Start: numberKey(3333), End: numberKey(17777)}
	for range 2 {
		n, err := sn.Count(context.Background(), span, 0)
		require.NoError(t, err)
		require.EqualValues(t, 17777-3333, n)
	}
	_, rest, ok := sn.g.counters.tally(span, 1, 0)
	require.True(t, ok)
	require.Empty(t, rest, "the second count of a span reads nothing")
	other := keyspace.Span{Start: numberKey(5000), End: numberKey(15000)}
	_, rest, _ = sn.g.counters.tally(other, 1, 0)
	require.LessOrEqual(t, len(rest), 2)
	for _, p := range rest {
		require.LessOrEqual(t, p.n, int64(bucketMax))
	}
}
