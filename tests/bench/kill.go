package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// killTry is the deadline of one attempt while a cluster is without the member that was killed: longer than an answer takes, and short enough
// that it does not hide when the cluster is back.
const killTry = 300 * time.Millisecond

// measureKill measures how long clients of the other members are without answers after kill -9 of the member that leads everything: of etcd the
// leader, of kvd the one that has the sequencer and owns every shard.
func measureKill(ctx context.Context, o *options, r *report, members int) error {
	if members < 3 {
		return nil
	}
	real := *o
	real.systems = slices.DeleteFunc(slices.Clone(o.systems), func(s string) bool { return s == kindEmpty })
	systems, err := startAll(ctx, &real, members)
	if err != nil {
		return err
	}
	defer closeAll(systems)
	gaps := make([][]float64, len(systems))
	for _, s := range systems {
		if err := s.thaw(ctx); err != nil {
			return err
		}
		if err := s.own(ctx, o); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if err := s.freeze(); err != nil {
			return err
		}
	}
	for n := range o.pairs {
		for i := range systems {
			at := (i + n) % len(systems)
			s := systems[at]
			if err := s.thaw(ctx); err != nil {
				return err
			}
			gap, err := s.killLeader(ctx, o)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			gaps[at] = append(gaps[at], gap.Seconds())
			if err := s.freeze(); err != nil {
				return err
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "kill -9 of the member that leads everything, of %d, until a put and a linearizable get of every shard were answered at every other member, in seconds, over %d rounds:\n\n", members, o.pairs)
	b.WriteString("| system | median | longest | median x etcd |\n| --- | ---: | ---: | ---: |\n")
	for i, s := range systems {
		x := "-"
		if systems[0].kind == kindEtcd {
			var ratios []float64
			for n, gap := range gaps[i] {
				ratios = append(ratios, gap/gaps[0][n])
			}
			x = fmt.Sprintf("%.2f", median(ratios))
		}
		fmt.Fprintf(&b, "| %s | %.2f | %.2f | %s |\n", s.name, median(slices.Clone(gaps[i])), slices.Max(gaps[i]), x)
	}
	fmt.Println(b.String())
	r.more = append(r.more, b.String())
	return nil
}

// own makes kvd's first member the owner of every shard, for good.
func (s *system) own(ctx context.Context, o *options) error {
	if s.kind != kindKvd {
		return nil
	}
	shards, err := s.cluster.Shards(ctx, o.kvctl)
	if err != nil {
		return err
	}
	for _, sh := range shards {
		if _, err := s.kvctl(ctx, o, "shard", "transfer", fmt.Sprint(sh.ID), s.cluster.Members[0].Name); err != nil {
			return err
		}
	}
	return nil
}

// killLeader makes the first member lead, kills it, measures, and starts it again.
func (s *system) killLeader(ctx context.Context, o *options) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	first, rest := s.cluster.Members[0], s.cluster.Members[1:]
	if err := s.lead(ctx, o, first); err != nil {
		return 0, fmt.Errorf("making %s lead: %w", first.Name, err)
	}
	clients := make([]*clientv3.Client, len(rest))
	for i, m := range rest {
		cli, err := s.cluster.Client(m)
		if err != nil {
			return 0, err
		}
		defer cli.Close()
		clients[i] = cli
		if err := s.everyShard(ctx, cli, o.load.keys); err != nil {
			return 0, fmt.Errorf("before the kill: %w", err)
		}
	}
	if err := first.Kill(); err != nil {
		return 0, err
	}
	began := time.Now()
	errs := make([]error, len(clients))
	var wg sync.WaitGroup
	for i, cli := range clients {
		wg.Go(func() { errs[i] = s.everyShard(ctx, cli, o.load.keys) })
	}
	wg.Wait()
	gap := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return 0, fmt.Errorf("after the kill: %w", err)
	}
	if err := first.Start(); err != nil {
		return 0, err
	}
	if err := first.WaitReady(ctx); err != nil {
		return 0, err
	}
	return gap, first.WaitHealthy(ctx)
}

// everyShard waits until a put and a get of one key of each shard were answered, all tried beside each other.
func (s *system) everyShard(ctx context.Context, cli *clientv3.Client, keys int) error {
	shards := max(1, s.shards)
	errs := make([]error, shards)
	var wg sync.WaitGroup
	for n := range shards {
		key := string(benchKey(keys * n / shards))
		wg.Go(func() {
			errs[n] = retry(ctx, func(ctx context.Context) error {
				if _, err := cli.Put(ctx, key, "after"); err != nil {
					return err
				}
				_, err := cli.Get(ctx, key)
				return err
			})
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// retry tries fn with deadlines of killTry until it succeeds or ctx ends.
func retry(ctx context.Context, fn func(context.Context) error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, killTry)
		err := fn(try)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		<-tick.C
	}
}

// lead waits until a member leads, and of kvd owns every shard.
func (s *system) lead(ctx context.Context, o *options, m *cluster.Member) error {
	to, err := s.cluster.Client(m)
	if err != nil {
		return err
	}
	defer to.Close()
	return untilDone(ctx, func(ctx context.Context) error {
		status, err := to.Status(ctx, to.Endpoints()[0])
		if err != nil {
			return err
		}
		if me := status.Header.MemberId; status.Leader != me {
			return errors.Join(s.moveLeader(ctx, me), errors.New("another member leads"))
		}
		if s.kind != kindKvd {
			return nil
		}
		shards, err := s.cluster.Shards(ctx, o.kvctl)
		if err != nil {
			return err
		}
		for _, sh := range shards {
			if sh.Owner == nil || sh.Owner.Name != m.Name {
				return fmt.Errorf("shard %d has another owner, or none", sh.ID)
			}
		}
		return nil
	})
}

// moveLeader asks every member, of whom the leader answers.
func (s *system) moveLeader(ctx context.Context, to uint64) error {
	var all error
	for _, m := range s.cluster.Members {
		cli, err := s.cluster.Client(m)
		if err != nil {
			return err
		}
		_, err = cli.MoveLeader(ctx, to)
		cli.Close()
		if err == nil {
			return nil
		}
		all = errors.Join(all, err)
	}
	return all
}
