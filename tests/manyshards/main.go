package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
)

// options say what to run.
type options struct {
	binary  string
	shards  int
	members int
	settle  time.Duration
	idle    time.Duration
	bound   float64
	profile string
}

func main() {
	var o options
	flag.StringVar(&o.binary, "kvd", "bin/kvd", "kvd's `binary`")
	flag.IntVar(&o.shards, "shards", 1000, "how many shards")
	flag.IntVar(&o.members, "members", 3, "how many members")
	flag.DurationVar(&o.settle, "settle", 20*time.Second, "how long members are left alone before their idle CPU is measured")
	flag.DurationVar(&o.idle, "idle", 30*time.Second, "how long it is measured")
	flag.Float64Var(&o.bound, "bound", 0.3, "how many cores an idle member may use")
	flag.StringVar(&o.profile, "profile", "", "a `directory` for CPU profiles of idle members")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "manyshards:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	one := o
	one.shards = 1
	base, err := measure(ctx, one)
	if err != nil {
		return fmt.Errorf("with one shard: %w", err)
	}
	many, err := measure(ctx, o)
	if err != nil {
		return fmt.Errorf("with %d shards: %w", o.shards, err)
	}
	fmt.Printf("\n| %d members | 1 shard | %d shards | for each further shard and member |\n|---|---|---|---|\n", o.members, o.shards)
	row := func(what, unit string, of func(figures) float64, each string, scale float64) {
		per := ""
		if each != "" && o.shards > 1 {
			per = fmt.Sprintf("%.1f %s", (of(many)-of(base))/float64(o.shards-1)*scale, each)
		}
		fmt.Printf("| %s | %.2f %s | %.2f %s | %s |\n", what, of(base), unit, of(many), unit, per)
	}
	row("first start until all shards took a write", "s", func(f figures) float64 { return f.start.Seconds() }, "ms", 1000)
	row("restart of all until all shards took a write", "s", func(f figures) float64 { return f.restart.Seconds() }, "ms", 1000)
	row("kill -9 of the busiest member until all shards took a write", "s", func(f figures) float64 { return f.loss.Seconds() }, "ms", 1000)
	row("idle CPU of the busiest member", "cores", func(f figures) float64 { return f.cpu }, "µs/s", 1e6)
	row("memory of the largest member (RSS)", "MiB", func(f figures) float64 { return f.rss / (1 << 20) }, "KiB", 1024)
	row("file descriptors of the member with the most", "", func(f figures) float64 { return f.fds }, "descriptors", 1)
	row("one event of each shard seen by a watch over all", "s", func(f figures) float64 { return f.watch.Seconds() }, "", 0)
	row("a linearizable range over all shards", "s", func(f figures) float64 { return f.ranged.Seconds() }, "", 0)
	row("a transaction over 10 shards", "s", func(f figures) float64 { return f.txn.Seconds() }, "", 0)
	if many.cpu > o.bound {
		return fmt.Errorf("an idle member uses %.2f cores, more than %.2f", many.cpu, o.bound)
	}
	return nil
}

// figures are those of one cluster.
type figures struct {
	start, restart     time.Duration
	loss               time.Duration
	busiest            int
	cpu, rss, fds      float64
	watch, ranged, txn time.Duration
}

