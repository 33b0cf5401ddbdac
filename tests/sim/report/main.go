package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/kvd-io/kvd/tests/sim"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

// report is everything that was played.
type report struct {
	seed      uint64
	results   []sim.Result
	steps     []sim.StepResult
	windows   []sim.WindowSample
	remembers int
}

func run() error {
	seed := flag.Uint64("seed", 1, "of all runs")
	docs := flag.String("docs", "../../../docs", "the directory of simulation.md and of simulation/, its plots")
	short := flag.Bool("short", false, "play the short forms that the tests play")
	only := flag.String("only", "", "play this scenario alone, and write nothing")
	flag.Parse()

	rep := report{seed: *seed}
	var scenarios []sim.Scenario
	for _, s := range sim.Scenarios(*seed, !*short) {
		if *only == "" || *only == s.Name {
			scenarios = append(scenarios, s)
		}
	}
	rep.results = make([]sim.Result, len(scenarios))
	errs := make([]error, len(scenarios)+1)
	work := []func(){}
	for i, s := range scenarios {
		work = append(work, func() {
			began := time.Now()
			rep.results[i], errs[i] = sim.Play(s)
			// How long it took is no part of the page: that would be another one each time.
			fmt.Fprintf(os.Stderr, "%s: %v for %v\n", s.Name, time.Since(began).Round(time.Second), s.Until)
		})
	}
	if *only == "" || *only == "sequencer" {
		work = append(work, func() { errs[len(scenarios)] = rep.sequencer(!*short) })
	}
	parallel(work)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	broken := rep.broken()
	if *only == "" {
		if err := rep.write(*docs); err != nil {
			return err
		}
	}
	if len(broken) > 0 {
		return fmt.Errorf("%d of the claims do not hold:\n%s", len(broken), lines(broken))
	}
	return nil
}

func (rep *report) sequencer(full bool) error {
	s, err := sim.NewSequencer(rep.seed, sim.SequencerMembers)
	if err != nil {
		return err
	}
	rep.steps, err = s.Run(sim.SequencerSteps(full))
	rep.windows, rep.remembers = s.Windows, s.Remembered()
	return err
}

// parallel runs everything, as many at once as there are processors.
func parallel(work []func()) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, do := range work {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			do()
		})
	}
	wg.Wait()
}

func (rep *report) broken() []string {
	var out []string
	for _, r := range rep.results {
		for _, c := range r.Claims {
			if !c.Holds {
				out = append(out, fmt.Sprintf("%s: %s: %s, %s", r.Name, c.What, c.Got, c.Bound))
			}
		}
	}
	return out
}

func (rep *report) write(docs string) error {
	plots := filepath.Join(docs, "simulation")
	if err := os.MkdirAll(plots, 0o755); err != nil {
		return err
	}
	for _, c := range rep.charts() {
		if err := c.draw(filepath.Join(plots, c.file)); err != nil {
			return fmt.Errorf("draw %s: %w", c.file, err)
		}
	}
	return os.WriteFile(filepath.Join(docs, "simulation.md"), rep.page(), 0o644)
}
