package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// emptyServer answers etcd's messages and keeps nothing: it is the ceiling that gRPC sets on this machine. It is a process of its own and
// takes etcd's flags as far as it needs them. Puts reach the watchers of all its siblings, so that fan-out can be measured as well.
type emptyServer struct {
	etcdserverpb.UnimplementedKVServer
	etcdserverpb.UnimplementedWatchServer

	revision atomic.Int64
	member   uint64
	one      []*mvccpb.KeyValue // the answer to a get
	many     []*mvccpb.KeyValue // cut to length for a range
	siblings []string           // host:port of the other members' peer ports

	audience atomic.Int32 // streams and subscribed siblings: nobody listens when 0
	mu       struct {
		sync.Mutex
		streams     map[*emptyStream]struct{}
		subscribers map[net.Conn]struct{}
		subscribed  bool // to the siblings
	}
}

// serveEmpty runs the server until SIGTERM; it is what the benchmark's own binary does when it is started with the first argument "empty".
func serveEmpty(args []string) error {
	fs := flag.NewFlagSet("empty", flag.ContinueOnError)
	name := fs.String("name", "", "")
	clientURL := fs.String("listen-client-urls", "", "")
	peerURL := fs.String("listen-peer-urls", "", "")
	initial := fs.String("initial-cluster", "", "")
	valueBytes := fs.Int("value-bytes", 256, "")
	for _, ignored := range []string{"data-dir", "initial-advertise-peer-urls", "advertise-client-urls", "initial-cluster-state", "initial-cluster-token"} {
		fs.String(ignored, "", "")
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	s := &emptyServer{member: 1}
	s.mu.streams = map[*emptyStream]struct{}{}
	s.mu.subscribers = map[net.Conn]struct{}{}
	for part := range strings.SplitSeq(*initial, ",") {
		n, u, _ := strings.Cut(part, "=")
		if n == *name {
			continue
		}
		host, err := hostOf(u)
		if err != nil {
			return err
		}
		s.siblings = append(s.siblings, host)
	}
	for i := range rangeKeys {
		s.many = append(s.many, &mvccpb.KeyValue{Key: benchKey(i), Value: make([]byte, *valueBytes), CreateRevision: 2, ModRevision: 100_000, Version: 3})
	}
	s.one = s.many[:1]

	clients, err := listenURL(*clientURL)
	if err != nil {
		return err
	}
	peers, err := listenURL(*peerURL)
	if err != nil {
		return err
	}
	go s.acceptSubscribers(peers)
	g := grpc.NewServer(
		grpc.ForceServerCodecV2(serverCodec{}),
		grpc.NumStreamWorkers(uint32(4*runtime.GOMAXPROCS(0))),
		grpc.ReadBufferSize(64<<10),
		grpc.WriteBufferSize(64<<10),
		grpc.InitialWindowSize(1<<20),
		grpc.InitialConnWindowSize(8<<20),
	)
	etcdserverpb.RegisterKVServer(g, s)
	etcdserverpb.RegisterWatchServer(g, s)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		g.Stop()
	}()
	fmt.Println("ready to serve client requests")
	return g.Serve(clients)
}

func hostOf(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("parsing %q: %w", raw, err)
	}
	return u.Host, nil
}

func listenURL(raw string) (net.Listener, error) {
	host, err := hostOf(raw)
	if err != nil {
		return nil, err
	}
	return net.Listen("tcp", host)
}

func (s *emptyServer) header() *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{ClusterId: 0x1234567890abcdef, MemberId: s.member, Revision: s.revision.Load(), RaftTerm: 2}
}

// Put counts the revision and tells whoever watches.
func (s *emptyServer) Put(_ context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	s.revision.Add(1)
	if s.audience.Load() > 0 {
		s.tell(r.Key, r.Value, true)
	}
	return &etcdserverpb.PutResponse{Header: s.header()}, nil
}

// Range gives made-up pairs of the right size and number.
func (s *emptyServer) Txn(_ context.Context, r *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	m := &etcdserverpb.TxnResponse{Header: s.header(), Succeeded: true}
	for range r.Success {
		m.Responses = append(m.Responses, &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponsePut{
			ResponsePut: &etcdserverpb.PutResponse{Header: m.Header}}})
	}
	return m, nil
}

