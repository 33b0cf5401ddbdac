// Package space keeps a member from running out of space.
//
// It owns the decision when the alarm NOSPACE is raised for this member, and when it is taken back. There are two
// causes, which are alarms of their own in the replicated state:
//
//   - QUOTA: the rows of this member's replicas take more than --quota-backend-bytes. Such an alarm stands until somebody
//     disarms it, as in etcd.
//   - DISK: a disk that the member writes to has less room left than the reserve. Such an alarm is taken back once there is
//     room again, with some distance, so that it does not flap.
//
// Promises:
//
//   - Requests are refused before they get a revision, never after.
//   - A write that needs space is refused from the moment at which this member finds out, and on all members once the
//     alarm is applied there. Deletions, compactions and reads go on.
//   - While nothing is wrong, a write costs an atomic load, and with a quota an atomic addition.
//   - Disarming does not bring the alarm back for space that compaction has set free already: the members that see it
//     cleared write out their memtables, which is when that space shows, before they judge again.
//
// It must never free space by itself other than what compaction has given up, and never stop a member.
package space
