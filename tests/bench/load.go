package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// rangeKeys is the number of keys that one request of the range cells reads.
const rangeKeys = 1000

// watchWriters is the number of puts under way at a time in the watch cells with more than one watcher.
const watchWriters = 10

// cell is one thing to measure.
type cell struct {
	op      string // put, get, range, watch or one of the transactions
	clients int    // requests under way at a time; watches in the watch cells
	conns   int    // connections (HTTP/2) that the clients share, spread evenly over the members
	members int
}

func (c cell) String() string {
	return fmt.Sprintf("%s, %d clients on %d connections, %d members", c.op, c.clients, c.conns, c.members)
}

// loadConfig is what all cells have in common.
type loadConfig struct {
	keys       int
	valueBytes int
	warmup     time.Duration
	duration   time.Duration
}

// result is what the generator itself saw.
type result struct {
	ops     int64
	errors  int64
	err     error // the first one
	elapsed time.Duration
	hist    histogram
}

// window tells workers which operations count: those that end inside it.
type window struct{ start, end time.Time }

func (w window) holds(t time.Time) bool { return !t.Before(w.start) && t.Before(w.end) }

// runLoad puts a cell's load on the endpoints. The two hooks are called at the beginning and at the end of the measured window.
func runLoad(ctx context.Context, endpoints []string, c cell, cfg loadConfig, begin, end func() error) (*result, error) {
	conns, closeConns, err := dial(endpoints, c.conns)
	if err != nil {
		return nil, err
	}
	defer closeConns()
	if c.op == "watch" {
		return runWatch(ctx, endpoints, conns, c, cfg, begin, end)
	}
	start := time.Now().Add(cfg.warmup)
	win := window{start, start.Add(cfg.duration)}
	ctx, cancel := context.WithDeadline(ctx, win.end.Add(15*time.Second))
	defer cancel()
	results := make([]result, c.clients)
	var wg sync.WaitGroup
	for i := range c.clients {
		w := newWorker(c.op, conns[i%len(conns)], cfg, uint64(i))
		wg.Go(func() { w.run(ctx, win, &results[i]) })
	}
	if err := atEdges(ctx, win, begin, end); err != nil {
		cancel()
		wg.Wait()
		return nil, err
	}
	wg.Wait()
	return merge(results, cfg), nil
}

// atEdges calls the hooks when the window opens and closes.
func atEdges(ctx context.Context, win window, begin, end func() error) error {
	for _, edge := range []struct {
		at   time.Time
		hook func() error
	}{{win.start, begin}, {win.end, end}} {
		select {
		case <-time.After(time.Until(edge.at)):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := edge.hook(); err != nil {
			return err
		}
	}
	return nil
}

func merge(results []result, cfg loadConfig) *result {
	sum := &result{elapsed: cfg.duration}
	for i := range results {
		sum.ops += results[i].ops
		sum.errors += results[i].errors
		if sum.err == nil {
			sum.err = results[i].err
		}
		sum.hist.merge(&results[i].hist)
	}
	return sum
}

// dial opens n connections of stock clients, each to one member.
func dial(endpoints []string, n int) (conns []*grpc.ClientConn, closeAll func(), err error) {
	var clients []*clientv3.Client
	closeAll = func() {
		for _, c := range clients {
			c.Close()
		}
	}
	for i := range n {
		c, err := clientv3.New(clientv3.Config{
			Endpoints: []string{endpoints[i%len(endpoints)]},
			Logger:    zap.NewNop(),
			DialOptions: []grpc.DialOption{
				grpc.WithReadBufferSize(64 << 10),
				grpc.WithWriteBufferSize(64 << 10),
				grpc.WithInitialWindowSize(1 << 20),
				grpc.WithInitialConnWindowSize(16 << 20),
			},
		})
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("connecting: %w", err)
		}
		clients = append(clients, c)
		conns = append(conns, c.ActiveConnection())
	}
	return conns, closeAll, nil
}

// worker is one client: it has one request under way at a time.
type worker struct {
	conn    *grpc.ClientConn
	method  string
	request *frame
	keyAt   int
	endAt   int
	// more are places of further keys, each step keys after the one before.
	more    []int
	step    int
	picks   int // how many first keys there are to choose from
	atLeast int // a shorter answer is an error
	rng     *rand.Rand
}

