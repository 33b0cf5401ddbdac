package etcdfile

import "hash/maphash"

// KeySet is a set of keys by 128 bits of hash, so that it takes some 25 bytes a
// key however long keys are.
type KeySet struct {
	seeds [2]maphash.Seed
	keys  map[[2]uint64]struct{}
}

// NewKeySet returns an empty set.
func NewKeySet() *KeySet {
	return &KeySet{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, keys: make(map[[2]uint64]struct{})}
}

func (s *KeySet) hash(key []byte) [2]uint64 {
	return [2]uint64{maphash.Bytes(s.seeds[0], key), maphash.Bytes(s.seeds[1], key)}
}

// Add adds a key and tells whether it is new.
func (s *KeySet) Add(key []byte) bool {
	before := len(s.keys)
	s.keys[s.hash(key)] = struct{}{}
	return len(s.keys) > before
}

// Remove takes a key out of the set.
func (s *KeySet) Remove(key []byte) { delete(s.keys, s.hash(key)) }
