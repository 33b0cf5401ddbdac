// Package integrity finds replicas whose data is not what the others have.
//
// # How
//
// The owner of a shard looks at its own copy at some raft index, and asks each other
// replica for the checksum of its copy once that has applied the index, of the
// history up to the largest revision that the owner's copy had there. Apply is the
// same everywhere and goes by revision, so nothing can be different then but by a
// fault: of a disk, of memory, or of this program. Hashes are compared only if the
// copies have the same generation and begin at the same compaction revision;
// otherwise the replica is looked at again in the next round.
//
// The records of leases are compared as well. They have no revision, so they are
// compared only where the states of both copies are the same, which count what was
// decided about leases.
//
// Who is wrong: the replicas that differ from what more than half of all have. Where
// no value has that many, those that differ from the owner. A difference counts once
// it was found twice in a row; then the alarm CORRUPT is raised for the member, and
// from there on all members refuse changes (package space) until somebody disarms it,
// as in etcd. The alarm names the shards as well: their replicas on the member are
// fenced (package manager takes their ownership away, package router does not read
// them), and it ends by itself once each was rebuilt or is gone (package placement).
//
// # Pace
//
// Each shard is compared once in a period, by default [DefaultPeriod], one after the
// other. Without a period that was asked for, the pauses are long enough that
// comparing takes no more than a [restShare]th of the time.
//
// # What it must never do
//
// Hold up apply or a request. Judge by what it could not look at: a member that
// cannot be reached, or that lags, is not corrupt.
package integrity
