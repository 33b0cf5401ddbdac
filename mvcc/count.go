package mvcc

import (
	"bytes"
	"context"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// smallPiece is the number of keys that are rather counted again than
// remembered in a bucket of their own.
const smallPiece = 64

// Count returns the number of live keys of span at rev, 0 being the newest.
// Where the newest revision, or one a little older, is asked for, only what the
// live-key counters do not know is read: the edges of the span, and after a
// start once what had not been counted yet.
func (sn *Snapshot) Count(ctx context.Context, span keyspace.Span, rev int64) (int64, error) {
	if err := sn.readable(rev); err != nil {
		return 0, err
	}
	span = span.Intersect(keyspace.All())
	switch {
	case span.Empty():
		return 0, nil
	case span.IsKey():
		return sn.countKey(span.Start, rev)
	}
	at := sn.meta.last
	if rev > 0 && rev < at {
		at = rev
	}
	n, rest, ok := sn.g.counters.tally(span, at, sn.meta.drops)
	if !ok {
		return sn.countRows(ctx, span, rev)
	}
	for _, p := range rest {
		k, err := sn.countPiece(ctx, p, at)
		if err != nil {
			return 0, err
		}
		n += k
	}
	if invariants {
		scanned, err := sn.countRows(ctx, span, rev)
		assert(err != nil || scanned == n, "counters disagree with the data")
	}
	return n, nil
}

func (sn *Snapshot) countKey(key []byte, rev int64) (int64, error) {
	row, _, err := sn.seek(key, rev)
	if row == nil || err != nil || isTombstone(row) {
		return 0, err
	}
	return 1, nil
}

// countRows counts by reading every key.
func (sn *Snapshot) countRows(ctx context.Context, span keyspace.Span, rev int64) (n int64, err error) {
	err = sn.versions(ctx, span, rev, false, func(_ []byte, _ int64, row []byte) (bool, error) {
		if !isTombstone(row) {
			n++
		}
		return true, nil
	})
	return n, err
}

// countPiece counts a part of a span, and leaves what it learned with the
// counters, in such a way that the next one who asks for the same span reads
// nothing.
func (sn *Snapshot) countPiece(ctx context.Context, p piece, at int64) (int64, error) {
	if !p.known {
		cuts, _, n, err := sn.readCuts(ctx, p.span, nil, 0, at)
		if err != nil {
			return 0, err
		}
		if n >= smallPiece || p.span.Equal(p.whole) {
			sn.g.counters.install(p, p.span, cuts, at, sn.meta.drops)
		}
		return n, nil
	}
	// The edge of the span lies in a bucket whose number is known.
	if sn.isSmall(ctx, p.span, at) {
		return sn.countRows(ctx, p.span, at)
	}
	if p.n > 4*bucketMax {
		// A bucket that a bulk load made: one reader cuts it, for all.
		if !sn.g.counters.cutting.TryLock() {
			return sn.countRows(ctx, p.span, at)
		}
		defer sn.g.counters.cutting.Unlock()
	}
	cuts, _, _, err := sn.readCuts(ctx, p.whole, [][]byte{p.span.Start, p.span.End}, 0, at)
	if err != nil {
		return 0, err
	}
	sn.g.counters.install(p, p.whole, cuts, at, sn.meta.drops)
	var n int64
	for _, k := range cuts {
		if p.span.Contains(k.start) {
			n += k.n
		}
	}
	return n, nil
}

// isSmall tells whether a span has fewer live keys than are worth a bucket.
func (sn *Snapshot) isSmall(ctx context.Context, span keyspace.Span, at int64) bool {
	n := 0
	err := sn.versions(ctx, span, at, false, func(_ []byte, _ int64, row []byte) (bool, error) {
		if !isTombstone(row) {
			n++
		}
		return n < smallPiece, nil
	})
	return err == nil && n < smallPiece
}

// readCuts counts the live keys of span in cuts of about bucketKeys, the first
// of which begins with the span. The keys in at begin a cut, too. With a limit
// it ends with the first cut after that many keys; the cuts then reach to end.
func (sn *Snapshot) readCuts(ctx context.Context, span keyspace.Span, at [][]byte, limit, rev int64) (cuts []cut, end []byte, n int64, err error) {
	cuts, end = append(cuts, cut{start: span.Start}), span.End
	for len(at) > 0 && bytes.Compare(at[0], span.Start) <= 0 {
		at = at[1:]
	}
	err = sn.versions(ctx, span, rev, false, func(key []byte, _ int64, row []byte) (bool, error) {
		for len(at) > 0 && bytes.Compare(at[0], key) <= 0 {
			cuts = append(cuts, cut{start: at[0]})
			at = at[1:]
		}
		if isTombstone(row) {
			return true, nil
		}
		if cuts[len(cuts)-1].n == bucketKeys {
			key = bytes.Clone(key)
			if limit > 0 && n >= limit {
				end = key
				return false, nil
			}
			cuts = append(cuts, cut{start: key})
		}
		cuts[len(cuts)-1].n++
		n++
		return true, nil
	})
	for _, k := range at {
		if bytes.Compare(k, end) < 0 {
			cuts = append(cuts, cut{start: k})
		}
	}
	return cuts, end, n, err
}

// refineKeys is how many keys one step of refineCounters reads.
const refineKeys = 8 * bucketMax

// refineCounters reads a part of what the counters do not know, or know too
// coarsely, and tells whether there was something to do.
func (s *Store) refineCounters(ctx context.Context) (more bool, err error) {
	sn := s.NewSnapshot()
	defer sn.Close()
	if sn.err != nil {
		return false, sn.err
	}
	p, ok := sn.g.counters.raggedPiece()
	if !ok {
		return false, nil
	}
	cuts, end, _, err := sn.readCuts(ctx, p.span, nil, refineKeys, sn.meta.last)
	if err != nil {
		return false, err
	}
	sn.g.counters.install(p, keyspace.Span{Start: p.span.Start, End: end}, cuts, sn.meta.last, sn.meta.drops)
	return true, nil
}
