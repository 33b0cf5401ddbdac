package api

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/internal/histogram"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// callStat is a method of the fast path.
type callStat int

const (
	statRange callStat = iota
	statPut
	statDelete
	statTxn
	statCompact
	numStats
)

const kvServiceName = "etcdserverpb.KV"

var statNames = [numStats]string{"Range", "Put", "DeleteRange", "Txn", "Compact"}

// numCodes is how many gRPC codes there are; others count as Unknown.
const numCodes = int(codes.Unauthenticated) + 1

// methodStats counts the calls of one method, as go-grpc-middleware's
// interceptor, which etcd uses, would: under the same names, at the price of a
// few additions.
type methodStats struct {
	service, name, kind   string
	begun, received, sent atomic.Uint64
	ended                 [numCodes]atomic.Uint64
	// durations is nil unless histograms are wanted.
	durations *histogram.Histogram
}

// full is the method's name as gRPC has it.
func (m *methodStats) full() string { return "/" + m.service + "/" + m.name }

func (m *methodStats) started() { m.begun.Add(1) }

func (m *methodStats) handled(err error, took time.Duration) {
	code := 0
	if err != nil {
		if code = int(status.Code(err)); code == int(codes.Unknown) {
			code = int(status.FromContextError(err).Code())
		}
		if code >= numCodes {
			code = int(codes.Unknown)
		}
	}
	m.ended[code].Add(1)
	m.durations.Observe(took)
}

// callStats counts the calls of all methods.
type callStats struct {
	// kv are the methods of the fast path, which count themselves.
	kv [numStats]*methodStats
	// all is not changed any more once the server serves.
	all  map[string]*methodStats
	slow *slowLog
}

// Bounds of the histogram of gRPC methods: Prometheus's default ones begin at 5
// ms, which is more than most requests take here.
const (
	lowestCall  = 250 * time.Microsecond
	callBuckets = 16
)

// prepare makes room for the methods of the services that are registered.
func (s *callStats) prepare(services map[string]grpc.ServiceInfo, histograms bool) {
	s.all = make(map[string]*methodStats)
	for service, info := range services {
		for _, m := range info.Methods {
			stats := &methodStats{service: service, name: m.Name, kind: methodKind(m)}
			if histograms {
				stats.durations = histogram.New(lowestCall, callBuckets)
			}
			s.all[stats.full()] = stats
		}
	}
	for stat, name := range statNames {
		s.kv[stat] = s.all["/"+kvServiceName+"/"+name]
	}
}

func methodKind(m grpc.MethodInfo) string {
	switch {
	case m.IsClientStream && m.IsServerStream:
		return "bidi_stream"
	case m.IsClientStream:
		return "client_stream"
	case m.IsServerStream:
		return "server_stream"
	}
	return "unary"
}

// methods are all methods in the order of their names.
func (s *callStats) methods() []*methodStats {
	all := make([]*methodStats, 0, len(s.all))
	for _, m := range s.all {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *methodStats) int {
		return strings.Compare(a.full(), b.full())
	})
	return all
}

// waits are methods that wait for other clients: how long they take says nothing of
// this member.
var waits = map[string]bool{v3lockpb.Lock_Lock_FullMethodName: true, v3electionpb.Election_Campaign_FullMethodName: true}

// interceptUnary counts what does not take the fast path.
func (s *callStats) interceptUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	began, m := time.Now(), s.all[info.FullMethod]
	if m == nil {
		return handler(ctx, req)
	}
	m.started()
	m.received.Add(1)
	resp, err := handler(ctx, req)
	took := time.Since(began)
	m.handled(err, took)
	if err == nil {
		m.sent.Add(1)
	}
	if !waits[info.FullMethod] {
		s.slow.done(ctx, slowCall{method: m, began: began, took: took, err: err})
	}
	return resp, err
}

// countedStream counts the messages of a stream.
type countedStream struct {
	grpc.ServerStream
	stats *methodStats
}

func (s *countedStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.stats.sent.Add(1)
	}
	return err
}

func (s *countedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.stats.received.Add(1)
	}
	return err
}

func (s *callStats) interceptStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	m := s.all[info.FullMethod]
	if m == nil {
		return handler(srv, stream)
	}
	began := time.Now()
	m.started()
	err := handler(srv, &countedStream{ServerStream: stream, stats: m})
	m.handled(err, time.Since(began))
	return err
}
