package mvcc

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/cockroachdb/pebble/v2"
)

// Comparer orders the rows of a store: prefix ascending, then revision
// descending, a bare prefix before all of its versions. Its name is on disk.
//
// The last byte of a row key is either the terminator (a bare prefix) or the
// length of the suffix that follows the terminator. Any other bytes count as a
// prefix as a whole: no input makes a function of the comparer panic, and the
// order is total over all byte strings.
var Comparer = &pebble.Comparer{
	Name:                 "kvd.mvcc.v1",
	Split:                Split,
	Compare:              compareRows,
	Equal:                bytes.Equal,
	ComparePointSuffixes: compareSuffixes,
	CompareRangeSuffixes: compareSuffixes,
	AbbreviatedKey:       abbreviate,
	Separator:            separator,
	Successor:            successor,
	ImmediateSuccessor:   immediateSuccessor,
	FormatKey:            func(row []byte) fmt.Formatter { return rowFormatter(row) },
	ValidateKey:          validateRow,
}

// Split returns the length of the prefix of a row key, its terminator included.
func Split(row []byte) int {
	n := len(row)
	if n > suffixLen && row[n-1] == suffixLen && row[n-1-suffixLen] == terminator {
		return n - suffixLen
	}
	return n
}

func compareRows(a, b []byte) int {
	an, bn := Split(a), Split(b)
	if c := bytes.Compare(a[:an], b[:bn]); c != 0 {
		return c
	}
	return compareSuffixes(a[an:], b[bn:])
}

// compareSuffixes puts the empty suffix first and then larger revisions before
// smaller ones.
func compareSuffixes(a, b []byte) int {
	if len(a) == 0 || len(b) == 0 {
		return cmp.Compare(len(a), len(b))
	}
	return bytes.Compare(b, a)
}

// abbreviate returns the first bytes of the prefix as a number. The first byte
// is the same for nearly all rows of a store, but the seven after it are not.
func abbreviate(row []byte) uint64 {
	p := row[:Split(row)]
	if len(p) >= 8 {
		return binary.BigEndian.Uint64(p)
	}
	var v uint64
	for i := range 8 {
		v <<= 8
		if i < len(p) {
			v |= uint64(p[i])
		}
	}
	return v
}

// keyOf returns a row's prefix without its terminator; ok is false where the
// row has none.
func keyOf(row []byte) (key []byte, ok bool) {
	n := Split(row)
	if n == 0 || row[n-1] != terminator {
		return nil, false
	}
	return row[:n-1], true
}

// separator appends a short row k with a <= k < b, given a < b.
func separator(dst, a, b []byte) []byte {
	aKey, aOK := keyOf(a)
	bKey, bOK := keyOf(b)
	if !aOK || !bOK || len(aKey) == 0 || len(bKey) == 0 {
		return append(dst, a...)
	}
	n := len(dst)
	dst = pebble.DefaultComparer.Separator(dst, aKey, bKey)
	if bytes.Equal(dst[n:], aKey) {
		return append(dst[:n], a...)
	}
	// A larger key: its bare prefix sorts after every version of a's.
	return append(dst, terminator)
}

// successor appends a short row k with a <= k.
func successor(dst, a []byte) []byte {
	key, ok := keyOf(a)
	if !ok || len(key) == 0 {
		if len(a) == 0 {
			return append(dst, terminator)
		}
		return append(dst, a...)
	}
	n := len(dst)
	dst = pebble.DefaultComparer.Successor(dst, key)
	if bytes.Equal(dst[n:], key) {
		return append(dst[:n], a...)
	}
	return append(dst, terminator)
}

// immediateSuccessor appends the smallest prefix above the prefix a.
func immediateSuccessor(dst, a []byte) []byte {
	return append(append(dst, a...), terminator)
}

var errInvalidRow = errors.New("mvcc: not a row key")

// validateRow tells whether a row key is one that this package would build.
func validateRow(row []byte) error {
	// Separators of an empty block may be empty.
	if len(row) == 0 {
		return nil
	}
	if _, ok := keyOf(row); !ok {
		return fmt.Errorf("%w: %x", errInvalidRow, row)
	}
	return nil
}

// rowFormatter renders a row key for logs.
type rowFormatter []byte

// Format implements fmt.Formatter.
func (f rowFormatter) Format(s fmt.State, _ rune) {
	n := Split(f)
	key, ok := keyOf(f)
	if !ok {
		fmt.Fprintf(s, "malformed:%x", []byte(f))
		return
	}
	fmt.Fprint(s, strconv.Quote(string(key)))
	if n < len(f) {
		fmt.Fprintf(s, "@%d", binary.BigEndian.Uint64(f[n:]))
	}
}
