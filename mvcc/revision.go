package mvcc

import (
	"encoding/binary"
	"math"
)

// appendRevision encodes a revision as a record's value.
func appendRevision(dst []byte, rev int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(rev))
}

func decodeRevision(b []byte) (rev int64, ok bool) {
	if len(b) != revisionLen {
		return 0, false
	}
	u := binary.BigEndian.Uint64(b)
	return int64(u), u <= math.MaxInt64
}