func measure(ctx context.Context, o options) (f figures, err error) {
	opts := cluster.Options{Binary: o.binary, Members: o.members}
	if o.shards > 1 {
		var keys []string
		for i := 1; i < o.shards; i++ {
			keys = append(keys, boundary(i))
		}
		opts.Args = append(opts.Args, "--initial-split-keys="+strings.Join(keys, ","))
	}
	if o.profile != "" {
		opts.Args = append(opts.Args, "--enable-pprof")
	}
	bounded, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	began := time.Now()
	c, err := cluster.Start(bounded, opts)
	if err != nil {
		return f, err
	}
	defer c.Close()
	fmt.Printf("%d shards: members are healthy after %v\n", o.shards, time.Since(began).Round(time.Millisecond))
	if err := touch(bounded, c, o.shards, true); err != nil {
		return f, err
	}
	f.start = time.Since(began)
	if err := exercise(bounded, c, o.shards, &f); err != nil {
		return f, err
	}
	if err := idle(bounded, c, o, &f); err != nil {
		return f, err
	}
	if err := lose(bounded, c, o, &f); err != nil {
		return f, fmt.Errorf("after the loss of a member: %w", err)
	}
	if err := c.StopAll(bounded); err != nil {
		return f, fmt.Errorf("stop: %w", err)
	}
	began = time.Now()
	if err := c.StartAll(bounded); err != nil {
		return f, fmt.Errorf("start again: %w", err)
	}
	fmt.Printf("%d shards: members are healthy %v after the restart\n", o.shards, time.Since(began).Round(time.Millisecond))
	if err := touch(bounded, c, o.shards, true); err != nil {
		return f, fmt.Errorf("after the restart: %w", err)
	}
	f.restart = time.Since(began)
	var again figures
	if err := exercise(bounded, c, o.shards, &again); err != nil {
		return f, fmt.Errorf("after the restart: %w", err)
	}
	return f, nil
}

// idle measures members that have nothing to do.
func idle(ctx context.Context, c *cluster.Cluster, o options, f *figures) error {
	if err := rest(ctx, o.settle); err != nil {
		return err
	}
	used := func() ([]time.Duration, error) {
		var all []time.Duration
		for _, m := range c.Members {
			t, err := cluster.CPUTime(m.Pid())
			if err != nil {
				return nil, err
			}
			all = append(all, t)
		}
		return all, nil
	}
	before, err := used()
	if err != nil {
		return err
	}
	began := time.Now()
	if o.profile != "" && o.shards > 1 {
		if err := profile(ctx, c, o); err != nil {
			return err
		}
	}
	if err := rest(ctx, o.idle-time.Since(began)); err != nil {
		return err
	}
	past := time.Since(began)
	after, err := used()
	if err != nil {
		return err
	}
	for i, m := range c.Members {
		rss, err := cluster.RSS(m.Pid())
		if err != nil {
			return err
		}
		fds, err := cluster.FDs(m.Pid())
		if err != nil {
			return err
		}
		cores := (after[i] - before[i]).Seconds() / past.Seconds()
		fmt.Printf("%d shards: %s uses %.3f cores, %d MiB and %d file descriptors\n", o.shards, m.Name, cores, rss>>20, fds)
		if cores > f.cpu {
			f.cpu, f.busiest = cores, i
		}
		f.rss, f.fds = max(f.rss, float64(rss)), max(f.fds, float64(fds))
	}
	return nil
}

// lose kills the member that did the most while all were idle, which leads the
// shards as a rule, and takes the time until all of them, idle until then, took a
// write. Then the member comes back.
func lose(ctx context.Context, c *cluster.Cluster, o options, f *figures) error {
	var others []*cluster.Member
	for i, m := range c.Members {
		if i != f.busiest {
			others = append(others, m)
		}
	}
	if len(others) < 2 {
		return nil
	}
	if err := c.Members[f.busiest].Kill(); err != nil {
		return err
	}
	began := time.Now()
	if err := touch(ctx, c, o.shards, true, others...); err != nil {
		return err
	}
	f.loss = time.Since(began)
	if err := c.Members[f.busiest].Start(); err != nil {
		return err
	}
	return c.Members[f.busiest].WaitHealthy(ctx)
}

// profile writes a CPU profile of each member, over ten seconds.
func profile(ctx context.Context, c *cluster.Cluster, o options) error {
	if err := os.MkdirAll(o.profile, 0o755); err != nil {
		return err
	}
	for i, endpoint := range c.Endpoints() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/debug/pprof/profile?seconds=10", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		if err := os.WriteFile(filepath.Join(o.profile, fmt.Sprintf("idle-%d.pprof", i+1)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// rest waits.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
