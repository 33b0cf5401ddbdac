package mvcc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// fill writes n keys of 256 bytes.
func fill(t testing.TB, s *Store, n int) {
	value := make([]byte, 256)
	rev := s.LastRevision() + 1
	for i := 0; i < n; {
		b := s.NewBatch()
		for range 64 {
			b.Put(rev, 0, &Effect{Key: key(benchKey(i)), Value: value, Version: 1})
			rev++
			i++
		}
		require.NoError(t, b.Commit())
	}
}

func benchKey(i int) string { return fmt.Sprintf("/registry/pods/namespace/pod-%08d", i) }

func benchStore(b *testing.B, n int) *Store {
	dir := b.TempDir()
	e, err := NewEngine(EngineOptions{NoBackground: true})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, e.Close()) })
	s := openStore(b, e, dir)
	fill(b, s, n)
	return s
}

func BenchmarkGet(b *testing.B) {
	for _, n := range []int{1000, 200000} {
		s := benchStore(b, n)
		for _, flushed := range []bool{false, true} {
			if flushed {
				require.NoError(b, s.Flush())
			}
			keys := make([][]byte, 512)
			for i := range keys {
				keys[i] = key(benchKey(rand.IntN(n)))
			}
			b.Run(fmt.Sprintf("keys=%d/flushed=%v", n, flushed), func(b *testing.B) {
				b.ReportAllocs()
				for i := range b.N {
					sn := s.NewSnapshot()
					kv, err := sn.Get(keys[i%len(keys)], 0)
					if err != nil || kv == nil {
						b.Fatal(kv, err)
					}
					sn.Close()
				}
			})
		}
	}
}

func BenchmarkCommit(b *testing.B) {
	s := benchStore(b, 64)
	value := make([]byte, 256)
	for _, size := range []int{1, 16} {
		b.Run(fmt.Sprintf("puts=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			rev, index := s.LastRevision(), s.AppliedIndex()
			for range b.N {
				batch := s.NewBatch()
				for range size {
					rev++
					batch.Put(rev, 0, &Effect{Key: key(benchKey(int(rev) % 100000)), Value: value, Create: 1, Version: 2})
				}
				index++
				batch.SetAppliedIndex(index)
				if err := batch.Commit(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRange1000(b *testing.B) {
	s := benchStore(b, 50000)
	require.NoError(b, s.Flush())
	b.ReportAllocs()
	for range b.N {
		sn := s.NewSnapshot()
		n := 0
		err := sn.Range(context.Background(), keyspace.Users(), RangeOptions{Limit: 1000}, func(*mvccpb.KeyValue) bool {
			n++
			return true
		})
		if err != nil || n != 1000 {
			b.Fatal(n, err)
		}
		sn.Close()
	}
}

func BenchmarkCount(b *testing.B) {
	s := benchStore(b, 200000)
	require.NoError(b, s.Flush())
	span := keyspace.UserSpan([]byte("/registry/pods/namespace/pod-00010000"), []byte("/registry/pods/namespace/pod-00190000"))
	b.ReportAllocs()
	for range b.N {
		sn := s.NewSnapshot()
		n, err := sn.Count(context.Background(), span, 0)
		if err != nil || n != 180000 {
			b.Fatal(n, err)
		}
		sn.Close()
	}
}

// BenchmarkEvents reads the last 4096 events, which lie close together or are
// spread over all keys.
func BenchmarkEvents(b *testing.B) {
	const n, last = 200000, 4096
	for _, spread := range []bool{false, true} {
		s := benchStore(b, n)
		rev := s.LastRevision()
		for i := range last {
			k := i
			if spread {
				k = i * (n / last)
			}
			batch := s.NewBatch()
			batch.Put(rev+1+int64(i), 0, &Effect{Key: key(benchKey(k)), Value: make([]byte, 256), Create: 1, Version: 2})
			require.NoError(b, batch.Commit())
		}
		for _, compacted := range []bool{false, true} {
			require.NoError(b, s.Flush())
			if compacted {
				require.NoError(b, s.current.Load().db.Compact(context.Background(), []byte{0}, []byte{6, 0}, false))
			}
			for _, bulk := range []int{1, 1 << 30} {
				s.engine.bulkEvents = bulk
				b.Run(fmt.Sprintf("spread=%v/compacted=%v/bulk=%v", spread, compacted, bulk == 1), func(b *testing.B) {
					for range b.N {
						sn := s.NewSnapshot()
						got := 0
						_, err := sn.Events(context.Background(), keyspace.Users(), rev+1, rev+last, 0, func(int64, int64, *mvccpb.KeyValue, bool) bool {
							got++
							return true
						})
						if err != nil || got != last {
							b.Fatal(got, err)
						}
						sn.Close()
					}
				})
			}
		}
	}
}
