package mvcc

import (
	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// Sizes tells how large a store is.
type Sizes struct {
	// DiskBytes is what the store's files take on disk, those included that are
	// about to be deleted; LiveBytes is the size of its rows, compressed as far
	// as they are on disk, with the history that was not collected yet.
	DiskBytes, LiveBytes int64
	// Keys is the number of live keys, of the internal space too. As long as
	// KeysExact is false it is a lower bound: after a start the keys are counted
	// in the background.
	Keys      int64
	KeysExact bool
}

// Sizes returns how large the store is; zero for a closed one. It takes some
// microseconds.
func (s *Store) Sizes() Sizes {
	g, err := s.acquire()
	if err != nil {
		return Sizes{}
	}
	defer g.release()
	m := g.db.Metrics()
	z := Sizes{DiskBytes: int64(m.DiskSpaceUsage()), LiveBytes: g.unflushed.Load()}
	for i := range m.Levels {
		z.LiveBytes += m.Levels[i].TablesSize
	}
	z.Keys, z.KeysExact = g.counters.total()
	return z
}

// SpanBytes estimates the bytes that a span takes on disk, which leaves out
// what was written lately. It is for choosing where to split.
func (s *Store) SpanBytes(span keyspace.Span) (int64, error) {
	g, err := s.acquire()
	if err != nil {
		return 0, err
	}
	defer g.release()
	span = span.Intersect(keyspace.All())
	if span.Empty() {
		return 0, nil
	}
	n, err := g.db.EstimateDiskUsage(appendPrefix(nil, span.Start), appendPrefix(nil, span.End))
	return int64(n), diskError("estimate size", err)
}
