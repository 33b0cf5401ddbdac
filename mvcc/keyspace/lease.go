package keyspace

import (
	"bytes"
	"encoding/binary"
)

// Names of the internal space by what they begin with.
var leaseName = []byte("lease/")

// leaseLatchPrefix begins what latches of leases are taken on. It sorts after
// the whole key space, and no key begins with it.
const leaseLatchPrefix = 0x04

// Lease returns the encoded key of a lease's record. The caller owns the bytes.
func Lease(id int64) []byte {
	return binary.BigEndian.AppendUint64(AppendInternal(nil, leaseName), uint64(id))
}

// LeaseID returns the lease whose record encoded is the key of; ok is false for
// any other key.
func LeaseID(encoded []byte) (id int64, ok bool) {
	name, ok := InternalName(encoded)
	if !ok || !bytes.HasPrefix(name, leaseName) || len(name) != len(leaseName)+8 {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(name[len(leaseName):])), true
}

// Leases returns the span that holds the records of all leases. The caller owns
// the bytes.
func Leases() Span {
	start := AppendInternal(nil, leaseName)
	end := bytes.Clone(start)
	end[len(end)-1]++
	return Span{Start: start, End: end}
}

// LeaseLatch returns what a shard latches for a lease: shared by who attaches
// keys to it, exclusive by who revokes it. It is no key and lies in no shard.
func LeaseLatch(id int64) Span {
	return Key(binary.BigEndian.AppendUint64([]byte{leaseLatchPrefix}, uint64(id)))
}
