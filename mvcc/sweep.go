package mvcc

import (
	"encoding/binary"
	"math"
	"sync/atomic"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// sweep is a span that was dropped and whose entries are still in the revision
// index.
type sweep struct {
	span keyspace.Span
	// upto is the store's last revision when the span was dropped. What comes
	// into the span later is not concerned.
	upto int64
	// drop is the number of the DropSpan.
	drop uint64
}

// sweepList is a list of sweeps that is replaced, never changed.
type sweepList struct{ p atomic.Pointer[[]sweep] }

// list returns the sweeps; appending to it copies.
func (l *sweepList) list() []sweep {
	if p := l.p.Load(); p != nil {
		return (*p)[:len(*p):len(*p)]
	}
	return nil
}

func (l *sweepList) set(s []sweep) {
	if len(s) == 0 {
		l.p.Store(nil)
		return
	}
	l.p.Store(&s)
}

const sweepFormat = 1

// appendSweeps encodes a list of sweeps.
func appendSweeps(dst []byte, list []sweep) []byte {
	dst = append(dst, sweepFormat)
	for _, w := range list {
		dst = binary.AppendUvarint(dst, uint64(w.upto))
		dst = binary.AppendUvarint(dst, w.drop)
		for _, key := range [][]byte{w.span.Start, w.span.End} {
			dst = binary.AppendUvarint(dst, uint64(len(key)))
			dst = append(dst, key...)
		}
	}
	return dst
}

// decodeSweeps parses a list of sweeps; none where b is empty.
func decodeSweeps(b []byte) (list []sweep, ok bool) {
	if len(b) == 0 {
		return nil, true
	}
	if b[0] != sweepFormat {
		return nil, false
	}
	b, ok = b[1:], true
	for len(b) > 0 {
		var w sweep
		w.upto, b, ok = uvarint(b, ok)
		var drop int64
		drop, b, ok = uvarint(b, ok)
		w.drop = uint64(drop)
		for _, key := range []*[]byte{&w.span.Start, &w.span.End} {
			var n int64
			n, b, ok = uvarint(b, ok)
			if !ok || n > math.MaxInt32 || int(n) > len(b) {
				return nil, false
			}
			*key = append([]byte(nil), b[:n]...)
			b = b[n:]
		}
		if !keyspace.All().ContainsSpan(w.span) || w.span.Empty() {
			return nil, false
		}
		list = append(list, w)
	}
	return list, ok
}

func (l *sweepList) load(b []byte) error {
	list, ok := decodeSweeps(b)
	if !ok {
		return corruptf("list of sweeps %x", b)
	}
	l.set(list)
	return nil
}
