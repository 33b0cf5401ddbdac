// Package latch orders the requests of one shard that touch the same keys:
// whoever came first goes first, and requests that do not conflict do not meet.
//
// # How it works
//
//  1. A request acquires all its latches at once, under one lock, and gets its
//     place in the order there. It then waits for every earlier request that
//     conflicts with it: one that overlaps, where at least one of both writes.
//     Nobody ever waits for a later one, so there is no deadlock.
//  2. Waiting is passive. Each request counts the blockers it waits for, and each
//     holder lists the requests that wait for it; the release that takes the
//     last blocker away calls the waiter back, after the lock is dropped.
//  3. A latch on one key is found by hashing. Keys are also kept in order, so
//     that a latch on a range finds those inside it. Ranges, which are few,
//     stand in a tree by their start and are scanned up to the key in question.
//  4. On one key it is enough to wait for the last writer, or for the readers
//     that came after it: they wait for whoever came before them. So a queue of
//     n writers costs n links and not n squared.
//  5. A waiting request that is cancelled stays in its place as a ghost, which
//     releases itself when its turn comes. So point 4 stays true.
//
// [Manager.WaitWriters] waits for those that hold a write latch at that moment,
// without a place in the order and without holding up anybody. Linearizable
// reads use it: what is only waiting for its latches has not asked for a
// revision yet.
//
// Tried and dropped: linking to every earlier request of a key (quadratic on a
// hot key), and removing cancelled requests from the middle of the order (their
// waiters would have to inherit their blockers).
package latch
