package backup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/backup/etcdfile"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// item is one row of a shard on its way into a file. Its bytes are valid until
// the next one.
type item struct {
	// key is the encoded key, rev its revision.
	key []byte
	rev etcdfile.Revision
	// lease is what the version attaches its key to; 0 for none.
	lease int64
	// row and value are what the file holds.
	row, value []byte
}

// set makes the item of a version; ok is false for a key that is no client's.
func (it *item) set(v *mvcc.Version) (ok bool) {
	user, ok := keyspace.UserKey(v.Key)
	if !ok {
		return false
	}
	it.key = v.Key
	it.rev = etcdfile.Revision{Main: v.Revision, Sub: v.Sub, Tombstone: v.Tombstone}
	it.row = etcdfile.AppendRevision(it.row[:0], it.rev)
	it.lease = v.Lease
	kv := etcdfile.KeyValue{Key: user}
	if !v.Tombstone {
		kv.Value, kv.Create, kv.Mod, kv.Version, kv.Lease = v.Value, v.Create, v.Revision, v.Version, v.Lease
	}
	it.value = etcdfile.AppendKeyValue(it.value[:0], &kv)
	return true
}

// appendItem appends an item to the rows of a chunk.
func appendItem(dst []byte, it *item) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(it.row)))
	dst = binary.AppendUvarint(dst, uint64(len(it.value)))
	return append(append(dst, it.row...), it.value...)
}

var errBadRows = errors.New("backup: rows of another member are malformed")

// takeItem takes an item off the front of a chunk's rows. It aliases them.
func takeItem(b []byte, it *item) (rest []byte, err error) {
	k, n := binary.Uvarint(b)
	if n <= 0 {
		return nil, errBadRows
	}
	b = b[n:]
	v, n := binary.Uvarint(b)
	if n <= 0 || k > uint64(len(b)-n) || v > uint64(len(b)-n)-k {
		return nil, errBadRows
	}
	b = b[n:]
	it.row, it.value = b[:k:k], b[k:k+v:k+v]
	if it.rev, err = etcdfile.ParseRevision(it.row); err != nil {
		return nil, errors.Join(errBadRows, err)
	}
	kv, err := etcdfile.ParseKeyValue(it.value)
	if err != nil || len(kv.Key) == 0 || it.rev.Main < 1 {
		return nil, errors.Join(errBadRows, err)
	}
	it.key, it.lease = keyspace.AppendUser(it.key[:0], kv.Key), kv.Lease
	return b[k+v:], nil
}

// filter lets pass, of rows in the order of keys and of one key newest first,
// what a store compacted at a revision holds: what is newer, and of each key what
// was valid at it. It also knows how to go on after rows were lost: from where it
// was, whatever is repeated.
type filter struct {
	compact, upto int64
	// key and rev are of the last row; base: the key's version at compact was seen.
	key  []byte
	rev  int64
	base bool
	// newest: the row that was taken is the newest one of its key.
	newest bool
}

// take tells whether the row belongs into the file.
func (f *filter) take(it *item) (bool, error) {
	if it.rev.Main > f.upto {
		return false, fmt.Errorf("backup: row of revision %d in a save of revision %d", it.rev.Main, f.upto)
	}
	f.newest = false
	switch c := bytes.Compare(it.key, f.key); {
	case c < 0:
		return false, fmt.Errorf("backup: key %s after %s", keyspace.Format(it.key), keyspace.Format(f.key))
	case c > 0:
		f.key, f.base, f.newest = append(f.key[:0], it.key...), false, true
	case it.rev.Main >= f.rev:
		// It was taken before the source was lost.
		return false, nil
	}
	f.rev = it.rev.Main
	switch {
	case it.rev.Main > f.compact:
		return true, nil
	case f.base:
		return false, nil
	}
	f.base = true
	return !it.rev.Tombstone || it.rev.Main == f.compact, nil
}
