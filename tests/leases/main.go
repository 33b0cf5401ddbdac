package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
	"github.com/kvd-io/kvd/tests/expiry"
)

func main() {
	o := expiry.Options{Log: func(format string, args ...any) { fmt.Printf(format+"\n", args...) }}
	binary := flag.String("kvd", "bin/kvd", "kvd's `binary`")
	split := flag.Bool("split", true, "cut the key space so that leases, their keys and the writers' keys lie in several shards")
	factor := flag.Float64("factor", 3, "how many times as long as in quiet the 99th percentile of writes may take")
	flag.IntVar(&o.Leases, "leases", 10000, "how many leases end at once")
	flag.Int64Var(&o.TTL, "ttl", 60, "their time in seconds")
	flag.IntVar(&o.Writers, "writers", 8, "how many clients write meanwhile")
	flag.DurationVar(&o.Pace, "pace", 5*time.Millisecond, "pause of each between two writes")
	flag.DurationVar(&o.Quiet, "quiet", 15*time.Second, "how long quiet writes are measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	passed, err := measure(ctx, *binary, *split, *factor, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "leases:", err)
	}
	if err != nil || !passed {
		os.Exit(1)
	}
}

func measure(ctx context.Context, binary string, split bool, factor float64, o expiry.Options) (passed bool, err error) {
	opts := cluster.Options{Binary: binary, Members: 3}
	if split {
		opts.Args = []string{fmt.Sprintf("--initial-split-keys=expiry/lease/%06d,expiry/writer/,expiry/writer/%d", o.Leases/2, o.Writers/2)}
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	c, err := cluster.Start(ready, opts)
	cancel()
	if err != nil {
		return false, err
	}
	defer c.Close()
	cli, err := c.Client()
	if err != nil {
		return false, err
	}
	defer cli.Close()
	bounded, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	r, err := expiry.Run(clientv3.WithRequireLeader(bounded), cli, o)
	if err != nil {
		return false, err
	}
	fmt.Print(r)
	most := time.Duration(o.Leases) * time.Second / 1000
	quiet, storm := expiry.Quantile(r.Quiet, 0.99), expiry.Quantile(r.Storm, 0.99)
	passed = true
	for _, v := range []struct {
		ok   bool
		what string
	}{
		{r.Early == 0, "none ended early"},
		{r.LastLate() <= most, fmt.Sprintf("the last is at most %v late", most)},
		{float64(storm) <= factor*float64(quiet), fmt.Sprintf("99th percentile of writes %.1fx of quiet, at most %.1fx", float64(storm)/float64(quiet), factor)},
	} {
		verdict := "yes"
		if !v.ok {
			verdict, passed = "NO", false
		}
		fmt.Printf("%-4s %s\n", verdict, v.what)
	}
	return passed, nil
}
