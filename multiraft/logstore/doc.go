// Package logstore keeps the raft logs, states and snapshot records of all replicas of a member in one Pebble, behind Dragonboat's raftio.ILogDB.
//
// It takes the place of Dragonboat's own log store for three reasons. That one syncs every update, also those that move only the commit index, which
// raft need not remember: two of the three syncs that stand between a proposal and the next one on each replica. It cannot leave syncing to the operating system when it
// is told to. And it ties the place of its files to the host's name.
//
// What it promises
//
//   - SaveRaftState returns after entries, terms, votes and snapshot records are durable, with one sync for all replicas in the call.
//   - A commit index that comes alone stays in memory and is written with the replica's next record of any kind, or on Close. So what is on disk about
//     commitment is never older than the last durable entry, as in etcd: a replica that restarts knows at least all membership changes but the last one.
//   - A commit index read back is never below the replica's snapshot: the snapshot proves it.
//   - After a crash a replica finds a gapless log from its snapshot on, or an error.
//
// Invariants
//
//   - The record of a replica's state names the last index of its log. Entries beyond it are left over from a log that was overwritten, and never read.
//   - One replica's updates come from one goroutine at a time; snapshot records and truncation may come from others.
//
// Keys are kind[1] shard[8] replica[8], entries' followed by index[8], all big endian, under Pebble's default comparer.
package logstore
