// Command kvd runs one member: it takes etcd's flags, environment variables and configuration file, and serves etcd's
// v3 API until it is told to stop.
//
// It owns the process: the log, the garbage collector's settings, signals, systemd's notification and the exit code.
// Everything else is package server's. Exit codes: 0 after a stop that was asked for, 1 when the member could not
// start or broke down, 2 when the command line could not be understood, 128 plus the signal's number when a second
// signal cut the stop short.
//
// It must never exit in another way while a member runs, and SIGTERM must always end it.
package main