func (s *emptyServer) Range(_ context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	kvs := s.one
	if len(r.RangeEnd) > 0 {
		kvs = s.many
	}
	return &etcdserverpb.RangeResponse{Header: s.header(), Kvs: kvs, Count: int64(len(kvs))}, nil
}

// tell hands a put to the watch streams here and, if it was put here, to the siblings that have any.
func (s *emptyServer) tell(key, value []byte, local bool) {
	events := []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: key, Value: value, CreateRevision: 2, ModRevision: s.revision.Load(), Version: 3}}}
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.mu.streams {
		select {
		case st.events <- events:
		case <-st.done:
		}
	}
	if !local || len(s.mu.subscribers) == 0 {
		return
	}
	b := binary.AppendUvarint(nil, uint64(len(key)))
	b = append(b, key...)
	b = binary.AppendUvarint(b, uint64(len(value)))
	b = append(b, value...)
	for c := range s.mu.subscribers {
		if _, err := c.Write(b); err != nil {
			c.Close()
			delete(s.mu.subscribers, c)
			s.audience.Add(-1)
		}
	}
}

// acceptSubscribers registers siblings that want to hear of puts; one byte tells them that they will.
func (s *emptyServer) acceptSubscribers(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if _, err := c.Write([]byte{1}); err != nil {
			c.Close()
		} else {
			s.mu.subscribers[c] = struct{}{}
			s.audience.Add(1)
		}
		s.mu.Unlock()
	}
}

// subscribe connects to every sibling once.
func (s *emptyServer) subscribe() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.subscribed {
		return nil
	}
	for _, host := range s.siblings {
		c, err := net.Dial("tcp", host)
		if err != nil {
			return fmt.Errorf("subscribing to %s: %w", host, err)
		}
		r := bufio.NewReaderSize(c, 64<<10)
		if _, err := r.ReadByte(); err != nil {
			return fmt.Errorf("subscribing to %s: %w", host, err)
		}
		go s.follow(r)
	}
	s.mu.subscribed = true
	return nil
}

func (s *emptyServer) follow(r *bufio.Reader) {
	read := func() ([]byte, error) {
		n, err := binary.ReadUvarint(r)
		if err != nil {
			return nil, err
		}
		b := make([]byte, n)
		_, err = io.ReadFull(r, b)
		return b, err
	}
	for {
		key, err := read()
		if err != nil {
			return
		}
		value, err := read()
		if err != nil {
			return
		}
		s.revision.Add(1)
		s.tell(key, value, false)
	}
}

// emptyStream is one watch stream; every watch on it gets every event.
type emptyStream struct {
	events chan []*mvccpb.Event
	done   <-chan struct{}
}

// Watch answers create requests and then sends every event once per watch of the stream.
func (s *emptyServer) Watch(stream grpc.BidiStreamingServer[etcdserverpb.WatchRequest, etcdserverpb.WatchResponse]) error {
	if err := s.subscribe(); err != nil {
		return err
	}
	st := &emptyStream{events: make(chan []*mvccpb.Event, 256), done: stream.Context().Done()}
	creates := make(chan struct{}, 16)
	go func() {
		defer close(creates)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			if r.GetCreateRequest() != nil {
				creates <- struct{}{}
			}
		}
	}()
	s.mu.Lock()
	s.mu.streams[st] = struct{}{}
	s.mu.Unlock()
	s.audience.Add(1)
	defer func() {
		s.mu.Lock()
		delete(s.mu.streams, st)
		s.mu.Unlock()
		s.audience.Add(-1)
	}()
	var watches int64
	for {
		select {
		case _, ok := <-creates:
			if !ok {
				return nil
			}
			if err := stream.Send(&etcdserverpb.WatchResponse{Header: s.header(), WatchId: watches, Created: true}); err != nil {
				return err
			}
			watches++
		case events := <-st.events:
			for id := range watches {
				if err := stream.Send(&etcdserverpb.WatchResponse{Header: s.header(), WatchId: id, Events: events}); err != nil {
					return err
				}
			}
		case <-st.done:
			if err := stream.Context().Err(); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		}
	}
}
