// Package backup saves the whole store as one file in etcd's snapshot format, and
// makes data directories out of such files, whoever wrote them.
//
// # Saving
//
// A save is consistent at one revision R over all shards, whatever is written,
// compacted, split or moved meanwhile:
//
//  1. R is the current revision. Every shard's owner tells the raft index at which
//     all its writes up to R are applied, and that none can appear later.
//  2. One replica of each shard is pinned at or behind that index: here if there is one here,
//     else over the bulk connection. A pin (mvcc.Pin) holds files and no memory, and
//     nothing takes history away from under it.
//  3. The pinned spans must tile the user keys, and nothing that R needs may have
//     been compacted in any of them. A split or a compaction that came in between
//     is answered by beginning again with a new R, before anything was written.
//     Afterwards no compaction concerns the save any more.
//  4. The shards are read one by one, in the order of keys, and sorted on disk by
//     revision (extsort), because that is how etcd's file is laid out: the versions
//     that a compaction spared lie scattered over the key space and are in no index of
//     revisions. A shard whose replica stops while it is read goes on from another one at the
//     same key.
//  5. The sorted rows become a bbolt file (etcdfile) with all the history from the
//     compaction revision C on, which is streamed to the client.
//
// Memory is bounded by the buffers of the sort and of one bbolt transaction,
// whatever the store's size; the disk of the data directory must have room for
// twice the store's uncompacted history. Temporary files lie in a directory of
// the save's own, which is removed with it, and at the next start.
//
// # Restoring
//
// See Restore.
//
// # What must never happen
//
//   - A row above R, or above C and missing, in the file.
//   - A file that looks whole and is not: its checksum is sent last.
//   - A save holds up apply, compaction, a split or the stop of a replica.
package backup
