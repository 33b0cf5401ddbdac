package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/tests/cluster"
)

// What is demanded; the documentation of the package says of whom.
const (
	leastThroughput = 0.9
	mostP99         = 2.0
	mostWait        = 5 * time.Second
)

func main() {
	binary := flag.String("kvd", "bin/kvd", "kvd's `binary`")
	rounds := flag.Int("rounds", 5, "how often each kind of phase is measured")
	phase := flag.Duration("phase", 4*time.Second, "how long a phase lasts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *binary, *rounds, *phase); err != nil {
		fmt.Fprintln(os.Stderr, "bystanders:", err)
		os.Exit(1)
	}
}

// measurement is what a kind of load did in one phase.
type measurement struct {
	rate float64
	p99  time.Duration
	most time.Duration
}

func measure(b *bystander, took time.Duration) measurement {
	all := b.take()
	if len(all) == 0 {
		return measurement{}
	}
	return measurement{float64(len(all)) / took.Seconds(), all[len(all)*99/100], all[len(all)-1]}
}

func run(ctx context.Context, binary string, rounds int, phase time.Duration) error {
	c, err := cluster.New(cluster.Options{Binary: binary, Members: 3, Network: true,
		Args: []string{"--initial-split-keys=s1,s2,s3,s4,s5,s6,s7"}})
	if err != nil {
		return err
	}
	defer c.Close()
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := c.StartAll(starting); err != nil {
		return err
	}
	var clients []*clientv3.Client
	for _, m := range c.Members {
		cli, err := c.Client(m)
		if err != nil {
			return err
		}
		defer cli.Close()
		clients = append(clients, cli)
	}
	if err := disown(starting, c.Members[2], clients); err != nil {
		return err
	}
	working, end := context.WithCancel(ctx)
	defer end()
	var l loads
	l.run(working, clients)
	kinds := []*bystander{&l.put, &l.get, &l.watch}
	measured := func(fault func(context.Context) error) ([]measurement, []time.Duration, error) {
		for _, b := range append(kinds, &l.probe) {
			b.take()
		}
		began := time.Now()
		during, cancel := context.WithTimeout(ctx, phase)
		defer cancel()
		if err := fault(during); err != nil {
			return nil, nil, err
		}
		took := time.Since(began)
		var out []measurement
		for _, b := range kinds {
			out = append(out, measure(b, took))
		}
		return out, l.probe.take(), ctx.Err()
	}
	faults := []struct {
		name string
		do   func(context.Context) error
	}{
		{"abandoned", func(ctx context.Context) error { return stutter(ctx, c.Members[2]) }},
		{"slow", func(ctx context.Context) error { return delay(ctx, c) }},
	}
	rates, p99s := map[string][]float64{}, map[string][]float64{}
	var worst, quietWorst time.Duration
	hung := 0
	if _, _, err := measured(wait); err != nil { // warms up
		return err
	}
	for n := range rounds {
		for _, f := range faults {
			quiet, quietProbes, err := measured(wait)
			if err != nil {
				return err
			}
			faulty, probes, err := measured(f.do)
			if err != nil {
				return err
			}
			if transactionsHang(probes) {
				hung++
				worst = max(worst, probes[len(probes)-1])
			}
			if len(quietProbes) > 0 {
				quietWorst = max(quietWorst, quietProbes[len(quietProbes)-1])
			}
			for i, b := range kinds {
				key := f.name + " " + b.name
				rates[key] = append(rates[key], faulty[i].rate/quiet[i].rate)
				p99s[key] = append(p99s[key], float64(faulty[i].p99)/float64(quiet[i].p99))
			}
			fmt.Printf("round %d of %d: beside transactions that are %s, a put on their shards waits up to %v\n", n+1, rounds, f.name, last(probes).Round(time.Millisecond))
		}
	}
	end()
	l.wg.Wait()
	return report(rates, p99s, worst, quietWorst, hung, l.errors())
}

func last(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	return all[len(all)-1]
}

func report(rates, p99s map[string][]float64, worst, quietWorst time.Duration, hung int, failed error) error {
	if hung == 0 {
		failed = errors.Join(failed, errors.New("no transaction hung: nothing was shown"))
	}
	fmt.Println("\n| transactions | bystander | throughput, x quiet | p99, x quiet |\n|---|---|---|---|")
	for _, fault := range []string{"abandoned", "slow"} {
		for _, kind := range []string{"put", "get", "watch"} {
			rate, p99 := median(rates[fault+" "+kind]), median(p99s[fault+" "+kind])
			fmt.Printf("| %s | %s | %.2f | %.2f |\n", fault, kind, rate, p99)
			if rate < leastThroughput || p99 > mostP99 {
				failed = errors.Join(failed, fmt.Errorf("%s beside transactions that are %s: %.2f of the throughput (at least %.2f), %.2f of the p99 (at most %.2f)", kind, fault, rate, leastThroughput, p99, mostP99))
			}
		}
	}
	fmt.Printf("\nThe longest put on their shards took %v, in quiet phases %v.\n", worst.Round(time.Millisecond), quietWorst.Round(time.Millisecond))
	if worst > mostWait {
		failed = errors.Join(failed, fmt.Errorf("a put waited for %v", worst))
	}
	return failed
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// wait is the fault of quiet phases.
func wait(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// stutter stops the member again and again, for longer than it takes others to give up on its transactions.
func stutter(ctx context.Context, m *cluster.Member) error {
	for ctx.Err() == nil {
		if err := m.Pause(); err != nil {
			return err
		}
		sleep(ctx, 1500*time.Millisecond)
		if err := m.Resume(); err != nil {
			return err
		}
		sleep(ctx, 300*time.Millisecond)
	}
	return nil
}

// delay makes everything slow that goes to the third member, or comes from it.
func delay(ctx context.Context, c *cluster.Cluster) error {
	defer c.Network.Heal()
	for other := range 2 {
		c.Network.Delay(2, other, 60*time.Millisecond, 20*time.Millisecond)
		c.Network.Delay(other, 2, 60*time.Millisecond, 20*time.Millisecond)
	}
	return wait(ctx)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// disown restarts a member until it owns nothing and does not hand out revisions: it hands over when it stops.
func disown(ctx context.Context, m *cluster.Member, clients []*clientv3.Client) error {
	for {
		if err := m.Restart(ctx); err != nil {
			return err
		}
		if err := m.WaitHealthy(ctx); err != nil {
			return err
		}
		list, err := kvdpb.NewShardAdminClient(clients[0].ActiveConnection()).List(ctx, &kvdpb.ShardListRequest{})
		if err != nil {
			return err
		}
		status, err := clients[2].Status(ctx, m.ClientURL)
		if err != nil {
			return err
		}
		self := status.Header.MemberId
		if status.Leader != self && !slices.ContainsFunc(list.Shards, func(s *kvdpb.ShardInfo) bool { return s.OwnerMemberId == self }) {
			return nil
		}
	}
}
