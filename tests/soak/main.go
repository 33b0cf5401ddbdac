package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/tests/chaos"
)

type options struct {
	binary, only, args string
	duration, round    time.Duration
	seed               uint64
	rounds             int
	verbose            bool
}

func main() {
	o := options{}
	flag.StringVar(&o.binary, "kvd", "bin/kvd", "kvd's `binary`")
	flag.DurationVar(&o.duration, "duration", 10*time.Minute, "go on for so long; a round that has begun is ended")
	flag.DurationVar(&o.round, "round", 30*time.Second, "how long faults go on in each round")
	flag.Uint64Var(&o.seed, "seed", 0, "do the one round with this seed; 0 means fresh seeds")
	flag.IntVar(&o.rounds, "rounds", 0, "stop after so many rounds; with -seed, repeat it so often; 0 means by -duration, or once with -seed")
	flag.StringVar(&o.only, "faults", "", "only these `faults`, separated by commas: "+strings.Join(chaos.Names(), ","))
	flag.StringVar(&o.args, "args", "", "further `flags` of every member, separated by blanks")
	flag.BoolVar(&o.verbose, "v", false, "tell each fault")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := soak(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func soak(ctx context.Context, o options) error {
	cfg := chaos.Config{Binary: o.binary, Faults: o.round, Args: strings.Fields(o.args)}
	if o.only != "" {
		cfg.Only = strings.Split(o.only, ",")
	}
	if o.verbose {
		cfg.Log = func(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }
	}
	if o.seed != 0 && o.rounds == 0 {
		o.rounds = 1
	}
	held := map[string]time.Duration{}
	begin := time.Now()
	var total int
	defer func() { summary(held, time.Since(begin), total) }()
	for n := 1; o.rounds > 0 && n <= o.rounds || o.rounds == 0 && time.Since(begin) < o.duration; n++ {
		if cfg.Seed = o.seed; cfg.Seed == 0 {
			cfg.Seed = rand.Uint64()
		}
		started := time.Now()
		result, err := chaos.Run(ctx, cfg)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		for name, d := range result.Held {
			held[name] += d
		}
		if err != nil {
			again := fmt.Sprintf("-seed %d -round %v", cfg.Seed, o.round)
			if o.only != "" {
				again += " -faults " + o.only
			}
			return fmt.Errorf("round %d: %w\nto try it again: go run ./tests/soak %s -v", n, err, again)
		}
		total++
		r := result.Report
		fmt.Printf("%s round %d seed %d: %d operations (%d refused, %d unknown of which %d happened), %d revisions, %d skipped, %d leases that ended with keys, %d watches, %d faults, %v\n",
			time.Now().UTC().Format("15:04:05"), n, cfg.Seed, r.Operations, r.Refused, r.Unknown, r.Happened, r.Revisions, r.Skipped, r.Ended, result.Watches, len(result.Held), time.Since(started).Round(time.Second))
		if result.OneShard {
			fmt.Println("  the server refuses transactions over several shards: clients kept to one key")
		}
		if result.Missing != "" {
			fmt.Println("  no faults of disks:", result.Missing)
		}
	}
	return nil
}

// summary tells how long each fault was in force.
func summary(held map[string]time.Duration, took time.Duration, rounds int) {
	fmt.Printf("%d rounds without a violation in %v; faults were in force for:\n", rounds, took.Round(time.Second))
	for _, name := range slices.Sorted(maps.Keys(held)) {
		fmt.Printf("  %-20s %v\n", name, held[name].Round(100*time.Millisecond))
	}
}
