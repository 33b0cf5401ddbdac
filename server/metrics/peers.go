package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

var rttDesc = prometheus.NewDesc("etcd_network_peer_round_trip_time_seconds", "Round-Trip-Time histogram between peers", []string{"To"}, nil)

// collectRTTs shows one histogram for each other member.
func collectRTTs(s *snapshot, ch chan<- prometheus.Metric) {
	for _, p := range s.peers {
		buckets := make(map[float64]uint64, len(p.RTTs.Bounds))
		for i, bound := range p.RTTs.Bounds {
			buckets[bound.Seconds()] = p.RTTs.Cumulative[i]
		}
		ch <- prometheus.MustNewConstHistogram(rttDesc, p.RTTs.Count, p.RTTs.Sum.Seconds(), buckets, hex(p.Member))
	}
}
