package mvcc

import (
	"encoding/binary"
	"math"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// The rows of a store, by the first byte of their key. What follows the first
// byte may hold any bytes: a row's prefix is ended by one zero byte, and the
// last byte of the whole tells whether a revision follows that zero, so nothing
// needs to be escaped (see Split).
//
//	0x00 name 0x00                      a local record
//	0x01 key  0x00 revision 0x09        a version of a user key
//	0x02 name 0x00 revision 0x09        a version of an internal key
//	0x04 revision sub 0x00              a row of the revision index
//	0x05 name 0x00                      the store's own records
//	0x06 lease key 0x00                 a row of the lease index
const (
	localPrefix = 0x00
	indexPrefix = 0x04
	storePrefix = 0x05
	leasePrefix = 0x06
	rowsEnd     = 0x07

	terminator  = 0x00
	revisionLen = 8
	suffixLen   = revisionLen + 1

	// subInline is the first sub-revision that does not fit into one byte of
	// an index key.
	subInline = 0xf8
)

var (
	metaKey      = []byte{storePrefix, 'm', terminator}
	collectedKey = []byte{storePrefix, 'c', terminator}
	sweepKey     = []byte{storePrefix, 's', terminator}
)

// appendVersionKey appends the row key of a version.
func appendVersionKey(dst, key []byte, rev int64) []byte {
	dst = append(dst, key...)
	dst = append(dst, terminator)
	dst = binary.BigEndian.AppendUint64(dst, uint64(rev))
	return append(dst, suffixLen)
}

// appendPrefix appends the bare prefix of a key: it sorts before all versions
// of key and after all versions of smaller keys, so it serves as a bound.
func appendPrefix(dst, key []byte) []byte {
	return append(append(dst, key...), terminator)
}

// decodeVersionKey splits the row key of a version; key aliases row.
func decodeVersionKey(row []byte) (key []byte, rev int64, ok bool) {
	n := Split(row)
	if len(row)-n != suffixLen || !keyspace.Valid(row[:n-1]) {
		return nil, 0, false
	}
	u := binary.BigEndian.Uint64(row[n:])
	if u == 0 || u > math.MaxInt64 {
		return nil, 0, false
	}
	return row[: n-1 : n-1], int64(u), true
}

// appendLocalKey appends the row key of a local record.
func appendLocalKey(dst, name []byte) []byte {
	dst = append(dst, localPrefix)
	dst = append(dst, name...)
	return append(dst, terminator)
}

// decodeLocalKey returns the name of the local record that row stands for; it
// aliases row.
func decodeLocalKey(row []byte) (name []byte, ok bool) {
	n := len(row)
	if n < 2 || row[0] != localPrefix || row[n-1] != terminator {
		return nil, false
	}
	return row[1 : n-1 : n-1], true
}

// appendIndexKey appends the row key of a revision index entry.
func appendIndexKey(dst []byte, rev, sub int64) []byte {
	dst = appendIndexStart(dst, rev)
	dst = dst[:len(dst)-1]
	if sub < subInline {
		dst = append(dst, byte(sub))
	} else {
		dst = append(dst, subInline)
		dst = binary.BigEndian.AppendUint64(dst, uint64(sub))
	}
	return append(dst, terminator)
}

// appendIndexStart appends the bound that sorts before all index entries of rev
// and after those of smaller revisions.
func appendIndexStart(dst []byte, rev int64) []byte {
	dst = append(dst, indexPrefix)
	dst = binary.BigEndian.AppendUint64(dst, uint64(rev))
	return append(dst, terminator)
}

// decodeIndexKey splits the row key of a revision index entry.
func decodeIndexKey(row []byte) (rev, sub int64, ok bool) {
	n := len(row)
	if n < 1+revisionLen+1+1 || row[0] != indexPrefix || row[n-1] != terminator {
		return 0, 0, false
	}
	r := binary.BigEndian.Uint64(row[1:])
	s := uint64(row[1+revisionLen])
	switch tail := row[1+revisionLen+1 : n-1]; {
	case s < subInline && len(tail) == 0:
	case s == subInline && len(tail) == 8:
		if s = binary.BigEndian.Uint64(tail); s < subInline {
			return 0, 0, false
		}
	default:
		return 0, 0, false
	}
	if r == 0 || r > math.MaxInt64 || s > math.MaxInt64 {
		return 0, 0, false
	}
	return int64(r), int64(s), true
}

// indexValue flags.
const indexTombstone = 1

// decodeIndexValue splits the value of a revision index entry; key aliases v.
func decodeIndexValue(v []byte) (key []byte, tombstone, ok bool) {
	if len(v) < 2 || v[0]&^indexTombstone != 0 || !keyspace.Valid(v[1:]) {
		return nil, false, false
	}
	return v[1:len(v):len(v)], v[0]&indexTombstone != 0, true
}
