// Package eval gives etcd's requests their meaning: it evaluates Range, Put,
// DeleteRange and Txn against a consistent view of the keys and yields the
// response and the effects (full values and tombstones) that the request has.
// It is pure: no revision is known yet, nothing is written, nothing waits.
//
// # What it promises
//
//   - The effects are complete: applying them reads nothing, so replicas need
//     no look at older versions and cannot diverge.
//   - A request without effects is a read, whatever its kind: a failed compare
//     or a delete of nothing takes no revision.
//   - As in etcd, all compares of a transaction, nested ones included, see the
//     state before the transaction; its ranges see its own earlier writes; its
//     checks (future or compacted revisions, ignore_value without a key) come
//     before anything else and fail the whole transaction.
//   - A key appears at most once among the effects.
//
// Revisions of what the request itself writes are unknown during evaluation;
// [Result.Finish] fills them into the response once they are allotted.
//
// The semantics follow etcd's documentation of etcdserverpb.KV and the
// behaviour of etcd v3.7 (package etcdserver/txn).
package eval
