// Package lease is what a member does about client leases for the cluster: it
// brings the requests of clients to the records of their leases, and deletes the
// keys of leases that have ended.
//
// # How it hangs together
//
// A lease is a record in the internal key space (keyspace.Lease), and the owner of
// the shard that holds it runs its time (package shard, lessor). Keys in any shard
// may be attached to it (package shard, attachments). This package does what
// takes more than one shard:
//
//   - Granting, keeping alive, describing and revoking go to the record's owner.
//     Each step may be repeated, so a lost answer is no error: the step is
//     simply taken again wherever the record is owned by then.
//   - Listing asks every shard of the records' span.
//   - Ending a lease. The record's owner has marked it, so nothing registers any
//     more, and told this member (Manager.Revoke). Then the fence passes every
//     registered span and answers which keys are attached there: none can be
//     added any more. One transaction deletes all of them that still are,
//     which takes one revision over any shards. Then the record is dropped.
//
// # What it promises
//
//   - Once a revoke has been answered no key is attached to the lease, and none
//     ever will be, unless the same id is granted again.
//   - All keys of a lease go in one revision. If that transaction's outcome is lost
//     it is made again for the keys that are left: each delete is conditional on
//     the key's being attached, so repeating one does nothing.
//   - A marked lease is ended whatever happens to members: every owner of a marked
//     record begins anew when it begins to serve.
//   - Ending many leases takes a few at a time, so that it does not stand in the
//     way of other writes.
//
// # What it must never do
//
// Decide that a lease has ended, or look at a clock for that: the record's owner
// does. Delete a key that is no longer attached. Grow without bound: what waits
// to be ended is a set of leases.
package lease
