package placement

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
)

// benchNode is a sequencer of one member with a log in memory.
func benchNode(b *testing.B) *Node {
	log := newFakeLog()
	n := log.attach(b, 1, func(r Raft) *Node {
		n, err := NewNode(Config{Member: 1, Replica: 1, Incarnation: 1, Raft: r, Open: newMemStorage().open, Init: testInit(b, 1),
			Send: func(uint64, []byte) error { return nil },
			Conn: func(uint64) (grpc.ClientConnInterface, error) { return nil, errFake }})
		require.NoError(b, err)
		return n
	})
	b.Cleanup(n.Close)
	log.lead(1)
	_, err := n.Current(context.Background())
	require.NoError(b, err)
	return n
}

// BenchmarkAllocate is the function call of the sequencer's own member.
func BenchmarkAllocate(b *testing.B) {
	n := benchNode(b)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := n.Allocate(ctx, 1, 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTryCurrent(b *testing.B) {
	n := benchNode(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := n.TryCurrent(); !ok {
			if _, err := n.Current(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkAllocateParallel(b *testing.B) {
	n := benchNode(b)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := n.Allocate(context.Background(), 1, 0); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkAnswer is what a message of another member costs the sequencer.
func BenchmarkAnswer(b *testing.B) {
	n := benchNode(b)
	b.ReportAllocs()
	number := uint64(0)
	var frame []byte
	for b.Loop() {
		number++
		frame = appendAsk(frame[:0], &ask{incarnation: 5, number: number, count: 1})
		n.HandleFrame(2, frame)
	}
}

func BenchmarkLookup(b *testing.B) {
	var keys []string
	for i := range 1000 {
		keys = append(keys, string([]byte{byte('a' + i/100), byte('a' + i/10%10), byte('a' + i%10)}))
	}
	s := NewState()
	do(s, testInit(b, 3, keys...))
	m := s.View(nil, 1).Map
	key := append([]byte{1}, "effx"...)
	b.ReportAllocs()
	for b.Loop() {
		if m.Lookup(key) == nil {
			b.Fatal("no shard")
		}
	}
}
