// Package multiraft runs the raft groups of a member. It is the only package that knows Dragonboat: everything about its log store, its
// transport, its crash policy and its traps ends here.
//
// What it owns: the raft logs (one log store for all groups, package logstore), the transport among members over package peer, the life of replicas, and the translation of outcomes.
//
// What it promises
//
//   - Propose tells "not appended, nothing happened" from "unknown", and appends only on the raft leader.
//   - ReadIndex returns once the local state machine has applied everything that was committed when it was called.
//   - Leader events arrive in order, at latest states, and never block raft.
//   - StopReplica returns when the state machine is closed; then any other replica of the shard may start.
//   - Bytes from other members are checked before raft sees them. A replica's messages are taken from one member only.
//   - The directory may be moved and opened under another host name, by the same member of the same cluster with the same format only.
//
// Invariants
//
//   - A replica id that was removed never starts again here.
//   - A state machine's error ends the process, after Config.OnFatal was called: its replica must not go on, and Dragonboat stops the process anyway.
//   - At most one replica of a shard exists here at any time, until its state machine is closed.
//
// Idle groups: a follower that has nothing new to learn is sent two or three heartbeats in an election timeout instead of five, and members that fall silent are
// given the time back that this takes from them. The argument is at type beats, what else an idle group costs in docs/decisions/2026-11-27-idle-shards.md.
//
// What it must never do: retry a proposal, interpret commands, be called from inside a state machine.
//
// A hop of a proposal costs one sync on each replica: package logstore keeps the logs and does not sync a commit index that moves alone. Dragonboat's queues are
// sized in soft.go, its host name in paths and flag files is dealt with in hostname.go, the options that can never change are stamped in raft.json.
package multiraft
