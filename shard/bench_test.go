package shard

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// cpu is the process's CPU time so far.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchmarkClients runs b.N requests from a number of clients, each sending its
// next request when the last one was answered, and reports CPU per request.
func benchmarkClients(b *testing.B, r *Replica, clients int, request func(i int) *Request) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	next := 0
	take := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		next++
		return next, next <= b.N
	}
	before := cpu(b)
	b.ReportAllocs()
	b.ResetTimer()
	for range clients {
		wg.Add(1)
		answered := make(chan error, 1)
		go func() {
			defer wg.Done()
			for i, ok := take(); ok; i, ok = take() {
				req := request(i)
				req.Ctx = context.Background()
				req.Done = func(_ *Reply, err error) { answered <- err }
				r.Do(req)
				if err := <-answered; err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(cpu(b)-before)/1e3/float64(b.N), "cpu-us/op")
}

func BenchmarkPut(b *testing.B) {
	value := make([]byte, 128)
	for _, clients := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("fake-%d", clients), func(b *testing.B) {
			r := benchReplica(b)
			benchmarkClients(b, r, clients, func(i int) *Request {
				return &Request{Put: &pb.PutRequest{Key: fmt.Appendf(nil, "key-%010d", i%100000), Value: value}}
			})
		})
		b.Run(fmt.Sprintf("raft-%d", clients), func(b *testing.B) {
			_, r := newHosts(b, 1).owner(fakeShard)
			benchmarkClients(b, r, clients, func(i int) *Request {
				return &Request{Put: &pb.PutRequest{Key: fmt.Appendf(nil, "key-%010d", i%100000), Value: value}}
			})
		})
	}
}

func BenchmarkGet(b *testing.B) {
	r := benchReplica(b)
	value := make([]byte, 128)
	const keys = 10000
	done := make(chan error, keys)
	for i := range keys {
		r.Do(&Request{Ctx: context.Background(), Put: &pb.PutRequest{Key: fmt.Appendf(nil, "key-%010d", i), Value: value},
			Done: func(_ *Reply, err error) { done <- err }})
	}
	for range keys {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	req := &Request{Ctx: context.Background(), Done: func(_ *Reply, err error) {
		if err != nil {
			b.Error(err)
		}
	}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		req.Range = &pb.RangeRequest{Key: fmt.Appendf(nil, "key-%010d", i%keys)}
		r.Do(req)
	}
}

// benchReplica is a serving replica over the fakes.
func benchReplica(b *testing.B) *Replica {
	seq := newFakeSequencer()
	g := newFakeGroup(b)
	n := g.addNode(seq, nil)
	g.lead(n)
	until(b, "serving", n.replica.Serving)
	return n.replica
}
