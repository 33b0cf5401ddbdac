package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// measureRestart loads many keys and measures how long a cluster takes from its start, after an orderly stop and after kill -9, until every member
// has answered a linearizable read and calls itself healthy.
func measureRestart(ctx context.Context, o *options, r *report, members int) error {
	big := *o
	big.load.keys = o.restartKeys
	big.systems = nil
	for _, s := range o.systems {
		if s != kindEmpty {
			big.systems = append(big.systems, s)
		}
	}
	systems, err := startAll(ctx, &big, members)
	if err != nil {
		return err
	}
	defer closeAll(systems)
	ways := []string{"stop", "kill -9"}
	took := make([]map[string][]float64, len(systems))
	for i := range took {
		took[i] = map[string][]float64{}
	}
	for n := range o.pairs {
		for _, way := range ways {
			for i := range systems {
				at := (i + n) % len(systems)
				s := systems[at]
				if err := s.thaw(ctx); err != nil {
					return err
				}
				if err := s.update(ctx, restartUpdates, big.load); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				d, err := s.restart(ctx, big.load.keys, way == "stop")
				if err != nil {
					return fmt.Errorf("%s: restart after %s: %w", s.name, way, err)
				}
				took[at][way] = append(took[at][way], d.Seconds())
				if err := s.freeze(); err != nil {
					return err
				}
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Restart of %d members with %d keys, just after %d updates, until all answer linearizable reads and are healthy, medians of %d:\n\n", members, big.load.keys, restartUpdates, o.pairs)
	fmt.Fprintf(&b, "| system | %s |\n| --- |%s\n", strings.Join([]string{"after stop, s", "x etcd", "after kill -9, s", "x etcd"}, " | "), strings.Repeat(" ---: |", 4))
	for i, s := range systems {
		fmt.Fprintf(&b, "| %s |", s.name)
		for _, way := range ways {
			x := "-"
			if systems[0].kind == kindEtcd {
				var ratios []float64
				for n, d := range took[i][way] {
					ratios = append(ratios, d/took[0][way][n])
				}
				x = fmt.Sprintf("%.2f", median(ratios))
			}
			fmt.Fprintf(&b, " %.2f | %s |", median(append([]float64(nil), took[i][way]...)), x)
		}
		b.WriteString("\n")
	}
	fmt.Println(b.String())
	r.more = append(r.more, b.String())
	return nil
}

// restartUpdates is the number of puts before each restart, so that a killed member has something to recover.
const restartUpdates = 20_000

// update puts n random keys, one by one.
func (s *system) update(ctx context.Context, n int, cfg loadConfig) error {
	cli, err := s.cluster.Client()
	if err != nil {
		return err
	}
	defer cli.Close()
	value := strings.Repeat("u", cfg.valueBytes)
	const parallel = 100
	errs := make(chan error, parallel)
	for p := range parallel {
		go func() {
			rng := rand.New(rand.NewPCG(uint64(p), 11))
			for i := p; i < n; i += parallel {
				if _, err := cli.Put(ctx, string(benchKey(rng.IntN(cfg.keys))), value); err != nil {
					errs <- fmt.Errorf("updating keys: %w", err)
					return
				}
			}
			errs <- nil
		}()
	}
	var all error
	for range parallel {
		all = errors.Join(all, <-errs)
	}
	return all
}

// restart ends all members and starts them again.
func (s *system) restart(ctx context.Context, keys int, orderly bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	end := s.cluster.KillAll
	if orderly {
		end = func() error { return s.cluster.StopAll(ctx) }
	}
	if err := end(); err != nil {
		return 0, err
	}
	began := time.Now()
	for _, m := range s.cluster.Members {
		if err := m.Start(); err != nil {
			return 0, err
		}
	}
	errs := make([]error, len(s.cluster.Members))
	var wg sync.WaitGroup
	for i, m := range s.cluster.Members {
		wg.Go(func() {
			if errs[i] = m.WaitReady(ctx); errs[i] != nil {
				return
			}
			cli, err := s.cluster.Client(m)
			if err != nil {
				errs[i] = err
				return
			}
			defer cli.Close()
			errs[i] = untilDone(ctx, func(ctx context.Context) error {
				for n := range max(1, s.shards) { // one key of every shard
					if _, err := cli.Get(ctx, string(benchKey(keys*n/max(1, s.shards)))); err != nil {
						return err
					}
				}
				return m.Health(ctx)
			})
		})
	}
	wg.Wait()
	return time.Since(began), errors.Join(errs...)
}
