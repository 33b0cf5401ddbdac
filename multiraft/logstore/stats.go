package logstore

import (
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/kvd-io/kvd/internal/histogram"
)

// Stats are figures of the store since it was opened.
type Stats struct {
	// Fsyncs are the durations of the syncs of the write-ahead log, Writes those of
	// whole writes to it, with their wait for the sync.
	Fsyncs, Writes histogram.Snapshot
	// WrittenBytes is what was written to the write-ahead log.
	WrittenBytes uint64
	// Committed is the sum of the commit indexes of all replicas that are in use.
	Committed uint64
}

// The bounds are those that etcd has for its log.
const (
	lowestWrite  = time.Millisecond
	writeBuckets = 14
)

// Stats reads the figures.
func (s *Store) Stats() Stats {
	m := s.db.Metrics()
	stats := Stats{Writes: s.writes.Snapshot(), WrittenBytes: m.WAL.BytesWritten}
	if m.LogWriter.FsyncLatency != nil {
		var latency dto.Metric
		if err := m.LogWriter.FsyncLatency.Write(&latency); err == nil {
			stats.Fsyncs = coarser(latency.GetHistogram())
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, r := range s.mu.replicas {
		r.mu.Lock()
		stats.Committed += r.mu.record.commit
		r.mu.Unlock()
	}
	return stats
}

// coarser puts Pebble's fine buckets, whose bounds are nanoseconds, into ours. A
// bucket that crosses one of our bounds counts as above it.
func coarser(h *dto.Histogram) histogram.Snapshot {
	out := histogram.Snapshot{Count: h.GetSampleCount(), Sum: time.Duration(h.GetSampleSum())}
	fine := h.GetBucket()
	var below uint64
	for i := range writeBuckets {
		bound := lowestWrite << i
		for len(fine) > 0 && fine[0].GetUpperBound() <= float64(bound) {
			below = fine[0].GetCumulativeCount()
			fine = fine[1:]
		}
		out.Bounds = append(out.Bounds, bound)
		out.Cumulative = append(out.Cumulative, below)
	}
	return out
}
