package keyspace

import "strconv"

// Prefix bytes of the two spaces.
const (
	userPrefix     = 0x01
	internalPrefix = 0x02
	endPrefix      = 0x03
)

// Min returns the first key of the whole key space. The caller owns the bytes.
func Min() []byte { return []byte{userPrefix} }

// UserEnd returns the first key after all user keys, which is also the first
// key of the internal space. The caller owns the bytes.
func UserEnd() []byte { return []byte{internalPrefix} }

// Max returns the exclusive end of the whole key space. The caller owns the
// bytes.
func Max() []byte { return []byte{endPrefix} }

// User encodes a client's key.
func User(key []byte) []byte {
	return AppendUser(make([]byte, 0, len(key)+1), key)
}

// AppendUser appends the encoding of a client's key to dst.
func AppendUser(dst, key []byte) []byte {
	return append(append(dst, userPrefix), key...)
}

// Internal encodes the name of a record of the internal space.
func Internal(name []byte) []byte {
	return AppendInternal(make([]byte, 0, len(name)+1), name)
}

// AppendInternal appends the encoding of an internal record's name to dst.
func AppendInternal(dst, name []byte) []byte {
	return append(append(dst, internalPrefix), name...)
}

// UserKey returns the client's key that encoded stands for; ok is false where
// encoded is no user key. The result aliases encoded.
func UserKey(encoded []byte) (key []byte, ok bool) {
	if len(encoded) == 0 || encoded[0] != userPrefix {
		return nil, false
	}
	return encoded[1:len(encoded):len(encoded)], true
}

// InternalName returns the name of the internal record that encoded stands
// for; ok is false where encoded lies outside the internal space. The result
// aliases encoded.
func InternalName(encoded []byte) (name []byte, ok bool) {
	if len(encoded) == 0 || encoded[0] != internalPrefix {
		return nil, false
	}
	return encoded[1:len(encoded):len(encoded)], true
}

// Valid reports whether encoded lies inside [Min, Max).
func Valid(encoded []byte) bool {
	return len(encoded) > 0 && (encoded[0] == userPrefix || encoded[0] == internalPrefix)
}

// Format renders an encoded key for people: a user key quoted, an internal one
// marked, the ends of the key space by name.
func Format(encoded []byte) string {
	switch {
	case len(encoded) == 1 && encoded[0] == userPrefix:
		return "/min"
	case len(encoded) == 1 && encoded[0] == internalPrefix:
		return "/user-end"
	case len(encoded) == 1 && encoded[0] == endPrefix:
		return "/max"
	case len(encoded) > 0 && encoded[0] == userPrefix:
		return strconv.Quote(string(encoded[1:]))
	case len(encoded) > 0 && encoded[0] == internalPrefix:
		return "internal:" + strconv.Quote(string(encoded[1:]))
	}
	return "invalid:" + strconv.Quote(string(encoded))
}
