package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/kvd-io/kvd/tests/sim"
)

func lines(all []string) string { return strings.Join(all, "\n") }

// page is docs/simulation.md.
func (rep *report) page() []byte {
	var b bytes.Buffer
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("# Simulation")
	say("")
	say("`make sim` makes this page, and its plots, with seed %d; do not edit it. The same seed gives the same page, to the byte. It plays", rep.seed)
	say("the decision cores of kvd in virtual time, with more members and shards than a machine can run: the very code that a")
	say("member runs decides (`placement.Schedule`, package `placement/balance`, the sequencer's core), and `placement.State` applies what it")
	say("decides. Members, copies, elections, load and its measurement are played; the [package](../tests/sim/doc.go) says how. Each run has to")
	say("show what its table says, or the command fails. Short forms of all runs are tests: `go test ./tests/sim`.")
	for _, r := range rep.results {
		rep.scenario(say, r)
	}
	rep.costs(say)
	rep.sequencing(say)
	return b.Bytes()
}

func (rep *report) scenario(say func(string, ...any), r sim.Result) {
	say("\n## %s\n", r.Title)
	say("%s\n", r.Story)
	say("| what it has to show | got | bound |")
	say("|---|---|---|")
	for _, c := range r.Claims {
		bound := c.Bound
		if !c.Holds {
			bound += ", **missed**"
		}
		say("| %s | %s | %s |", c.What, c.Got, bound)
	}
	say("")
	for _, c := range rep.charts() {
		if strings.HasPrefix(c.file, r.Name+"-") {
			say("![%s](simulation/%s)", c.title, c.file)
		}
	}
}

func (rep *report) costs(say func(string, ...any)) {
	say("\n## What it costs a member\n")
	say("*State* is placement's, which each member has. *Entries* went through placement's log in the whole run; each member gets them all.")
	say("*Report* is what the member with the most owners tells the sequencer's member of its loads, each five seconds.\n")
	say("| run | members | shards | replicas of a member, most | state, MiB | time | entries | their bytes, MiB | report, KiB | copied, GiB | splits | moves | repairs | removals | transfers | elections |")
	say("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, r := range rep.results {
		last, c, n := r.Last(), r.Cost, r.Counts
		say("| %s | %d | %d | %d | %.1f | %v | %d | %.2f | %.1f | %.0f | %d | %d | %d | %d | %d | %d |", r.Name, last.Members, last.Shards, c.ReplicasMost, mebi(c.StateBytes),
			r.Until, c.Entries, mebi(c.EntryBytes), float64(c.ReportBytes)/1024, n.Copied/(1<<30), n.Splits, n.Moves, n.Repairs, n.Removals, n.Transfers, n.Elections)
	}
}

func mebi(n int) float64 { return float64(n) / (1 << 20) }

func (rep *report) sequencing(say func(string, ...any)) {
	if len(rep.steps) == 0 {
		return
	}
	say("\n## The sequencer\n")
	say("%d members ask it, each with one message at a time that carries all its callers' wishes, half of which want a revision and half", sim.SequencerMembers)
	say("the current one; it is the first of them itself. A message takes a quarter of a millisecond there and as long back, a ReadIndex one, an entry of")
	say("placement three milliseconds. It keeps the last answers of %d members. *Wait* is from the wish to the answer. *Skipped* is the most that a", rep.remembers)
	say("crash would have skipped, later than four seconds into the step, beside what is allotted in a second.\n")
	say("| wishes/s | messages/s of a member | wishes in one | bytes of ask and answer | window entries/s | renewals/s | parked | wait p50 | p99 | longest | skipped | in seconds of use |")
	say("|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, s := range rep.steps {
		used := "-"
		if s.Rate > 0 {
			used = fmt.Sprintf("%.2f", s.SkippedTime)
		}
		say("| %.0f | %.1f | %.1f | %.0f | %.1f | %.1f | %.2f %% | %v | %v | %v | %d | %s |", s.Rate, s.Messages, s.Wishes, s.Bytes, s.Windows, s.Renewals, 100*s.Parked,
			round(s.P50), round(s.P99), round(s.Max), s.Skipped, used)
	}
	say("\n![%s](simulation/%s)", rep.window().title, rep.window().file)
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