func newWorker(op string, conn *grpc.ClientConn, cfg loadConfig, seed uint64) *worker {
	w := &worker{conn: conn, picks: cfg.keys, rng: rand.New(rand.NewPCG(seed, 7))}
	switch op {
	case "put":
		w.method = etcdserverpb.KV_Put_FullMethodName
		value := make([]byte, cfg.valueBytes)
		for i := range value {
			value[i] = byte(w.rng.Uint32())
		}
		w.request, w.keyAt, _ = putFrame(benchKey(0), value)
		w.atLeast = 1
	case "get":
		w.method = etcdserverpb.KV_Range_FullMethodName
		w.request, w.keyAt, _ = rangeFrame(benchKey(0), nil)
		w.atLeast = cfg.valueBytes
	case "range":
		w.method = etcdserverpb.KV_Range_FullMethodName
		w.request, w.keyAt, w.endAt = rangeFrame(benchKey(0), benchKey(0))
		w.atLeast = rangeKeys * cfg.valueBytes
		w.picks -= rangeKeys
	default:
		t := txnCells[op]
		w.method = etcdserverpb.KV_Txn_FullMethodName
		w.request, w.more = txnFrame(t.keys, cfg.valueBytes)
		w.keyAt, w.more = w.more[0], w.more[1:]
		w.atLeast = 1
		if w.step = 1; t.far {
			w.step = cfg.keys / t.keys
		}
		w.picks -= (t.keys - 1) * w.step
	}
	return w
}

// txnCells are transactions that put several keys: next to each other, which with kvd are keys of one shard, or spread over the whole
// store.
var txnCells = map[string]struct {
	keys int
	far  bool
}{
	"txn-near2": {2, false},
	"txn-far2":  {2, true},
	"txn-near8": {8, false},
	"txn-far8":  {8, true},
}

func (w *worker) run(ctx context.Context, win window, r *result) {
	codec := grpc.ForceCodecV2(wireCodec{})
	var reply answer
	now := time.Now()
	for now.Before(win.end) {
		n := w.rng.IntN(w.picks)
		setKey(w.request.bytes[w.keyAt:], n)
		if w.endAt > 0 {
			setKey(w.request.bytes[w.endAt:], n+rangeKeys)
		}
		for i, at := range w.more {
			setKey(w.request.bytes[at:], n+(i+1)*w.step)
		}
		began := now
		err := w.conn.Invoke(ctx, w.method, w.request, &reply, codec)
		now = time.Now()
		if err == nil && reply.size < w.atLeast {
			err = fmt.Errorf("%s: an answer of %d bytes, at least %d expected", w.method, reply.size, w.atLeast)
		}
		if err != nil {
			r.errors++
			if r.err == nil {
				r.err = err
			}
			if ctx.Err() != nil {
				return
			}
			continue
		}
		if win.holds(now) {
			r.ops++
			r.hist.add(now.Sub(began))
		}
	}
}

const keyPrefix = "bench/"

func benchKey(n int) []byte { return fmt.Appendf(nil, keyPrefix+"%08d", n) }

// setKey overwrites the digits of an encoded key in place.
func setKey(b []byte, n int) {
	for i := len(keyPrefix) + 7; i >= len(keyPrefix); i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
}

// What the value of a put begins with in the watch cells: when it was put (nanoseconds since base), by whom, and in which run.
const (
	stampAt  = 0
	writerAt = 8
	runAt    = 12
	headSize = 20
)

// fanout counts who has seen the put that each writer has under way.
type fanout struct {
	base    time.Time
	run     uint64
	writers []underway
}

// underway is the put of one writer.
type underway struct {
	missing atomic.Int64 // watchers that have not seen it
	seen    chan struct{}
	_       [64]byte // keeps writers on cache lines of their own
}

// runWatch opens c.clients watches over all keys; writers put random keys, each the next one when every watcher has seen the last. An
// operation is one event delivered to one watcher, its latency runs from the start of the put.
func runWatch(ctx context.Context, endpoints []string, conns []*grpc.ClientConn, c cell, cfg loadConfig, begin, end func() error) (*result, error) {
	if cfg.valueBytes < headSize {
		return nil, fmt.Errorf("watch cells need values of at least %d bytes", headSize)
	}
	writers := watchWriters
	if c.clients == 1 {
		writers = 1
	}
	putConns, closeConns, err := dial(endpoints, min(writers, len(endpoints)))
	if err != nil {
		return nil, err
	}
	defer closeConns()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &fanout{base: time.Now(), run: rand.Uint64(), writers: make([]underway, writers)}
	for i := range f.writers {
		f.writers[i].seen = make(chan struct{}, 1)
	}
	var streams []*watchStream
	for i, conn := range conns {
		watches := c.clients / len(conns)
		if i < c.clients%len(conns) {
			watches++
		}
		s, err := openWatches(ctx, conn, watches, f)
		if err != nil {
			return nil, err
		}
		streams = append(streams, s)
	}

	start := time.Now().Add(cfg.warmup)
	win := window{start, start.Add(cfg.duration)}
	var receivers, putters sync.WaitGroup
	for _, s := range streams {
		receivers.Go(func() { s.receive(ctx, win) })
	}
	putErrs := make([]error, writers)
	for i := range writers {
		w := newWorker("put", putConns[i%len(putConns)], cfg, uint64(i))
		putters.Go(func() { putErrs[i] = f.write(ctx, w, i, int64(c.clients), win, cfg) })
	}
	err = atEdges(ctx, win, begin, end)
	if err != nil {
		cancel()
	}
	putters.Wait()
	cancel()
	receivers.Wait()
	if err != nil {
		return nil, err
	}
	var results []result
	for _, s := range streams {
		results = append(results, s.result)
	}
	sum := merge(results, cfg)
	for _, err := range putErrs {
		if err != nil {
			sum.errors++
			sum.err = errors.Join(sum.err, err)
		}
	}
	return sum, nil
}

