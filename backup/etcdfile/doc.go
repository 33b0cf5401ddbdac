// Package etcdfile reads and writes etcd's snapshot files: a bbolt database in
// the schema of etcd v3, followed by its SHA-256.
//
// # What it promises
//
//   - A Writer makes files that stock etcd accepts (`etcdutl snapshot status` and
//     `restore`), with etcd's own library, bbolt, in bounded memory: rows come in
//     the order of revisions and are committed in batches.
//   - A Reader takes whatever bytes there are. It reads pages itself, with bounds
//     on every offset, each page at most once: no file makes it panic, loop, or
//     take more memory than a page path and one row. bbolt cannot promise that:
//     it maps the file and trusts it, so that a truncated one ends the process and
//     a page that points to itself never ends.
//   - Check reads every row and says what is wrong with a file before anybody
//     writes anything.
//
// # The format
//
// Bucket "key" holds one row for each version of a key: revision, '_' and
// sub-revision (8, 1 and 8 bytes, big endian), and a 't' behind a deletion. Its
// value is an encoded mvccpb.KeyValue, of which a deletion has the key only. The
// other buckets hold what etcd keeps beside the keys; see schema.go.
//
// A deletion of the empty key, which no client can name, only carries a revision:
// it makes the file's revision that of the store where the latter gave out
// numbers that no write used.
package etcdfile
