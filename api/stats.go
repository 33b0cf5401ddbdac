package api

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
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

var statNames = [numStats]string{"Range", "Put", "DeleteRange", "Txn", "Compact"}

// numCodes is how many gRPC codes there are; others count as Unknown.
const numCodes = int(codes.Unauthenticated) + 1

// callStats counts the calls of the fast path, as go-grpc-middleware's
// interceptor, which etcd uses, would: under the same names, at the price of two
// additions.
type callStats struct {
	begun [numStats]atomic.Uint64
	ended [numStats][numCodes]atomic.Uint64
}

func (s *callStats) started(stat callStat) { s.begun[stat].Add(1) }

func (s *callStats) handled(stat callStat, err error) {
	code := 0
	if err != nil {
		if code = int(status.Code(err)); code == int(codes.Unknown) {
			code = int(status.FromContextError(err).Code())
		}
		if code >= numCodes {
			code = int(codes.Unknown)
		}
	}
	s.ended[stat][code].Add(1)
}

var (
	startedDesc = prometheus.NewDesc("grpc_server_started_total", "Total number of RPCs started on the server.",
		[]string{"grpc_type", "grpc_service", "grpc_method"}, nil)
	handledDesc = prometheus.NewDesc("grpc_server_handled_total", "Total number of RPCs completed on the server, regardless of success or failure.",
		[]string{"grpc_type", "grpc_service", "grpc_method", "grpc_code"}, nil)
	hasLeaderDesc = prometheus.NewDesc("etcd_server_has_leader", "Whether or not a leader exists. 1 is existence, 0 is not.", nil, nil)
	isLeaderDesc  = prometheus.NewDesc("etcd_server_is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise.", nil, nil)
	dbSizeDesc    = prometheus.NewDesc("etcd_mvcc_db_total_size_in_bytes", "Total size of the underlying database physically allocated in bytes.", nil, nil)
	dbInUseDesc   = prometheus.NewDesc("etcd_mvcc_db_total_size_in_use_in_bytes", "Total size of the underlying database logically in use in bytes.", nil, nil)
	quotaDesc     = prometheus.NewDesc("etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes.", nil, nil)
	revisionDesc  = prometheus.NewDesc("etcd_debugging_mvcc_current_revision", "The current revision of store.", nil, nil)
)

// collector shows what a member counts anyway, when it is asked.
type collector struct {
	s *Server
}

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{startedDesc, handledDesc, hasLeaderDesc, isLeaderDesc, dbSizeDesc, dbInUseDesc, quotaDesc, revisionDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	for stat, name := range statNames {
		ch <- prometheus.MustNewConstMetric(startedDesc, prometheus.CounterValue, float64(c.s.stats.begun[stat].Load()),
			"unary", "etcdserverpb.KV", name)
		for code := range numCodes {
			if n := c.s.stats.ended[stat][code].Load(); n > 0 || code == 0 {
				ch <- prometheus.MustNewConstMetric(handledDesc, prometheus.CounterValue, float64(n),
					"unary", "etcdserverpb.KV", name, codes.Code(code).String())
			}
		}
	}
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
	st := c.s.cfg.Storage()
	gauge(dbSizeDesc, float64(st.DiskBytes))
	gauge(dbInUseDesc, float64(st.LiveBytes))
	gauge(quotaDesc, float64(c.s.cfg.QuotaBytes))
	gauge(revisionDesc, float64(st.Revision))
}
