// Package keyspace defines the encoded key space that every layer below the
// client API speaks: shard descriptors, latches, watch spans and the keys of
// the multi-version store.
//
// A client's key is stored behind one prefix byte, and kvd's own records (such
// as client leases) behind the next one:
//
//	0x01 key   a client's key; key is any non-empty byte string
//	0x02 name  a key of the internal space
//
// Both spaces form one ordered whole, [Min, Max), that is cut into shards. The
// internal space sorts after all user keys, which transactions rely on for
// their latch order. Spans are half open and their End is never "infinity by
// being nil": the end of the whole is Max.
//
// The package is a leaf: pure functions over bytes, no state, and no input of
// any kind makes it panic.
package keyspace
