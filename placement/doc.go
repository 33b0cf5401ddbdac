// Package placement is the placement group of a kvd cluster (raft group 1), as
// every member carries it: the replicated record of members, shard descriptors,
// the revision window and the compaction revision; the sequencer, which is that
// group's owner in its role of handing out revisions; each member's client of
// the sequencer; and the range map that every member follows.
//
// # What it owns
//
//   - [State] applies commands. It is pure: no clock, map order or chance.
//   - [Machine] keeps a State in a [Storage] and publishes immutable [View]s.
//   - [Map] is the range map of one view.
//   - sequencer decides from memory which revision comes next; client batches
//     the wishes of one member's callers into one message at a time.
//   - [Node] puts them together and runs the life of the ownership: claim, wait
//     out, serve, renew, release.
//   - [Bootstrap] turns etcd's initial-cluster flags into the first entry.
//
// # What it promises
//
//  1. Live descriptors tile the whole key space, without gap or overlap, after
//     every entry.
//  2. Revisions are handed out once, in rising order, and are reported only by
//     a sequencer that is inside its read lease (or, with quorum reads, whose
//     ownership stood after the request arrived), so that a request which starts
//     after another one finished sees the larger revision.
//  3. A sequencer never hands out a revision at or above the applied window end,
//     and a successor begins exactly there. An orderly release first lowers the
//     window end to the next revision, so it skips none. An epoch that has
//     allotted nothing has an empty window, so losing it skips none either.
//  4. An answer serves only callers that were waiting when its message left. A
//     message that is sent again is answered with the same revisions.
//  5. "Not yet serving" is said only by a process whose claim has applied and
//     which gave no reading in that epoch.
//  6. A change that returned is seen by every answer of the sequencer to a
//     message sent after it.
//
// # What it must never do
//
//   - write to the placement group on a request's path, but for the first
//     revision of an epoch, which opens its window;
//   - let a clock other than the sequencer's own decide about a lease;
//   - hand out anything in an epoch after its release was proposed;
//   - call raft from inside the state machine.
//
// # Lock order
//
// client, then sequencer; neither is held while a frame is sent, a caller is
// answered or a subscriber is told. Views are read without a lock.
package placement
