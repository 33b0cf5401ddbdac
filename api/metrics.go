package api

import (
	"fmt"
	"net/http"

	"github.com/kvd-io/kvd/internal/histogram"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
)

// registerMetrics puts together what /metrics shows.
func (s *Server) registerMetrics() error {
	all := append([]prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		s.meters.checks, s.meters.checksTotal, collector{s},
	}, s.cfg.Collectors...)
	for _, c := range all {
		if err := s.registry.Register(c); err != nil {
			return fmt.Errorf("api: registering metrics: %w", err)
		}
	}
	return nil
}

// metricsPage shows them.
func (s *Server) metricsPage() http.Handler {
	return promhttp.InstrumentMetricHandler(s.registry, promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	methodLabels = []string{"grpc_type", "grpc_service", "grpc_method"}

	startedDesc   = describe("grpc_server_started_total", "Total number of RPCs started on the server.", methodLabels...)
	handledDesc   = describe("grpc_server_handled_total", "Total number of RPCs completed on the server, regardless of success or failure.", append(methodLabels, "grpc_code")...)
	receivedDesc  = describe("grpc_server_msg_received_total", "Total number of RPC stream messages received on the server.", methodLabels...)
	sentDesc      = describe("grpc_server_msg_sent_total", "Total number of gRPC stream messages sent by the server.", methodLabels...)
	handlingDesc  = describe("grpc_server_handling_seconds", "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.", methodLabels...)
	bytesOutDesc  = describe("etcd_network_client_grpc_sent_bytes_total", "The total number of bytes sent to grpc clients.")
	bytesInDesc   = describe("etcd_network_client_grpc_received_bytes_total", "The total number of bytes received from grpc clients.")
	requestsDesc  = describe("etcd_server_client_requests_total", "The total number of client requests per client version.", "type", "client_api_version")
	healthyDesc   = describe("etcd_server_health_success", "The total number of successful health checks")
	unhealthyDesc = describe("etcd_server_health_failures", "The total number of failed health checks")
	requestDesc   = describe("etcd_server_request_duration_seconds", "Response latency distribution in seconds for each type.", "type", "success")
	rangeDesc     = describe("etcd_server_range_duration_seconds", "The latency distributions of ranges, as this member as a gateway saw them.", "success")
	hashDesc      = describe("etcd_mvcc_hash_duration_seconds", "The latency distribution of storage hash operation.")
	hashRevDesc   = describe("etcd_mvcc_hash_rev_duration_seconds", "The latency distribution of storage hash by revision operation.")
	snapshotDesc  = describe("etcd_disk_backend_snapshot_duration_seconds", "The latency distribution of snapshots that clients asked for.")
	sendDesc      = describe("etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", "The total duration in seconds of sending a watch response with events.")
	sendEventDesc = describe("etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", "The average duration in seconds of sending a watch response, per event.")
	sendCtlDesc   = describe("etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "The total duration in seconds of sending an answer to a watch request.")
	sendIdleDesc  = describe("etcd_debugging_server_watch_send_loop_progress_duration_seconds", "The total duration in seconds of sending a progress notification.")
	rangesDesc    = describe("etcd_mvcc_range_total", "Total number of ranges seen by this member as a gateway, those inside of txns left out.")
	txnsDesc      = describe("etcd_mvcc_txn_total", "Total number of txns seen by this member as a gateway.")
	alarmsDesc    = describe("etcd_debugging_server_alarms", "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm", "server_id", "alarm_type")
	hasLeaderDesc = describe("etcd_server_has_leader", "Whether or not a leader exists. 1 is existence, 0 is not.")
	isLeaderDesc  = describe("etcd_server_is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise.")
	isLearnerDesc = describe("etcd_server_is_learner", "Whether or not this member is a learner. 1 if is, 0 otherwise.")
	dbSizeDesc    = describe("etcd_mvcc_db_total_size_in_bytes", "Total size of the underlying database physically allocated in bytes.")
	dbInUseDesc   = describe("etcd_mvcc_db_total_size_in_use_in_bytes", "Total size of the underlying database logically in use in bytes.")
	quotaDesc     = describe("etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes.")
	revisionDesc  = describe("etcd_debugging_mvcc_current_revision", "The current revision of store.")
)

// requestTypes are the types of requests in etcd's metrics.
var requestTypes = [numStats]string{"Range", "Put", "DeleteRange", "Txn", "Compaction"}

// collector shows what the client side counts.
type collector struct {
	s *Server
}

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		startedDesc, handledDesc, receivedDesc, sentDesc, handlingDesc, bytesOutDesc, bytesInDesc, requestsDesc, healthyDesc, unhealthyDesc,
		requestDesc, rangeDesc, hashDesc, hashRevDesc, snapshotDesc, sendDesc, sendEventDesc, sendCtlDesc, sendIdleDesc, rangesDesc, txnsDesc, alarmsDesc, hasLeaderDesc, isLeaderDesc, isLearnerDesc, dbSizeDesc, dbInUseDesc, quotaDesc, revisionDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	c.collectMethods(ch)
	c.collectRequests(ch)
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	flag := func(d *prometheus.Desc, on bool) {
		v := 0.0
		if on {
			v = 1
		}
		gauge(d, v)
	}
	leader := c.s.cfg.Cluster.SequencerMember()
	flag(hasLeaderDesc, leader != 0)
	flag(isLeaderDesc, leader == c.s.cfg.Member)
	flag(isLearnerDesc, c.s.isLearner())
	st := c.s.cfg.Storage()
	gauge(dbSizeDesc, float64(st.DiskBytes))
	gauge(dbInUseDesc, float64(st.LiveBytes))
	gauge(quotaDesc, float64(c.s.cfg.Guard.Quota()))
	gauge(revisionDesc, float64(st.Revision))
}

func (c collector) collectMethods(ch chan<- prometheus.Metric) {
	kv := make(map[*methodStats]bool, numStats)
	for _, m := range c.s.stats.kv {
		kv[m] = true
	}
	for _, m := range c.s.stats.methods() {
		count := func(d *prometheus.Desc, n uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), append([]string{m.kind, m.service, m.name}, labels...)...)
		}
		received, sent := m.received.Load(), m.sent.Load()
		if kv[m] {
			// The fast path need not count what follows from the rest.
			received, sent = m.begun.Load(), m.ended[codes.OK].Load()
		}
		count(startedDesc, m.begun.Load())
		count(receivedDesc, received)
		count(sentDesc, sent)
		for code := range numCodes {
			if n := m.ended[code].Load(); n > 0 || code == int(codes.OK) {
				count(handledDesc, n, codes.Code(code).String())
			}
		}
		if m.durations != nil {
			ch <- Histogram(handlingDesc, m.durations.Snapshot(), m.kind, m.service, m.name)
		}
	}
}

