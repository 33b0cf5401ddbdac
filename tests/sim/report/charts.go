package main

import (
	"time"

	"github.com/kvd-io/kvd/tests/sim"
)

// chart is one plot.
type chart struct {
	file, title, x, y string
	lines             []line
	marks             []sim.Mark
}

// line is one line of a plot; marks and points have their times in the unit of x.
type line struct {
	name   string
	points [][2]float64
}

// mostPoints bounds the points of a line, for the sake of the files.
const mostPoints = 400

// over makes a line of the samples.
func over(r sim.Result, name string, of func(sim.Sample) float64) line {
	l := line{name: name}
	stride := (len(r.Samples) + mostPoints - 1) / mostPoints
	for i, s := range r.Samples {
		if i%stride == 0 || i == len(r.Samples)-1 {
			l.points = append(l.points, [2]float64{s.At.Minutes(), of(s)})
		}
	}
	return l
}

func spread(r sim.Result, of func(sim.Sample) sim.Spread) []line {
	return []line{
		over(r, "most", func(s sim.Sample) float64 { return of(s).Max }),
		over(r, "mean", func(s sim.Sample) float64 { return of(s).Mean }),
		over(r, "least", func(s sim.Sample) float64 { return of(s).Min }),
	}
}

func (rep *report) charts() []chart {
	var all []chart
	for _, r := range rep.results {
		add := func(name, title, y string, lines ...line) {
			all = append(all, chart{file: r.Name + "-" + name + ".svg", title: title, x: "minutes", y: y, lines: lines, marks: r.Marks})
		}
		replicas := func() {
			add("replicas", "Replicas of a member", "replicas", spread(r, func(s sim.Sample) sim.Spread { return s.Replicas })...)
		}
		work := func() {
			add("work", "Owned work of a member", "writes/s, and 10 for each shard", spread(r, func(s sim.Sample) sim.Spread { return s.Work })...)
		}
		count := func(name string, of func(sim.Counts) int) line {
			return over(r, name, func(s sim.Sample) float64 { return float64(of(s.Counts)) })
		}
		switch r.Name {
		case "growing":
			add("shards", "Shards", "shards", over(r, "shards", func(s sim.Sample) float64 { return float64(s.Shards) }))
			replicas()
			work()
		case "losing":
			add("under", "Shards that lack a running replica", "shards", over(r, "shards", func(s sim.Sample) float64 { return float64(s.Under) }))
			add("headless", "Shards without owner", "shards", over(r, "shards", func(s sim.Sample) float64 { return float64(s.Headless) }))
			replicas()
			work()
		case "joining":
			replicas()
			work()
		case "heated":
			work()
			add("decisions", "Begun since the beginning", "decisions", count("splits", func(c sim.Counts) int { return c.Splits }),
				count("transfers", func(c sim.Counts) int { return c.Transfers }), count("moves", func(c sim.Counts) int { return c.Moves }))
		case "following":
			add("cpu", "CPU of the sequencer's member, and of the busiest", "percent",
				over(r, "sequencer's", func(s sim.Sample) float64 { return 100 * s.SequencerCPU }),
				over(r, "busiest", func(s sim.Sample) float64 { return 100 * s.MaxCPU }))
			add("strayed", "Shards that the sequencer's member could own and does not", "shards",
				over(r, "shards", func(s sim.Sample) float64 { return float64(s.Strayed) }))
		}
	}
	if len(rep.windows) > 0 {
		all = append(all, rep.window())
	}
	return all
}

func (rep *report) window() chart {
	c := chart{file: "sequencer-window.svg", title: "What a crash of the sequencer would skip", x: "seconds", y: "thousands of revisions"}
	use, left := line{name: "allotted in a second"}, line{name: "left in the window"}
	for _, s := range rep.windows {
		use.points = append(use.points, [2]float64{s.At.Seconds(), s.Rate / 2 / 1000})
		left.points = append(left.points, [2]float64{s.At.Seconds(), float64(s.Left) / 1000})
	}
	c.lines = []line{left, use}
	at := time.Duration(0)
	for _, s := range rep.steps[:len(rep.steps)-1] {
		at += s.For
		c.marks = append(c.marks, sim.Mark{At: at})
	}
	return c
}
