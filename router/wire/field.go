package wire

import "math/bits"

// Wire types of protobuf that these messages use.
const (
	wireVarint = 0
	wireBytes  = 2
)

func sizeVarint(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func appendVarint(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// tagSize is the size of a field's tag; fields above 15 take two bytes.
func tagSize(field int) int {
	if field < 16 {
		return 1
	}
	return 2
}

func appendTag(b []byte, field, wireType int) []byte {
	return appendVarint(b, uint64(field)<<3|uint64(wireType))
}

func sizeUint(field int, v uint64) int {
	if v == 0 {
		return 0
	}
	return tagSize(field) + sizeVarint(v)
}

func sizeInt(field int, v int64) int { return sizeUint(field, uint64(v)) }

func sizeBool(field int, v bool) int {
	if !v {
		return 0
	}
	return tagSize(field) + 1
}

func sizeBytes(field int, v []byte) int {
	if len(v) == 0 {
		return 0
	}
	return sizeMessage(field, len(v))
}

// sizeMessage is the size of a length-prefixed field with n bytes of content.
func sizeMessage(field, n int) int { return tagSize(field) + sizeVarint(uint64(n)) + n }

func appendUint(b []byte, field int, v uint64) []byte {
	if v == 0 {
		return b
	}
	return appendVarint(appendTag(b, field, wireVarint), v)
}

func appendInt(b []byte, field int, v int64) []byte { return appendUint(b, field, uint64(v)) }

func appendBool(b []byte, field int, v bool) []byte {
	if !v {
		return b
	}
	return append(appendTag(b, field, wireVarint), 1)
}

func appendBytes(b []byte, field int, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return append(appendLength(b, field, len(v)), v...)
}

// appendLength begins a length-prefixed field with n bytes of content.
func appendLength(b []byte, field, n int) []byte {
	return appendVarint(appendTag(b, field, wireBytes), uint64(n))
}

// fields reads the fields of one message. After any of its methods has met
// something out of the ordinary, odd is set and next returns false.
type fields struct {
	b   []byte
	odd bool
}

// next returns the next field's number and wire type; ok is false at the end.
func (f *fields) next() (field, wireType int, ok bool) {
	if f.odd || len(f.b) == 0 {
		return 0, 0, false
	}
	if c := f.b[0]; c < 0x80 {
		f.b = f.b[1:]
		return int(c >> 3), int(c & 7), true
	}
	v := f.varint()
	if f.odd || v>>3 > 1<<20 {
		f.odd = true
		return 0, 0, false
	}
	return int(v >> 3), int(v & 7), true
}

func (f *fields) varint() uint64 {
	b := f.b
	if len(b) > 0 && b[0] < 0x80 {
		f.b = b[1:]
		return uint64(b[0])
	}
	var v uint64
	for i := 0; i < len(b) && i < 10; i++ {
		c := b[i]
		if i == 9 && c > 1 {
			break
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			f.b = b[i+1:]
			return v
		}
	}
	f.odd = true
	return 0
}

// bytes returns the content of a length-prefixed field; it aliases the input.
func (f *fields) bytes() []byte {
	n := f.varint()
	if f.odd || n > uint64(len(f.b)) {
		f.odd = true
		return nil
	}
	v := f.b[:n:n]
	f.b = f.b[n:]
	return v
}
