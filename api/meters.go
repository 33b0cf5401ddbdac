package api

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/api/codec"
	"github.com/kvd-io/kvd/internal/histogram"
	"github.com/kvd-io/kvd/watch"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// meters count what is not a matter of one gRPC method.
type meters struct {
	bytes              codec.Bytes
	healthy, unhealthy atomic.Uint64
	checks             *prometheus.GaugeVec
	checksTotal        *prometheus.CounterVec
	unary, stream      versionCounts
	// requests are the durations of the fast path's methods, of failed calls and of
	// successful ones.
	requests [numStats][2]*histogram.Histogram
	// hash and hashRev are the durations of Maintenance.Hash and HashKV.
	hash, hashRev *histogram.Histogram
	// snapshot are the durations of Maintenance.Snapshot.
	snapshot *histogram.Histogram
	watches  watchMeters
}

// watchMeters are the durations of sending to watching clients: responses with
// events, the same per event, answers to requests, progress notifications.
type watchMeters struct {
	events, perEvent, control, progress *histogram.Histogram
}

// The bounds are etcd's.
const (
	lowestRequest  = 100 * time.Microsecond
	requestBuckets = 20
	lowestHash     = 10 * time.Millisecond
	hashBuckets    = 15
	// lowestSend is below etcd's 1 ms, where nearly everything would fall into the
	// first bucket.
	lowestSend  = 125 * time.Microsecond
	sendBuckets = 17
)

// Names of methods whose durations have metrics of their own.
const (
	methodHash     = "/etcdserverpb.Maintenance/Hash"
	methodHashKV   = "/etcdserverpb.Maintenance/HashKV"
	methodSnapshot = "/etcdserverpb.Maintenance/Snapshot"
)

func (m *meters) prepare() {
	m.checks = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "etcd_server_healthcheck", Help: "The result of each kind of healthcheck.",
	}, []string{"type", "name"})
	m.checksTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "etcd_server_healthchecks_total", Help: "The total number of each kind of healthcheck.",
	}, []string{"type", "name", "status"})
	for stat := range m.requests {
		for i := range m.requests[stat] {
			m.requests[stat][i] = histogram.New(lowestRequest, requestBuckets)
		}
	}
	m.hash, m.hashRev, m.snapshot = histogram.New(lowestHash, hashBuckets), histogram.New(lowestHash, hashBuckets), histogram.New(lowestHash, hashBuckets)
	for _, h := range []**histogram.Histogram{&m.watches.events, &m.watches.perEvent, &m.watches.control, &m.watches.progress} {
		*h = histogram.New(lowestSend, sendBuckets)
	}
}

// checked counts a health check.
func (m *meters) checked(kind, name string, err error) {
	value, status := 1.0, checkOK
	if err != nil {
		value, status = 0, checkFailed
	}
	m.checks.WithLabelValues(kind, name).Set(value)
	m.checksTotal.WithLabelValues(kind, name, status).Inc()
}

// request counts a call of the fast path.
func (m *meters) request(ctx context.Context, stat callStat, took time.Duration, err error) {
	m.unary.count(ctx)
	ok := 1
	if err != nil {
		ok = 0
	}
	m.requests[stat][ok].Observe(took)
}

func (m *meters) interceptUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	m.unary.count(ctx)
	switch info.FullMethod {
	case methodHash:
		defer m.hash.Since(time.Now())
	case methodHashKV:
		defer m.hashRev.Since(time.Now())
	}
	return handler(ctx, req)
}

func (m *meters) interceptStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	m.stream.count(stream.Context())
	if info.FullMethod == methodSnapshot {
		defer m.snapshot.Since(time.Now())
	}
	return handler(srv, stream)
}

// sent counts a response to a watching client.
func (w *watchMeters) sent(r *watch.Response, took time.Duration) {
	n := r.EventCount()
	switch {
	case n > 0:
		w.events.Observe(took)
		w.perEvent.Observe(took / time.Duration(n))
	case r.Created || r.Canceled:
		w.control.Observe(took)
	default:
		w.progress.Observe(took)
	}
}

// maxVersions bounds the versions of clients that are told apart. A client may
// say anything; what comes later counts as "other".
const maxVersions = 32

// versionCounts counts requests by what clients say is their version of the API.
type versionCounts struct {
	// last is the version that was counted last: most clients are the same.
	last atomic.Pointer[versionCount]
	mu   struct {
		sync.Mutex
		all map[string]*versionCount
	}
}

type versionCount struct {
	version string
	n       atomic.Uint64
}

func (v *versionCounts) count(ctx context.Context) {
	version := "unknown"
	if said := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataClientAPIVersionKey); len(said) > 0 {
		version = said[0]
	}
	c := v.last.Load()
	if c == nil || c.version != version {
		c = v.find(version)
	}
	c.n.Add(1)
}

func (v *versionCounts) find(version string) *versionCount {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mu.all == nil {
		v.mu.all = make(map[string]*versionCount)
	}
	c := v.mu.all[version]
	if c == nil {
		if len(v.mu.all) >= maxVersions || !plausible(version) {
			version = "other"
			c = v.mu.all[version]
		}
		if c == nil {
			c = &versionCount{version: version}
			v.mu.all[version] = c
		}
	}
	v.last.Store(c)
	return c
}

// plausible says whether a version can be a label.
func plausible(version string) bool {
	if len(version) > 32 {
		return false
	}
	for _, r := range version {
		if r <= ' ' || r > '~' {
			return false
		}
	}
	return true
}

// each shows what was counted.
func (v *versionCounts) each(show func(version string, n uint64)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for version, c := range v.mu.all {
		show(version, c.n.Load())
	}
}
