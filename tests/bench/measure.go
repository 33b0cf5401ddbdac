package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
)

// sample is one system's run in one round.
type sample struct {
	opsPerSecond float64
	p50, p99     time.Duration
	cpuPerOp     time.Duration // of all member processes
	rss          int64
	foreign      float64 // share of the machine's CPU that other programs used in the window
	errors       int64
	err          error
}

// disturbance is the largest share of the machine's CPU that may go to other programs in the window.
const disturbance = 0.10

// round holds one sample per system, in the order of the systems.
type round []sample

func (r round) foreign() float64 {
	var f float64
	for _, s := range r {
		f = max(f, s.foreign)
	}
	return f
}

// meter reads the CPU times that a sample needs at both ends of the window.
type meter struct {
	sys                        *system
	server, own, busy, machine time.Duration
}

func (m *meter) read() error {
	var err error
	if m.server, err = m.sys.cluster.CPU(); err != nil {
		return err
	}
	if m.own, err = cluster.CPUTime(os.Getpid()); err != nil {
		return err
	}
	m.busy, m.machine, err = cluster.MachineCPU()
	return err
}

// measureOnce runs a cell's load on one system that is not frozen.
func measureOnce(ctx context.Context, o *options, s *system, c cell) (sample, error) {
	before, after := meter{sys: s}, meter{sys: s}
	r, err := runLoad(ctx, s.cluster.Endpoints(), c, o.load, before.read, after.read)
	if err != nil {
		return sample{}, fmt.Errorf("%s: %v: %w", s.name, c, err)
	}
	if r.ops == 0 {
		r.errors++
		r.err = errors.Join(errors.New("nothing was answered in the measured time"), r.err)
	}
	out := sample{
		opsPerSecond: float64(r.ops) / r.elapsed.Seconds(),
		p50:          r.hist.quantile(0.50),
		p99:          r.hist.quantile(0.99),
		cpuPerOp:     (after.server - before.server) / time.Duration(max(1, r.ops)),
		errors:       r.errors,
		err:          r.err,
	}
	foreign := (after.busy - before.busy) - (after.own - before.own) - (after.server - before.server)
	if machine := after.machine - before.machine; machine > 0 {
		out.foreign = max(0, float64(foreign)/float64(machine))
	}
	out.rss, err = s.cluster.RSS()
	return out, err
}

// measure takes o.pairs undisturbed rounds of a cell, or the least disturbed ones when o.retries more were not enough.
func measure(ctx context.Context, o *options, systems []*system, c cell, progress func(string)) ([]round, error) {
	var rounds []round
	calm := 0
	for n := 0; calm < o.pairs && n < o.pairs+o.retries; n++ {
		r := make(round, len(systems))
		for i := range systems {
			at := (i + n) % len(systems)
			s := systems[at]
			progress(fmt.Sprintf("%v: round %d, %s", c, n+1, s.name))
			if err := s.thaw(ctx); err != nil {
				return nil, err
			}
			sm, err := measureOnce(ctx, o, s, c)
			if err != nil {
				return nil, errors.Join(err, s.freeze())
			}
			r[at] = sm
			if err := s.freeze(); err != nil {
				return nil, err
			}
		}
		rounds = append(rounds, r)
		if r.foreign() <= disturbance {
			calm++
		}
	}
	slices.SortStableFunc(rounds, func(a, b round) int {
		switch da, db := a.foreign(), b.foreign(); {
		case da < db:
			return -1
		case da > db:
			return 1
		}
		return 0
	})
	return rounds[:min(o.pairs, len(rounds))], nil
}

// median of values; they are reordered.
func median[T ~int64 | ~float64](v []T) T {
	slices.Sort(v)
	n := len(v)
	if n == 0 {
		return 0
	}
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// line is what is reported of one system in one cell: medians over the rounds.
type line struct {
	cell         cell
	system       string
	opsPerSecond float64
	p50, p99     time.Duration
	cpuPerOp     time.Duration
	rss          int64
	foreign      float64 // of the most disturbed round
	errors       int64
	err          error
	toEtcd       float64 // throughput; median of the ratios within each round; 0 without etcd
	p50ToEtcd    float64
	cpuToEtcd    float64
	ceiling      float64 // share of the empty server's throughput; 0 without it
}

func summarize(systems []*system, c cell, rounds []round) []line {
	column := func(at int, f func(sample) float64) []float64 {
		var v []float64
		for _, r := range rounds {
			v = append(v, f(r[at]))
		}
		return v
	}
	ratio := func(at, base int, f func(sample) float64) float64 {
		if base < 0 {
			return 0
		}
		var v []float64
		for _, r := range rounds {
			if d := f(r[base]); d > 0 {
				v = append(v, f(r[at])/d)
			}
		}
		return median(v)
	}
	kindAt := func(kind string) int {
		return slices.IndexFunc(systems, func(s *system) bool { return s.kind == kind })
	}
	ops := func(s sample) float64 { return s.opsPerSecond }
	p50 := func(s sample) float64 { return float64(s.p50) }
	cpu := func(s sample) float64 { return float64(s.cpuPerOp) }
	etcd, empty := kindAt(kindEtcd), kindAt(kindEmpty)
	var lines []line
	for at, s := range systems {
		l := line{
			cell: c, system: s.name,
			opsPerSecond: median(column(at, ops)),
			p50:          time.Duration(median(column(at, p50))),
			p99:          time.Duration(median(column(at, func(s sample) float64 { return float64(s.p99) }))),
			cpuPerOp:     time.Duration(median(column(at, cpu))),
			rss:          int64(median(column(at, func(s sample) float64 { return float64(s.rss) }))),
			toEtcd:       ratio(at, etcd, ops),
			p50ToEtcd:    ratio(at, etcd, p50),
			cpuToEtcd:    ratio(at, etcd, cpu),
			ceiling:      ratio(at, empty, ops),
		}
		for _, r := range rounds {
			l.foreign = max(l.foreign, r[at].foreign)
			l.errors += r[at].errors
			if l.err == nil {
				l.err = r[at].err
			}
		}
		lines = append(lines, l)
	}
	return lines
}

// floor tells whether kvd's line keeps what is promised of it: etcd's throughput at 100 clients and more, etcd's p50 at one client, at 1 and
// at 8 shards. checked is false for lines that nothing is promised of.
func (l line) floor() (checked, kept bool) {
	if l.system != "kvd/1" && l.system != "kvd/8" || l.toEtcd == 0 {
		return false, false
	}
	switch {
	case l.cell.clients == 1:
		return true, l.p50ToEtcd <= 1.0
	case l.cell.clients >= 100:
		return true, l.toEtcd >= 1.0
	}
	return false, false
}
