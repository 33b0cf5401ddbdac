// Package compactor compacts history by itself, by time or by number of revisions, as etcd's --auto-compaction-mode and
// --auto-compaction-retention say.
//
// Promises:
//
//   - Periodic: a revision is compacted only once it has been seen to be at least the retention old. Compactions follow each
//     other at intervals of the retention, but of an hour at most.
//   - Revision: every five minutes what lies more than the retention behind is compacted.
//   - Only the owner of the placement group compacts, so that a cluster does it once. All members take note of revisions, so
//     that the retention does not begin anew when the ownership moves.
//   - A failure is logged once and tried again with the next sample.
//
// It must never compact by what a wall clock says: ages are measured on the monotonic clock of this member.
package compactor
