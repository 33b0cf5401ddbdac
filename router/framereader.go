package router

import (
	"encoding/binary"
	"fmt"
)

// frameReader reads the fields of a frame. After the first that is not there,
// bad is set and every field reads as zero.
type frameReader struct {
	b   []byte
	bad bool
}

func (r *frameReader) err(what string) error {
	if r.bad {
		return fmt.Errorf("%w: %s", errFrame, what)
	}
	return nil
}

// end is err of a frame that must have been read to its end.
func (r *frameReader) end(what string) error {
	r.bad = r.bad || len(r.b) > 0
	return r.err(what)
}

func (r *frameReader) kind(want byte) {
	if r.byte() != want {
		r.bad = true
	}
}

func (r *frameReader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *frameReader) byte() byte {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *frameReader) fixed64() uint64 {
	if v := r.take(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

func (r *frameReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *frameReader) varint() int64 {
	v, n := binary.Varint(r.b)
	if r.bad || n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *frameReader) bytes() []byte { return r.take(r.uvarint()) }

// count reads how many elements follow. Each takes a byte at least, so that a
// number alone reserves no memory.
func (r *frameReader) count(limit int) int {
	n := r.uvarint()
	if n > uint64(limit) || n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

func (r *frameReader) text() string {
	v := r.bytes()
	if len(v) > maxErrorText {
		r.bad = true
		return ""
	}
	return string(v)
}
