// Package main runs etcd's own black-box tests against kvd.
//
// The tests are those of the package tests/common of etcd's module go.etcd.io/etcd/tests/v3, built with the tag e2e:
// they start the program named etcd in a directory, drive it with etcdctl, and know nothing of kvd. This program fills
// that directory (etcd is kvd; etcdctl and etcdutl come from their modules), runs the tests in one of the modes below,
// and compares what failed with the list in expected.txt.
//
//   - one: every cluster has one shard, as kvd starts by default.
//   - split: every cluster is born with its key space cut at keys that the tests use, so that their transactions, ranges,
//     deletions and watches go over several shards.
//
// It succeeds only if the list is exactly right: a test that fails and is not on it, a test on it that passes, one that
// skips itself for a reason that is not etcd's own, and one that never ran are all failures.
//
// Many of etcd's tests give up after ten seconds, with a dozen runs of etcdctl in them. So a test that fails is run
// again, in another process with another cluster, and is reported as flaky if it passes then: twice in all, or as often
// as -tries says, after which it has failed. Where time is short, -budget ends a mode early and names what was not run,
// and -lenient excuses tests that end at their limit on a machine that is measured to be too slow for it; a run in which
// less than a quarter of the tests pass is a failure all the same.
//
// It must never change what a test sees beyond the mode: no longer waits, no edited tests.
package main
