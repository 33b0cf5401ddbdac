package shard

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

const (
	// sampleEvery is one in how many writes is sampled: rarely enough to cost
	// nothing, often enough for a thousand writes per second to be seen.
	sampleEvery = 64
	// sampleKeys is how many samples are kept, the newest ones.
	sampleKeys = 256
	// balancedSamples is how few samples say nothing, and balancedShare what part of
	// them each side of a boundary must have.
	balancedSamples = 64
	balancedShare   = 0.25
)

// samples are the keys of some of the writes that a replica has served as owner.
type samples struct {
	mu struct {
		sync.Mutex
		total int64
		keys  [][]byte
		next  int
	}
}

// wrote notes a write, now and then.
func (s *samples) wrote(key []byte) {
	if rand.Uint32()%sampleEvery != 0 {
		return
	}
	s.take(key)
}

func (s *samples) take(key []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.total++
	if len(s.mu.keys) < sampleKeys {
		s.mu.keys = append(s.mu.keys, bytes.Clone(key))
		return
	}
	s.mu.keys[s.mu.next] = append(s.mu.keys[s.mu.next][:0], key...)
	s.mu.next = (s.mu.next + 1) % sampleKeys
}

// writes estimates the number of writes so far.
func (s *samples) writes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.total * sampleEvery
}

// balanced returns a key of span that has about as many writes below it as from it
// on; nil if there are too few samples, or if one key has so many of them that no
// boundary would spread the load.
func (s *samples) balanced(span keyspace.Span) []byte {
	s.mu.Lock()
	var keys [][]byte
	for _, k := range s.mu.keys {
		if span.Contains(k) {
			keys = append(keys, bytes.Clone(k))
		}
	}
	s.mu.Unlock()
	if len(keys) < balancedSamples {
		return nil
	}
	slices.SortFunc(keys, bytes.Compare)
	var best []byte
	distance := len(keys)
	for i, k := range keys {
		// i keys lie below k if it is the first of its like.
		if bytes.Equal(k, keys[max(i-1, 0)]) || bytes.Equal(k, span.Start) {
			continue
		}
		few := min(i, len(keys)-i)
		if d := abs(len(keys) - 2*i); float64(few) >= balancedShare*float64(len(keys)) && d < distance {
			best, distance = k, d
		}
	}
	return best
}

func abs(n int) int { return max(n, -n) }

// Load is what the owner of a shard tells of how much it has to do and holds.
type Load struct {
	// Bytes is the size of its span on disk; Writes an estimate of the writes that
	// this replica has served since it started.
	Bytes, Writes int64
	// Balanced halves the writes of late, Middle the size; nil if no key does.
	Balanced, Middle []byte
}

// Load reports how much the shard holds and has to do. The middle is looked for
// only where there are more than splitBytes. It is of use at the owner.
func (r *Replica) Load(ctx context.Context, splitBytes int64) (Load, error) {
	store, d := r.Store(), r.Descriptor()
	if store == nil || d == nil {
		return Load{}, ErrClosed
	}
	span := keyspace.Span{Start: d.Start, End: d.End}
	l := Load{Writes: r.samples.writes(), Balanced: r.samples.balanced(span.Intersect(keyspace.Users()))}
	var err error
	if l.Bytes, err = store.SpanBytes(span); err != nil || l.Bytes <= splitBytes {
		return l, err
	}
	l.Middle, err = store.MiddleKey(ctx, span.Intersect(keyspace.Users()))
	return l, err
}
