package mvcc

import (
	"bytes"
	"context"
	"sort"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

const (
	// middleFew is the number of buckets below which the boundary is looked for among
	// the keys themselves, of which no more than middleScan are read.
	middleFew  = 16
	middleScan = 4 * bucketMax
)

// MiddleKey returns a key that cuts span into parts of about the same size on disk,
// strictly inside span; nil if there is none, or nothing is known of it yet. The
// key exists or existed. It is for choosing where to split.
func (s *Store) MiddleKey(ctx context.Context, span keyspace.Span) ([]byte, error) {
	span = span.Intersect(keyspace.All())
	whole, err := s.SpanBytes(span)
	if err != nil || whole == 0 {
		return nil, err
	}
	keys, err := s.boundaries(ctx, span)
	if err != nil {
		return nil, err
	}
	i := sort.Search(len(keys), func(i int) bool {
		if err != nil {
			return true
		}
		var left int64
		left, err = s.SpanBytes(keyspace.Span{Start: span.Start, End: keys[i]})
		return left >= whole/2
	})
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	return keys[min(i, len(keys)-1)], nil
}

// boundaries returns keys inside a span among which its middle is looked for, in
// order: where counters have cut it, or where that is too coarse, its first keys.
func (s *Store) boundaries(ctx context.Context, span keyspace.Span) ([][]byte, error) {
	sn := s.NewSnapshot()
	defer sn.Close()
	if sn.err != nil {
		return nil, sn.err
	}
	keys := sn.g.counters.starts(span)
	if len(keys) >= middleFew {
		return keys, nil
	}
	keys = keys[:0]
	err := sn.versions(ctx, span, 0, false, func(key []byte, _ int64, _ []byte) (bool, error) {
		if !bytes.Equal(key, span.Start) {
			keys = append(keys, bytes.Clone(key))
		}
		return len(keys) < middleScan, nil
	})
	return keys, err
}

// starts returns where buckets begin strictly inside a span.
func (c *counters) starts(span keyspace.Span) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	var keys [][]byte
	for _, b := range c.mu.buckets {
		if bytes.Compare(b.start, span.Start) > 0 && bytes.Compare(b.start, span.End) < 0 {
			keys = append(keys, b.start)
		}
	}
	return keys
}
