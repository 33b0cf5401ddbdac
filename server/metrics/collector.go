package metrics

import (
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/internal/histogram"
	"github.com/prometheus/client_golang/prometheus"
)

// Collector implements prometheus.Collector.
type Collector struct {
	sources Sources
	// committed and applied are the largest sums shown: a sum falls when a shard
	// leaves the member, which a counter must not.
	committed, applied atomic.Uint64
}

// New returns what shows the sources.
func New(s Sources) *Collector { return &Collector{sources: s} }

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// scalar is a metric of one number.
type scalar struct {
	name, help string
	kind       prometheus.ValueType
	value      func(*snapshot) float64
}

// vector is a metric with labels. values calls show for each number.
type vector struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string
	values     func(s *snapshot, show func(v float64, labels ...string))
}

// distribution is a histogram of durations.
type distribution struct {
	name, help string
	// unit is what the bounds are told in.
	unit   time.Duration
	labels []string
	values []string
	value  func(*snapshot) histogram.Snapshot
}

func (m *scalar) desc() *prometheus.Desc { return prometheus.NewDesc(m.name, m.help, nil, nil) }

func (m *vector) desc() *prometheus.Desc { return prometheus.NewDesc(m.name, m.help, m.labels, nil) }

func (m *distribution) desc() *prometheus.Desc {
	return prometheus.NewDesc(m.name, m.help, m.labels, nil)
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for i := range scalars {
		ch <- scalars[i].desc()
	}
	for i := range vectors {
		ch <- vectors[i].desc()
	}
	for i := range distributions {
		ch <- distributions[i].desc()
	}
	for _, r := range []raised{committed, applied} {
		ch <- r.desc()
	}
	ch <- rttDesc
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	s := c.sources.look()
	for i := range scalars {
		m := &scalars[i]
		ch <- prometheus.MustNewConstMetric(m.desc(), m.kind, m.value(s))
	}
	for i := range vectors {
		m := &vectors[i]
		d := m.desc()
		m.values(s, func(v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, m.kind, v, labels...)
		})
	}
	for i := range distributions {
		ch <- distributions[i].metric(s)
	}
	collectRTTs(s, ch)
	// What was applied was committed, also where the log has not been told yet.
	all := max(s.raft.Log.Committed, s.replicas.applied)
	ch <- prometheus.MustNewConstMetric(committed.desc(), gauge, float64(raise(&c.committed, all)))
	ch <- prometheus.MustNewConstMetric(applied.desc(), gauge, float64(raise(&c.applied, s.replicas.applied)))
}

func (m *distribution) metric(s *snapshot) prometheus.Metric {
	h := m.value(s)
	buckets := make(map[float64]uint64, len(h.Bounds))
	for i, bound := range h.Bounds {
		buckets[float64(bound)/float64(m.unit)] = h.Cumulative[i]
	}
	return prometheus.MustNewConstHistogram(m.desc(), h.Count, float64(h.Sum)/float64(m.unit), buckets, m.values...)
}

// raised is a metric that is shown with its largest value so far.
type raised struct{ name, help string }

func (r raised) desc() *prometheus.Desc { return prometheus.NewDesc(r.name, r.help, nil, nil) }

var (
	committed = raised{"etcd_server_proposals_committed_total", "The total number of consensus proposals committed, summed over the raft groups that this member has replicas of."}
	applied   = raised{"etcd_server_proposals_applied_total", "The total number of consensus proposals applied, summed over the raft groups that this member has replicas of."}
)

func raise(shown *atomic.Uint64, now uint64) uint64 {
	for {
		old := shown.Load()
		if now <= old {
			return old
		}
		if shown.CompareAndSwap(old, now) {
			return now
		}
	}
}