// write is one writer of a watch cell.
func (f *fanout) write(ctx context.Context, w *worker, id int, watchers int64, win window, cfg loadConfig) error {
	codec := grpc.ForceCodecV2(wireCodec{})
	request, keyAt, valueAt := putFrame(benchKey(0), make([]byte, cfg.valueBytes))
	value := request.bytes[valueAt:]
	binary.LittleEndian.PutUint32(value[writerAt:], uint32(id))
	binary.LittleEndian.PutUint64(value[runAt:], f.run)
	var reply answer
	me := &f.writers[id]
	for {
		setKey(request.bytes[keyAt:], w.rng.IntN(w.picks))
		began := time.Since(f.base)
		binary.LittleEndian.PutUint64(value[stampAt:], uint64(began))
		me.missing.Store(watchers)
		if err := w.conn.Invoke(ctx, w.method, request, &reply, codec); err != nil {
			return fmt.Errorf("put under watch: %w", err)
		}
		select {
		case <-me.seen:
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(win.end.Add(10 * time.Second))):
			return fmt.Errorf("%d of %d watchers did not see a put", me.missing.Load(), watchers)
		}
		if time.Now().After(win.end) {
			return nil
		}
	}
}

// watchStream is one stream with some watches on it.
type watchStream struct {
	stream grpc.ClientStream
	fanout *fanout
	result result
}

// openWatches creates watches on one stream and waits until the server has created all.
func openWatches(ctx context.Context, conn *grpc.ClientConn, watches int, f *fanout) (*watchStream, error) {
	desc := &grpc.StreamDesc{StreamName: "Watch", ServerStreams: true, ClientStreams: true}
	stream, err := conn.NewStream(ctx, desc, etcdserverpb.Watch_Watch_FullMethodName, grpc.ForceCodecV2(wireCodec{}))
	if err != nil {
		return nil, fmt.Errorf("opening a watch stream: %w", err)
	}
	for range watches {
		if err := stream.SendMsg(watchFrame([]byte(keyPrefix), []byte("bench0"))); err != nil {
			return nil, fmt.Errorf("creating a watch: %w", err)
		}
	}
	s := &watchStream{stream: stream, fanout: f}
	for created := 0; created < watches; {
		w := watchBatch{event: func(int64, []byte) {}}
		if err := stream.RecvMsg(&w); err != nil {
			return nil, fmt.Errorf("creating a watch: %w", err)
		}
		if w.cancel {
			return nil, fmt.Errorf("creating a watch: cancelled: %s", w.reason)
		}
		if w.created {
			created++
		}
	}
	return s, nil
}

func (s *watchStream) receive(ctx context.Context, win window) {
	var batch watchBatch
	batch.event = func(_ int64, value []byte) {
		if len(value) < headSize || binary.LittleEndian.Uint64(value[runAt:]) != s.fanout.run {
			return // the last puts of an earlier run
		}
		if win.holds(batch.at) {
			s.result.ops++
			s.result.hist.add(batch.at.Sub(s.fanout.base) - time.Duration(binary.LittleEndian.Uint64(value[stampAt:])))
		}
		w := &s.fanout.writers[binary.LittleEndian.Uint32(value[writerAt:])]
		if w.missing.Add(-1) == 0 {
			w.seen <- struct{}{}
		}
	}
	for {
		err := s.stream.RecvMsg(&batch)
		if err == nil && batch.cancel {
			err = fmt.Errorf("watch cancelled: %s", batch.reason)
		}
		if err != nil {
			if ctx.Err() == nil {
				s.result.errors++
				s.result.err = err
			}
			return
		}
	}
}
