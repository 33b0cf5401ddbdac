package mvcc

import (
	"encoding/binary"
	"math"
)

// Effect is what one transaction did to one key: the complete new version of
// it, or its deletion. Apply needs to read nothing to write it.
type Effect struct {
	// Key is the encoded key (package keyspace).
	Key []byte
	// Value is the new value; unused by a tombstone.
	Value []byte
	// Create is the revision of the key's creation; 0 stands for the revision
	// of the effect itself. Unused by a tombstone.
	Create int64
	// Version counts the key's puts since its creation, 1 for the first. The
	// live-key counters rely on it: 1 says that the key was not live before.
	// Unused by a tombstone, which in turn says that the key was live.
	Version int64
	// Lease is the lease that the key is attached to, 0 for none.
	Lease int64
	// Detach is the lease that the key's version before was attached to and the
	// new one is not, 0 for none. It keeps the lease index exact.
	Detach int64
	// Tombstone marks a deletion.
	Tombstone bool
}

// Flags in the first byte of a version's value. The other bits are zero.
const (
	flagTombstone = 1 << iota
	flagCreatedHere
	flagLease
	flagSub

	flagsKnown = flagTombstone | flagCreatedHere | flagLease | flagSub
)

// version is a decoded version of a key.
type version struct {
	create, version, lease, sub int64
	tombstone                   bool
	value                       []byte // aliases the row
}

// appendVersionHeader appends all of a version's value but the client's value.
func appendVersionHeader(dst []byte, rev, sub int64, e *Effect) []byte {
	if e.Tombstone {
		if sub == 0 {
			return append(dst, flagTombstone)
		}
		return binary.AppendUvarint(append(dst, flagTombstone|flagSub), uint64(sub))
	}
	var flags byte
	if e.Create == 0 || e.Create == rev {
		flags |= flagCreatedHere
	}
	if e.Lease != 0 {
		flags |= flagLease
	}
	if sub != 0 {
		flags |= flagSub
	}
	dst = append(dst, flags)
	if flags&flagCreatedHere == 0 {
		dst = binary.AppendUvarint(dst, uint64(rev-e.Create))
	}
	dst = binary.AppendUvarint(dst, uint64(e.Version))
	if flags&flagLease != 0 {
		dst = binary.AppendUvarint(dst, uint64(e.Lease))
	}
	if flags&flagSub != 0 {
		dst = binary.AppendUvarint(dst, uint64(sub))
	}
	return dst
}

// isTombstone tells whether the value of a version's row is a deletion.
func isTombstone(row []byte) bool { return len(row) > 0 && row[0]&flagTombstone != 0 }

// decodeVersion parses the value of a version's row that was written at rev.
func decodeVersion(row []byte, rev int64) (v version, ok bool) {
	if len(row) == 0 || row[0]&^flagsKnown != 0 {
		return v, false
	}
	flags, rest, ok := row[0], row[1:], true
	if flags&flagTombstone != 0 {
		v.tombstone = true
		if flags&^(flagTombstone|flagSub) != 0 {
			return v, false
		}
		if flags&flagSub != 0 {
			v.sub, rest, ok = uvarint(rest, ok)
		}
		return v, ok && len(rest) == 0
	}
	v.create = rev
	if flags&flagCreatedHere == 0 {
		var age int64
		age, rest, ok = uvarint(rest, ok)
		if age >= rev {
			return v, false
		}
		v.create = rev - age
	}
	v.version, rest, ok = uvarint(rest, ok)
	if flags&flagLease != 0 {
		u, n := binary.Uvarint(rest)
		if n <= 0 {
			return v, false
		}
		v.lease, rest = int64(u), rest[n:]
	}
	if flags&flagSub != 0 {
		v.sub, rest, ok = uvarint(rest, ok)
	}
	v.value = rest
	return v, ok
}

// uvarint takes a non-negative number off the front of b, unless an earlier one
// was already bad.
func uvarint(b []byte, ok bool) (int64, []byte, bool) {
	if !ok {
		return 0, nil, false
	}
	u, n := binary.Uvarint(b)
	if n <= 0 || u > math.MaxInt64 {
		return 0, nil, false
	}
	return int64(u), b[n:], true
}
