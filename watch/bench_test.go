package watch

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// benchResolver answers at once, as owners on this member do.
type benchResolver struct {
	mu      sync.Mutex
	rev     int64
	applied map[uint64]uint64
	spans   map[uint64]keyspace.Span
}

func (r *benchResolver) Resolve(_ context.Context, _ int64, shards []uint64, answer func(shard.Resolved)) {
	for _, id := range shards {
		r.mu.Lock()
		res := shard.Resolved{Shard: id, Generation: 1, Span: r.spans[id], Applied: r.applied[id], Revision: r.rev}
		r.mu.Unlock()
		answer(res)
	}
}

func (r *benchResolver) Current(context.Context) (shard.Grant, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return shard.Grant{First: r.rev}, nil
}

func (r *benchResolver) TryCurrent() (shard.Grant, bool) {
	g, _ := r.Current(context.Background())
	return g, true
}

// BenchmarkFanout delivers one event per operation to every watch, which all see
// the whole key space, and encodes the responses as the API does. Every watch has
// its event before the next one is applied.
func BenchmarkFanout(b *testing.B) {
	for _, c := range []struct{ watches, streams, shards int }{
		{1, 1, 1}, {1000, 1, 1}, {1000, 100, 1}, {1, 1, 8}, {1000, 100, 8},
	} {
		b.Run(fmt.Sprintf("watches=%d/streams=%d/shards=%d", c.watches, c.streams, c.shards), func(b *testing.B) {
			fanout(b, c.watches, c.streams, c.shards)
		})
	}
}

func fanout(b *testing.B, watches, streams, shards int) {
	r := &benchResolver{rev: 1, applied: map[uint64]uint64{}, spans: map[uint64]keyspace.Span{}}
	h := NewHub(Config{Stores: noStores{}, Resolver: r, Revisions: r})
	defer h.Close()
	for i := range shards {
		span := keyspace.Span{Start: keyspace.User([]byte{byte('a' + i)}), End: keyspace.User([]byte{byte('b' + i)})}
		if i == 0 {
			span.Start = keyspace.Min()
		}
		if i == shards-1 {
			span.End = keyspace.UserEnd()
		}
		r.spans[uint64(i)+1] = span
		h.Opened(uint64(i)+1, &kvdpb.Descriptor{Shard: uint64(i) + 1, Start: span.Start, End: span.End, Generation: 1}, 0, 1)
	}
	var wg, events sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	created := make(chan struct{}, watches)
	for i := range streams {
		s := h.NewStream()
		wg.Go(func() {
			defer s.Close()
			var buf []byte
			_ = s.Run(ctx, func(resp *Response) error {
				buf = resp.AppendEnvelope(buf[:0], Header{1, 2, 3})
				for _, batch := range resp.Batches {
					buf = append(buf, batch.Encoded()...)
				}
				if resp.Created {
					created <- struct{}{}
				}
				for range resp.EventCount() {
					events.Done()
				}
				return nil
			})
		})
		for j := i; j < watches; j += streams {
			if err := s.Create(ctx, &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}}); err != nil {
				b.Fatal(err)
			}
		}
	}
	for range watches {
		<-created
	}
	value := make([]byte, 256)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		id := uint64(i%shards) + 1
		r.mu.Lock()
		r.rev++
		rev := r.rev
		r.applied[id]++
		applied := r.applied[id]
		r.mu.Unlock()
		events.Add(watches)
		key := append([]byte{1, byte('a' + i%shards)}, "/key"...)
		h.Applied(id, applied, []shard.Event{{Revision: rev, KV: &mvccpb.KeyValue{Key: key, Value: value, ModRevision: rev, CreateRevision: rev, Version: 1}}})
		events.Wait()
	}
	b.StopTimer()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(watches), "ns/delivery")
	cancel()
	wg.Wait()
}
