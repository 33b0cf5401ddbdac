package keyspace

import "bytes"

// Span is a half-open range [Start, End) of encoded keys. A span whose End is
// not above its Start, such as the zero Span, holds no key.
type Span struct {
	Start, End []byte
}

// All returns the whole key space. The caller owns the bytes.
func All() Span { return Span{Start: Min(), End: Max()} }

// Users returns the part of the key space that holds user keys.
func Users() Span { return Span{Start: Min(), End: UserEnd()} }

// Key returns the span that holds exactly one encoded key. Start aliases
// encoded.
func Key(encoded []byte) Span {
	end := make([]byte, len(encoded)+1)
	copy(end, encoded)
	return Span{Start: encoded, End: end}
}

// UserSpan encodes the range of a client's request with etcd's meaning: an
// empty rangeEnd names the one key, "\x00" reaches to the end of the user
// space, and a rangeEnd that is not above key yields an empty span.
func UserSpan(key, rangeEnd []byte) Span {
	switch {
	case len(rangeEnd) == 0:
		buf := make([]byte, len(key)+2)
		buf[0] = userPrefix
		copy(buf[1:], key)
		n := len(key) + 1
		// One allocation serves both bounds: they differ in the last byte only.
		return Span{Start: buf[:n:n], End: buf}
	case len(rangeEnd) == 1 && rangeEnd[0] == 0:
		return Span{Start: User(key), End: UserEnd()}
	case bytes.Compare(key, rangeEnd) >= 0:
		start := User(key)
		return Span{Start: start, End: start}
	}
	return Span{Start: User(key), End: User(rangeEnd)}
}

// Empty reports whether no key lies in the span.
func (s Span) Empty() bool { return bytes.Compare(s.Start, s.End) >= 0 }

// IsKey reports whether the span holds exactly the one key Start.
func (s Span) IsKey() bool {
	n := len(s.Start)
	return len(s.End) == n+1 && s.End[n] == 0 && bytes.Equal(s.Start, s.End[:n])
}

// Contains reports whether key lies in the span.
func (s Span) Contains(key []byte) bool {
	return bytes.Compare(s.Start, key) <= 0 && bytes.Compare(key, s.End) < 0
}

// ContainsSpan reports whether every key of o lies in s. The empty span lies in
// every span.
func (s Span) ContainsSpan(o Span) bool {
	return o.Empty() || (bytes.Compare(s.Start, o.Start) <= 0 && bytes.Compare(o.End, s.End) <= 0)
}

// Overlaps reports whether some key lies in both spans.
func (s Span) Overlaps(o Span) bool {
	return !s.Empty() && !o.Empty() &&
		bytes.Compare(s.Start, o.End) < 0 && bytes.Compare(o.Start, s.End) < 0
}

// Intersect returns the keys that lie in both spans; the zero Span where there
// are none. The result aliases its inputs.
func (s Span) Intersect(o Span) Span {
	if !s.Overlaps(o) {
		return Span{}
	}
	r := s
	if bytes.Compare(o.Start, r.Start) > 0 {
		r.Start = o.Start
	}
	if bytes.Compare(o.End, r.End) < 0 {
		r.End = o.End
	}
	return r
}

// Equal reports whether both spans have the same bounds. All empty spans are
// equal.
func (s Span) Equal(o Span) bool {
	if s.Empty() || o.Empty() {
		return s.Empty() && o.Empty()
	}
	return bytes.Equal(s.Start, o.Start) && bytes.Equal(s.End, o.End)
}

// Clone returns a span that shares no bytes with s.
func (s Span) Clone() Span {
	return Span{Start: bytes.Clone(s.Start), End: bytes.Clone(s.End)}
}

// String renders the span for people.
func (s Span) String() string {
	return "[" + Format(s.Start) + ", " + Format(s.End) + ")"
}
