// Package command is the compact encoding of a batch of writes, the raft
// command that a shard's log is made of.
//
// A batch belongs to one ownership (epoch) and has its place in it (seq). It
// holds transactions in increasing order of their revisions, each with its
// complete effects, so that applying it reads nothing.
//
//	batch  = version(1) epoch seq count txn...
//	txn    = revision count effect...          revision: distance to the last one
//	effect = flags key [detach] [create] [version] [lease] [value]
//
// A batch of version 2 holds commits of transactions over several shards: a
// record follows each count, empty where the transaction is no commit, and a
// commit's effects are followed by their numbers in the whole transaction.
//
// Numbers are unsigned varints, keys and values are preceded by their length.
// The first byte is the format's version; no encoded kvdpb.ShardCommand begins
// with it, so the two kinds of commands share a log ([IsBatch]).
//
// Decoding copies nothing: keys and values alias the command's bytes. Whatever
// the bytes are, it neither panics nor allocates more than a fixed multiple of
// their number. An unknown version is an error, never skipped: a replica that
// does not understand an entry must stop.
package command
