// Package manager keeps this member's replicas as placement says: it alone
// starts, seeds, splits and stops them, one step of a shard at a time.
//
// The decisions are a pure function ([decide]) of placement's descriptors and of
// what is found locally; the loop around it carries them out and decides again
// when anything changed. A step that fails is decided anew, so a crash at any
// point resumes where it stopped.
//
// # A split, step by step
//
//  1. Split asks placement to reserve the child (BeginSplit), then lets the
//     parent's owner log the split. If that was not logged, AbortSplit.
//  2. Wherever the parent's replica shows the child pending, the member makes
//     the child's seed from the frozen span and confirms it (ConfirmSeed).
//  3. The entry with the majority's confirmation makes the child live and
//     shrinks the parent in the range map; every member then starts the child's
//     group, and the parent owner's member campaigns, so that no election
//     timeout passes.
//  4. Once every replica of the child holds a seed, the parent's owner logs
//     SplitDone, which drops the frozen span.
//
// A merge is in merge.go.
//
// # A rebuild
//
// A replica whose data differs is made anew on the same member: it stops owning the
// shard, is let go once a majority of the others has caught up, and is taken out of the
// group; placement lists a new replica of the member in its place, which joins as any
// other does once the member has removed the old one (package placement has the phases).
//
// # Invariants
//
//   - A seed is made, or a replica started for the first time, only after a
//     linearizable read of placement shows this replica id in the shard's
//     current descriptor, and never if the member has a durable mark that this
//     replica id was started or removed before. A parent's store that a crash
//     rewound to before SplitDone therefore cannot bring back a child that moved
//     away.
//   - A replica whose mark says "started" but whose raft log is gone is not
//     started: it may have voted and acknowledged.
//   - A first start uses the shard's initial list, however late it comes.
//   - A reserved child is aborted only by a serving owner of the parent in an
//     epoch in which it was not proposed: no Split entry of an earlier epoch can
//     apply any more.
package manager
