package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// splitKeys cut the keys that etcd's tests use into several shards, in the syntax of --initial-split-keys: a, b, c, d,
// c/abc, foo, foo/abc, foo1 to foo3, fop, key, key1 to key3, 1st_test to 4th_test. The first key of a shard is one that
// a test puts, or lies between two of them.
const splitKeys = `2,b,c,c/,foo,foo/,foo2,fop,key1,key2`

// mode is one way to start the clusters.
type mode struct {
	name string
	env  []string
}

var modes = []mode{
	{name: "one"},
	{name: "split", env: []string{"KVD_INITIAL_SPLIT_KEYS=" + splitKeys}},
}

type options struct {
	kvd, dir, expected, mode, run string
	timeout                       time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.kvd, "kvd", "../../bin/kvd", "the kvd binary")
	flag.StringVar(&o.dir, "dir", "../../bin/etcd-suite", "where the other binaries and the logs go")
	flag.StringVar(&o.expected, "expected", "expected.txt", "the list of tests that are known to fail")
	flag.StringVar(&o.mode, "mode", "one", "one (shard), split (key space), or both")
	flag.StringVar(&o.run, "run", ".", "regular expression that chooses tests")
	flag.DurationVar(&o.timeout, "timeout", 30*time.Minute, "how long a mode may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "test-etcd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) error {
	chosen, err := o.modes()
	if err != nil {
		return err
	}
	pattern, err := regexp.Compile(o.run)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	list, err := readExpected(o.expected)
	if err != nil {
		return err
	}
	unlock, err := lockPorts(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := awaitPorts(ctx); err != nil {
		return err
	}
	s, err := build(ctx, o)
	if err != nil {
		return err
	}
	defer s.close()
	names, err := s.list(ctx, pattern)
	if err != nil {
		return err
	}
	if err := list.unknown(names, o.run); err != nil {
		return err
	}
	var wrong []string
	for _, m := range chosen {
		started := time.Now()
		results, err := s.run(ctx, m, names, list, o.timeout)
		if err != nil {
			return fmt.Errorf("mode %s: %w", m.name, err)
		}
		wrong = append(wrong, report(m.name, names, results, list, time.Since(started), s.log(m))...)
	}
	if len(wrong) > 0 {
		return fmt.Errorf("not as %s says:\n  %s", o.expected, strings.Join(wrong, "\n  "))
	}
	return nil
}

func (o *options) modes() ([]mode, error) {
	var chosen []mode
	for _, m := range modes {
		if o.mode == m.name || o.mode == "both" {
			chosen = append(chosen, m)
		}
	}
	if chosen == nil {
		return nil, fmt.Errorf("-mode %q is none of one, split and both", o.mode)
	}
	return chosen, nil
}
