// Package cluster runs real members, kvd's or etcd's, as processes on this machine for tests, the demo and the benchmark.
//
// It owns the processes it starts, their directories and their ports: every member listens on loopback only, keeps its data and its log
// in a directory of its own below one base directory, and dies with the program that started it, even if that program panics or is killed
// (the kernel sends SIGKILL, see spawn). It ends nothing but what it started, by process id.
//
// A member is driven with etcd's own flags and environment, so that the same suite can run against etcd: a test of the shared surface that
// fails on etcd is a wrong test.
//
// Every wait is for a condition (a line of the log, an answer of the health endpoint, the end of a process), takes a context, and ends early
// with the tail of the member's log when the process is gone. Nothing here waits for time to pass.
package cluster
