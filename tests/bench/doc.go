// Command bench measures kvd against etcd and against an empty server, side by side on one machine.
//
// Three kinds of system answer the same load over the same generator: etcd as its own module builds it, kvd with one or more shards, and
// an empty gRPC server that decodes the same requests and encodes the same answers but stores nothing: the ceiling that gRPC sets on this
// machine. With three members each system is three processes.
//
// A cell is one operation at one number of clients, connections and members. It is measured in rounds: in each round every system runs
// once, in an order that rotates, while the others are frozen (SIGSTOP) so that their heartbeats cost nobody anything. Ratios are taken within a
// round and the median over the rounds is reported. A round in which other programs used more than a tenth of the machine's CPU
// is disturbed and is repeated, a bounded number of times.
//
// Server CPU per operation is the user and system time of all member processes during the measured window divided by the operations that
// ended in it: unlike throughput it does not depend on how much CPU the load generator leaves over, so it is the figure to trust.
//
// Beside these cells, and by themselves: restart is the time from the start of all members of a large store to answers from all of them, kill the time
// without answers after kill -9 of the member that leads everything, snapshot what saving and restoring takes.
//
// It must never talk to anything but loopback, and leaves no process and no data behind.
package main
