// Package chaos breaks a running cluster while clients use it, heals it, and demands that nothing was lost, nothing was told wrongly, and everything works again.
//
// One [Run] is a round: it starts a cluster of real members, lets recorded clients work on all of them ([history.Recorder]), injects faults one after the other and sometimes two at a time, heals
// everything, and then demands in this order: every member serves reads and writes on every shard within 10 seconds; every watch has caught up; the replicas hash equal; goroutines, file descriptors and
// memory are back near where they were; no member has ended by itself or panicked; the history passes [history.Check] and its watches pass [history.Validators].
//
// What a round does follows from its seed: the shape of the cluster, the faults, whom they hit, how long they hold, and what every client asks for. Processes, disks and networks have a timing of their own,
// so a seed replays the same plan, not the same interleaving; a plan that failed once usually fails again after a few tries.
//
// A fault names a role (the owner of some shard, the sequencer, the owner that is the anchor of most transactions, anybody); who plays it is asked when it strikes. Faults need no
// privileges, but for those of disks, which need a loop mount: where the machine does not allow that, the round says so and goes on without them.
//
// It ends only processes that it started, and leaves nothing behind unless a round failed: then the members' directories and the recorded history stay, and the error says where.
package chaos
