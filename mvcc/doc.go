// Package mvcc is the multi-version store of one key range, on Pebble: every
// version of every key since the last compaction, the order in which they were
// written, and a few records of its owner. It knows nothing of raft, of other
// ranges, of the network or of time.
//
// # What it owns
//
// An Engine is what all stores of a member share: block cache, file cache,
// compaction slots, the budget for memtables and the background work. A Store is
// one directory. One goroutine (the shard's apply) writes to it in Batches; any
// number of goroutines read Snapshots.
//
// # What it promises
//
//   - A batch is visible as a whole or not at all, and so it survives a crash:
//     a store that is opened again is as it was after some batch, and AppliedIndex
//     tells which. There is no write-ahead log: what was not flushed is lost, and
//     replayed from the raft log. After Flush nothing up to it is lost.
//   - A snapshot is one instant: data, local records, AppliedIndex, LastRevision
//     and CompactRevision belong to the same batch, whatever is written, compacted
//     or collected meanwhile.
//   - At every revision R from CompactRevision on, Get, Range, Count and Hash give
//     the state as it was at R, and Events gives every change from R on, in order,
//     each once, never a part of a revision. Below it they answer ErrCompacted.
//   - Hash depends on nothing but the agreed history: replicas that have collected
//     differently far agree, and the hashes of parts add up to that of the whole.
//     StateHash does not change when what lies below its revision is compacted.
//   - Opening a store takes milliseconds whatever its size. No index is rebuilt.
//   - Seed, Checkpoint and ReadSnapshot build aside and then take effect in one
//     step; a crash in the middle leaves what was there.
//
// # How it is laid out
//
// A version is a row "key, zero byte, revision, length byte" (encoding.go),
// under a Comparer that sorts revisions of a key in descending order. So the
// newest version is the first row with a prefix, which one seek finds, with the
// help of bloom filters on prefixes; older versions lie behind it, and pebble
// moves their values out of the way. The key schema (schema.go) stores keys and
// revisions of a block as columns.
//
// The revision index (revision, sub-revision -> key) gives the order of events.
// Apply writes both without reading anything: effects are complete.
//
// The store's own record (meta.go), written with every batch, says how far the
// store is. Readers take it from memory if no batch was being committed when
// they made their iterator, and else from among the data itself.
//
// Compaction is a number in that record, in force with its batch. Throwing the
// history away (Collect) is local, later, in small steps: it walks the revision
// index from where it last came to, because only a key that changed has anything
// to throw away.
//
// Counting keys is done by counters in memory, in buckets of about 500 keys
// (counters.go), so that the count that comes with every limited range costs no
// scan.
//
// # What must never happen
//
//   - A byte of a client, a peer or the disk makes the package panic.
//   - Client bytes reach pebble unencoded, as a key or as a bound: pebble hands
//     every bound to the comparer.
//   - A read path writes, waits for a writer, or waits for collection.
//   - The name or the meaning of anything on disk changes: the names of comparer
//     ("kvd.mvcc.v1"), key schema and block property, and the formats of rows, are
//     stamped into every table. A new meaning needs a new name.
//
// An error of a Batch, and any ErrCorrupt, is final: the member has to stop. The
// store remembers a failed write or flush, refuses further ones, and tells
// EngineOptions.OnFailure.
//
// # Rows below a dropped or absorbed span
//
// DropSpan deletes rows at once and leaves their index entries to a sweep
// (collect.go) that removes entries of the span up to the revision of the drop.
// Absorb, which writes history of older revisions into a span again, takes the
// span off the sweeps (absorb.go).
//
// Built with the tag "invariants" the package checks its counters against the
// data at each count.
package mvcc
