// Command bigstore grows a store until the cluster has cut it into many shards by itself, and watches what its clients feel of it.
//
// Three members begin with one shard. A few clients write large values that do not compress under keys of a random order until the store has the size asked for, as fast as
// they are answered; others, at all members, put, read and watch small keys among them at a steady pace. Nobody asks for a split: the scheduler cuts
// shards that outgrow split-bytes.
//
// It prints, every few seconds, the size written, the number of shards and the longest wait of the steady clients, and at the end whether there were no
// errors, whether all keys are there, whether the watch missed nothing, whether no shard is left that should have been cut, and whether no wait exceeded
// its bound; it exits non-zero when one of them does not hold.
package main