func (c collector) collectRequests(ch chan<- prometheus.Metric) {
	m := &c.s.meters
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	count(bytesOutDesc, m.bytes.Sent.Load())
	count(bytesInDesc, m.bytes.Received.Load())
	count(healthyDesc, m.healthy.Load())
	count(unhealthyDesc, m.unhealthy.Load())
	m.unary.each(func(version string, n uint64) { count(requestsDesc, n, "unary", version) })
	m.stream.each(func(version string, n uint64) { count(requestsDesc, n, "stream", version) })
	for stat, kind := range requestTypes {
		for i, success := range []string{"false", "true"} {
			s := m.requests[stat][i].Snapshot()
			if s.Count == 0 && i == 0 {
				continue
			}
			ch <- Histogram(requestDesc, s, kind, success)
			if callStat(stat) == statRange {
				ch <- Histogram(rangeDesc, s, success)
			}
		}
	}
	count(rangesDesc, c.s.stats.kv[statRange].begun.Load())
	count(txnsDesc, c.s.stats.kv[statTxn].begun.Load())
	for d, h := range map[*prometheus.Desc]*histogram.Histogram{
		hashDesc: m.hash, hashRevDesc: m.hashRev, snapshotDesc: m.snapshot,
		sendDesc: m.watches.events, sendEventDesc: m.watches.perEvent, sendCtlDesc: m.watches.control, sendIdleDesc: m.watches.progress,
	} {
		ch <- Histogram(d, h.Snapshot())
	}
	for _, a := range c.s.cfg.Alarms() {
		ch <- prometheus.MustNewConstMetric(alarmsDesc, prometheus.GaugeValue, 1, fmt.Sprintf("%x", a.MemberID), a.Alarm.String())
	}
}

// Histogram makes a metric, in seconds, of what a histogram has counted.
func Histogram(d *prometheus.Desc, s histogram.Snapshot, labels ...string) prometheus.Metric {
	buckets := make(map[float64]uint64, len(s.Bounds))
	for i, bound := range s.Bounds {
		buckets[bound.Seconds()] = s.Cumulative[i]
	}
	return prometheus.MustNewConstHistogram(d, s.Count, s.Sum.Seconds(), buckets, labels...)
}
