package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// report prints lines as they come and keeps them for the Markdown file.
type report struct {
	out   io.Writer
	title []string
	lines []line
	notes []string
	more  []string // restart cells, in Markdown
}

func newReport(out io.Writer, o *options) *report {
	return &report{out: out, title: []string{
		fmt.Sprintf("%s, %d cores, %s, %s", cpuModel(), runtime.NumCPU(), runtime.Version(), time.Now().UTC().Format("2006-01-02 15:04 UTC")),
		fmt.Sprintf("%d keys, values of %d bytes, %v per run after %v of warm-up, medians over %d interleaved rounds", o.load.keys, o.load.valueBytes, o.load.duration, o.load.warmup, o.pairs),
	}}
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

var columns = []string{"operation", "members", "clients", "conns", "system", "ops/s", "p50 ms", "p99 ms", "CPU us/op", "RSS MB", "x etcd", "CPU x etcd", "p50 x etcd", "% of ceiling", "floor", "foreign %"}

func (l line) row() []string {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }
	ratio := func(f float64) string {
		if f == 0 {
			return "-"
		}
		return fmt.Sprintf("%.2f", f)
	}
	ceiling := "-"
	if l.ceiling > 0 {
		ceiling = fmt.Sprintf("%.0f", 100*l.ceiling)
	}
	floor := ""
	if checked, kept := l.floor(); checked && kept {
		floor = "kept"
	} else if checked {
		floor = "MISSED"
	}
	if l.errors > 0 {
		floor = fmt.Sprintf("%d ERRORS", l.errors)
	}
	foreign := fmt.Sprintf("%.0f", 100*l.foreign)
	if l.foreign > disturbance {
		foreign += " disturbed"
	}
	return []string{
		l.cell.op, fmt.Sprint(l.cell.members), fmt.Sprint(l.cell.clients), fmt.Sprint(l.cell.conns), l.system,
		fmt.Sprintf("%.0f", l.opsPerSecond), ms(l.p50), ms(l.p99), fmt.Sprintf("%.1f", float64(l.cpuPerOp)/1000), fmt.Sprintf("%.0f", float64(l.rss)/(1<<20)),
		ratio(l.toEtcd), ratio(l.cpuToEtcd), ratio(l.p50ToEtcd), ceiling, floor, foreign,
	}
}

// add prints the lines of one cell.
func (r *report) add(lines []line) {
	r.lines = append(r.lines, lines...)
	r.print(lines)
	for _, l := range lines {
		if l.err != nil {
			note := fmt.Sprintf("%s: %v: first of %d errors: %v", l.system, l.cell, l.errors, l.err)
			r.notes = append(r.notes, note)
			fmt.Fprintln(r.out, note)
		}
	}
}

func (r *report) print(lines []line) {
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, strings.Join(columns, "\t")+"\t")
	for _, l := range lines {
		fmt.Fprintln(w, strings.Join(l.row(), "\t")+"\t")
	}
	w.Flush()
}

// finish prints everything once more in one table.
func (r *report) finish() {
	fmt.Fprintln(r.out)
	for _, t := range r.title {
		fmt.Fprintln(r.out, t)
	}
	if len(r.lines) > 0 {
		r.print(r.lines)
	}
}

// markdown writes the report to a file.
func (r *report) markdown(path string) error {
	var b strings.Builder
	for _, t := range r.title {
		fmt.Fprintf(&b, "%s  \n", t)
	}
	if len(r.lines) > 0 {
		fmt.Fprintf(&b, "\n| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat(" ---: |", len(columns)))
		for _, l := range r.lines {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(l.row(), " | "))
		}
	}
	for _, m := range r.more {
		fmt.Fprintf(&b, "\n%s\n", m)
	}
	for _, n := range r.notes {
		fmt.Fprintf(&b, "\n* %s\n", n)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// floorKept tells whether every line that has a floor keeps it, without errors.
func (r *report) floorKept() bool {
	for _, l := range r.lines {
		if checked, kept := l.floor(); checked && !kept || l.errors > 0 {
			return false
		}
	}
	return true
}
