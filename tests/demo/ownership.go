package main

import (
	"context"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/kvd-io/kvd/tests/cluster"
)

// lookEvery is the pause between two looks at a member's counters, lookPatience bounds one look.
const (
	lookEvery    = 250 * time.Millisecond
	lookPatience = 5 * time.Second
)

// change is a time in which an ownership, of a shard or of the revisions, ended without having been handed over: a member that gets no
// CPU or whose disk stalls for longer than an election loses what it owns as a dead one does, and the revisions under way with it.
type change struct {
	member   string
	from, to time.Duration
}

// changeCounters rise with each end of an ownership.
var changeCounters = []string{"kvd_shard_ownerships_ended_total", "kvd_sequencer_claims_total"}

// observer follows the counters of one member.
type observer struct {
	member  *cluster.Member
	now     func() time.Duration
	looked  bool
	last    float64
	at      time.Duration
	changes []change
}

// run looks until ctx ends. Whoever reads changes waits for that.
func (o *observer) run(ctx context.Context) {
	for {
		began := o.now()
		if count, err := o.count(ctx); err == nil {
			o.see(count, began, o.now())
		}
		if pause(ctx, lookEvery) != nil {
			return
		}
	}
}

// see takes in a count that was taken between two times. The first one is what others are compared with. One that fell is of a new process, which began at zero.
func (o *observer) see(count float64, began, ended time.Duration) {
	if count < o.last {
		o.last = 0
	}
	if o.looked && count > o.last {
		o.changes = append(o.changes, change{o.member.Name, o.at, ended})
	}
	o.looked, o.last, o.at = true, count, began
}

// count reads the sum of the counters. A server that has none of them counts as one where nothing changes.
func (o *observer) count(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	families, err := o.member.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, name := range changeCounters {
		sum += total(families[name])
	}
	return sum, nil
}

func total(f *dto.MetricFamily) (sum float64) {
	for _, m := range f.GetMetric() {
		sum += m.GetCounter().GetValue()
	}
	return sum
}
