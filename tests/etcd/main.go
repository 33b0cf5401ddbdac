package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
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

// acrossShards are the tests of which the split mode says most: what they read or write lies in several shards, or is
// kept for each shard. They are about half of all.
var acrossShards = []string{
	"TestAlarm",
	"TestAuthWriteKey", "TestAuthTxn", "TestAuthPrefixPerm", "TestAuthRoleRevokeDuringOps", "TestAuthRevokeWithDelete",
	"TestAuthLeaseKeepAlive", "TestAuthLeaseTimeToLive", "TestAuthLeaseTimeToLiveExpired", "TestAuthLeaseGrantLeases",
	"TestAuthLeaseRevoke", "TestAuthCompact", "TestAuthRevisionConsistency",
	"TestCompact", "TestDefragOnline", "TestEndpointStatus", "TestEndpointHashKV", "TestHashKVWithRootAuth",
	"TestVerifyHashKVAfterCompact", "TestVerifyHashKVAfterTwoCompactsOnTombstone",
	"TestVerifyHashKVAfterCompactOnLastTombstone", "TestVerifyHashKVAfterCompactAndDefrag",
	"TestKVPut", "TestKVGet", "TestKVGetStream", "TestKVDelete", "TestKVGetNoQuorum",
	"TestLeaseGrantTimeToLive", "TestLeaseGrantAndList", "TestLeaseGrantTimeToLiveExpired", "TestLeaseGrantKeepAliveOnce",
	"TestLeaseGrantRevoke",
	"TestMemberAdd", "TestMemberRemove", "TestStatus", "TestTxnSucc", "TestTxnFail", "TestWaitLeader_MemberStop", "TestWatch",
}

type options struct {
	kvd, dir, expected, mode, run string
	half, lenient                 bool
	tries                         int
	budget, timeout               time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.kvd, "kvd", "../../bin/kvd", "the kvd binary")
	flag.StringVar(&o.dir, "dir", "../../bin/etcd-suite", "where the other binaries and the logs go")
	flag.StringVar(&o.expected, "expected", "expected.txt", "the list of tests that are known to fail")
	flag.StringVar(&o.mode, "mode", "one", "one (shard), split (key space), or both")
	flag.StringVar(&o.run, "run", ".", "regular expression that chooses tests")
	flag.BoolVar(&o.half, "half", false, "only the tests whose keys lie in several shards in mode split")
	flag.IntVar(&o.tries, "tries", 2, "how often a test is tried until it passes")
	flag.DurationVar(&o.budget, "budget", 0, "after how long no further test of a mode is begun; 0 for never. What is left is named")
	flag.BoolVar(&o.lenient, "lenient", false, "excuse tests that end at their own limit while the machine is measured to be too slow for it")
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
	if o.tries < 1 {
		return fmt.Errorf("-tries %d: at least one", o.tries)
	}
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
	all, err := s.list(ctx)
	if err != nil {
		return err
	}
	names, err := choose(all, pattern, o.half)
	if err != nil {
		return err
	}
	if err := list.unknown(all); err != nil {
		return err
	}
	var wrong []string
	for _, m := range chosen {
		started := time.Now()
		results, err := s.run(ctx, m, names, list, o)
		if err != nil {
			return fmt.Errorf("mode %s: %w", m.name, err)
		}
		begun, left := split(names, results)
		wrong = append(wrong, report(m.name, begun, results, list, time.Since(started), s.log(m))...)
		wrong = append(wrong, reportLeft(m.name, begun, left, results, o.budget)...)
	}
	if len(wrong) > 0 {
		return fmt.Errorf("not as %s says:\n  %s", o.expected, strings.Join(wrong, "\n  "))
	}
	return nil
}

// choose names the tests to run, in the order in which etcd has them.
func choose(all []string, pattern *regexp.Regexp, half bool) ([]string, error) {
	if half {
		for _, name := range acrossShards {
			if !slices.Contains(all, name) {
				return nil, fmt.Errorf("etcd's suite has no test %s", name)
			}
		}
	}
	var names []string
	for _, name := range all {
		if pattern.MatchString(name) && (!half || slices.Contains(acrossShards, name)) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("no test is chosen")
	}
	return names, nil
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
