package mvcc

import "go.etcd.io/etcd/api/v3/mvccpb"

// Bounds of what a slab allocates at a time.
const (
	minSlabKeys  = 4
	maxSlabKeys  = 256
	minSlabBytes = 1 << 10
	maxSlabBytes = 64 << 10
)

// kvSlab allocates the KeyValues of an answer in pieces, which grow with the
// answer.
type kvSlab struct {
	kvs    []mvccpb.KeyValue
	bytes  []byte
	expect int
	given  int
}

// add returns a KeyValue with a copy of key and value.
func (s *kvSlab) add(key, value []byte) *mvccpb.KeyValue {
	if len(s.kvs) == 0 {
		n := min(max(minSlabKeys, s.given, s.expect-s.given), maxSlabKeys)
		s.kvs = make([]mvccpb.KeyValue, n)
	}
	kv := &s.kvs[0]
	s.kvs = s.kvs[1:]
	s.given++
	kv.Key, kv.Value = s.copy(key), nil
	if len(value) > 0 {
		kv.Value = s.copy(value)
	}
	return kv
}

func (s *kvSlab) copy(b []byte) []byte {
	n := len(b)
	if n > maxSlabBytes/4 {
		return append(make([]byte, 0, n), b...)
	}
	if len(s.bytes) < n {
		s.bytes = make([]byte, min(max(minSlabBytes, 2*n*max(s.given, 1)), maxSlabBytes))
	}
	c := s.bytes[:n:n]
	s.bytes = s.bytes[n:]
	copy(c, b)
	return c
}
