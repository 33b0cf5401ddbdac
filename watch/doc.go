// Package watch delivers what the replicas apply to the watches of clients: one
// Hub per member, one Stream per client call, any number of watches on each.
//
// # What it promises
//
// Every watch is handed exactly the events of its range from its start revision
// on: in the order of revisions, each once, none left out, a revision never cut
// in two (unless the client asked for fragments), and a progress report of
// revision R only after everything up to R. This holds over any number of shards
// and across splits, moves, changes of owner, snapshots that a replica jumped
// ahead by, and clients that do not read for a while. A watch ends only because
// its client ends it or because the history that it needs was compacted, and then
// it is told so.
//
// # How
//
//   - The user key space is cut into segments ([segment]), each fed by one source:
//     the log of a local replica, or a feed from another member. A segment knows
//     its resolved revision: no event at or below it can appear in its span any
//     more. It also holds the recent events, in a ring that all watches share.
//     A table of all segments ([topology]) is immutable; a split replaces segments
//     by new ones that begin where the old ones ended, so positions belong to
//     spans and never to shard ids.
//   - A group delivers to all watches whose ranges touch the same segments, as far
//     as all these are resolved: for one segment that is whatever was applied, for
//     several it is a merge by revision. There is no sorter in front of all.
//   - A segment whose shard is idle is resolved on demand, by asking the shard's
//     owner ([resolver]). The answer counts for the span that the owner named, if
//     generations agree, once the replica that feeds the segment has applied what
//     the owner had. Nobody is asked unless somebody waits for it.
//   - A watch that is behind (an old start revision, a ring that has moved on, a
//     client that did not read) reads history in a cohort, in bounded windows, and
//     joins its group at an exact revision, under the group's lock.
//
// # What it must never do
//
// Block a replica: Sink calls take locks that are held for short whiles only, and
// never wait for disk, network or a client. Count an answer for a span that it was
// not given for, or before its raft index is applied here. Drop an event because a
// queue is full. Read a store of a segment that has ended: its data may be gone.
//
// # Lock order
//
// Hub.mu, Hub.groups, group.mu of a live group, group.mu of a cohort, Stream.mu,
// resolver.mu, source.mu (by shard, then serial), segment.mu; feeds.mu, scheduler.mu
// and the counts of goroutines are leaves.
package watch
