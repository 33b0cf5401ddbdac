package e2e

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/kvd-io/kvd/tests/cluster"
)

// spans is a collector that keeps the names of spans by trace.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu     sync.Mutex
	traces map[string]map[string]bool
	names  map[string]bool
}

func (s *spans) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range req.ResourceSpans {
		for _, a := range r.Resource.Attributes {
			if a.Key == "service.instance.id" {
				s.names[a.Value.GetStringValue()] = true
			}
		}
		for _, scope := range r.ScopeSpans {
			for _, span := range scope.Spans {
				id := string(span.TraceId)
				if s.traces[id] == nil {
					s.traces[id] = make(map[string]bool)
				}
				s.traces[id][span.Name] = true
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// complete says whether one trace holds all of the names.
func (s *spans) complete(names ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
trace:
	for _, t := range s.traces {
		for _, name := range names {
			if !t[name] {
				continue trace
			}
		}
		return nil
	}
	return fmt.Errorf("no trace with %v among %v", names, s.traces)
}

// TestTracing: a write is one trace from the call to apply, on the owner and through another member.
func TestTracing(t *testing.T) {
	onlyKvd(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := &spans{traces: make(map[string]map[string]bool), names: make(map[string]bool)}
	srv := grpc.NewServer()
	collector.RegisterTraceServiceServer(srv, got)
	go func() { _ = srv.Serve(l) }()
	defer srv.Stop()
	c := startCluster(t, cluster.Options{Members: 3, Env: []string{"OTEL_BSP_SCHEDULE_DELAY=50"}, Args: []string{
		"--enable-distributed-tracing", "--distributed-tracing-address=" + l.Addr().String(), "--distributed-tracing-sampling-rate=1000000",
		"--distributed-tracing-instance-id=one",
	}})
	for _, m := range c.Members {
		if _, err := client(t, c, m).Put(within(t, patience), "secret-key", "secret-value"); err != nil {
			t.Fatal(err)
		}
	}
	for _, way := range []string{"router.local", "router.forward"} {
		eventually(t, patience, func(context.Context) error {
			return got.complete("etcdserverpb.KV/Put", way, "shard.latch", "shard.evaluate", "shard.propose", "shard.apply")
		})
	}
	got.mu.Lock()
	defer got.mu.Unlock()
	if !got.names["one"] {
		t.Errorf("instances %v", got.names)
	}
}
