package mvcc

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/sstable/colblk"
)

// Columns of a data block's keys.
const (
	// columnKey holds prefixes without their terminator.
	columnKey = iota
	// columnRevision holds revisions, 0 for a bare prefix. Row 0 of a prefix
	// may be bare; revisions of a prefix descend.
	columnRevision
	columnCount
)

// keySchema cuts row keys into columns: a compressed column of prefixes and one
// of integers. Against rows of bytes, a lookup compares a key once per prefix
// and then finds its revision among integers. Its name is on disk.
var keySchema = colblk.KeySchema{
	Name: "kvd.mvcc.v1",
	ColumnTypes: []colblk.DataType{
		columnKey:      colblk.DataTypePrefixBytes,
		columnRevision: colblk.DataTypeUint,
	},
	NewKeyWriter: func() colblk.KeyWriter {
		w := &keyWriter{}
		w.keys.Init(16)
		w.revisions.Init()
		return w
	},
	InitKeySeekerMetadata: func(m *colblk.KeySeekerMetadata, d *colblk.DataBlockDecoder) {
		bd := d.BlockDecoder()
		s := (*keySeeker)(unsafe.Pointer(m))
		s.keys = bd.PrefixBytes(columnKey)
		s.revisions = bd.Uints(columnRevision)
		s.changed = d.PrefixChanged()
	},
	KeySeeker: func(m *colblk.KeySeekerMetadata) colblk.KeySeeker {
		return (*keySeeker)(unsafe.Pointer(m))
	},
}

// keyWriter splits row keys into the columns of a block that is being built.
type keyWriter struct {
	keys       colblk.PrefixBytesBuilder
	revisions  colblk.UintBuilder
	lastKeyLen int
	lastSuffix []byte
}

var _ colblk.KeyWriter = (*keyWriter)(nil)

func (w *keyWriter) Reset() {
	w.keys.Reset()
	w.revisions.Reset()
	w.lastKeyLen = 0
	w.lastSuffix = w.lastSuffix[:0]
}

// ComparePrev compares row with the last one written.
func (w *keyWriter) ComparePrev(row []byte) colblk.KeyComparison {
	n := Split(row)
	c := colblk.KeyComparison{PrefixLen: int32(n), UserKeyComparison: 1}
	if w.keys.Rows() == 0 {
		return c
	}
	last := w.keys.UnsafeGet(w.keys.Rows() - 1)
	common := commonPrefix(last, row[:n-1])
	switch {
	case common < len(last):
		c.UserKeyComparison = int32(cmp.Compare(row[common], last[common]))
	case row[common] == terminator:
		// The last prefix goes on with its terminator, which is not stored.
		common++
		if common == n {
			c.UserKeyComparison = int32(compareSuffixes(row[n:], w.lastSuffix))
		}
	}
	c.CommonPrefixLen = int32(common)
	return c
}

// WriteKey adds a row. The rows were built by this package, so they have a
// terminator and at most one suffix.
func (w *keyWriter) WriteKey(i int, row []byte, prefixLen, shared int32) {
	key := row[:prefixLen-1]
	// shared may count the last prefix's terminator, which is not stored.
	w.keys.Put(key, min(int(shared), w.lastKeyLen))
	w.lastKeyLen = len(key)
	w.lastSuffix = append(w.lastSuffix[:0], row[prefixLen:]...)
	var rev uint64
	if len(w.lastSuffix) == suffixLen {
		rev = binary.BigEndian.Uint64(w.lastSuffix)
	}
	w.revisions.Set(i, rev)
}

func (w *keyWriter) MaterializeKey(dst []byte, i int) []byte {
	dst = append(append(dst, w.keys.UnsafeGet(i)...), terminator)
	return appendSuffix(dst, w.revisions.Get(i))
}

func (w *keyWriter) NumColumns() int                  { return columnCount }
func (w *keyWriter) DataType(col int) colblk.DataType { return keySchema.ColumnTypes[col] }
func (w *keyWriter) FinishHeader([]byte)              {}

func (w *keyWriter) Size(rows int, offset uint32) uint32 {
	return w.revisions.Size(rows, w.keys.Size(rows, offset))
}

func (w *keyWriter) Finish(col, rows int, offset uint32, buf []byte) uint32 {
	if col == columnKey {
		return w.keys.Finish(0, rows, offset, buf)
	}
	return w.revisions.Finish(0, rows, offset, buf)
}

func (w *keyWriter) WriteDebug(dst io.Writer, rows int) {
	fmt.Fprint(dst, "keys: ")
	w.keys.WriteDebug(dst, rows)
	fmt.Fprint(dst, "\nrevisions: ")
	w.revisions.WriteDebug(dst, rows)
	fmt.Fprintln(dst)
}

// keySeeker finds rows in a block. It lies in memory that the garbage collector
// does not scan and so may point only into the block itself.
type keySeeker struct {
	keys      colblk.PrefixBytes
	changed   colblk.Bitmap
	revisions colblk.UnsafeUints
}

var _ colblk.KeySeeker = (*keySeeker)(nil)

// The seeker must fit into the room that pebble has for it.
const _ uint = colblk.KeySeekerMetadataSize - uint(unsafe.Sizeof(keySeeker{}))

// sought splits the row sought into its stored form.
func sought(row []byte) (key, suffix []byte) {
	n := Split(row)
	key, suffix = row[:n], row[n:]
	if n > 0 && key[n-1] == terminator {
		key = key[:n-1]
	}
	return key, suffix
}

// IsLowerBound tells whether row is at or below the block's first row.
func (s *keySeeker) IsLowerBound(row, synthetic []byte) bool {
	key, suffix := sought(row)
	if c := bytes.Compare(s.keys.UnsafeFirstSlice(), key); c != 0 {
		return c > 0
	}
	if len(suffix) == 0 {
		return true
	}
	if len(synthetic) > 0 {
		return compareSuffixes(synthetic, suffix) >= 0
	}
	first := s.revisions.At(0)
	return first != 0 && first <= binary.BigEndian.Uint64(suffix)
}

// SeekGE returns the first row at or after row.
func (s *keySeeker) SeekGE(row []byte, _ int, _ int8) (int, bool) {
	key, suffix := sought(row)
	i, equal := s.keys.Search(key)
	if !equal || len(suffix) == 0 {
		return i, equal
	}
	rev := binary.BigEndian.Uint64(suffix)
	// Most often the newest version is wanted, and it stands first.
	if first := s.revisions.At(i); first != 0 && first <= rev {
		return i, true
	}
	// The first row is bare or too new. Revisions descend after it.
	lo, hi := i+1, s.changed.SeekSetBitGE(i+1)
	for lo < hi {
		if m := int(uint(lo+hi) >> 1); s.revisions.At(m) <= rev {
			hi = m
		} else {
			lo = m + 1
		}
	}
	return lo, true
}

// MaterializeUserKey builds the row key of row i in the buffer of it.
func (s *keySeeker) MaterializeUserKey(it *colblk.PrefixBytesIter, prev, i int) []byte {
	row := s.materializePrefix(it, prev, i)
	return appendSuffix(row, s.revisions.At(i))
}

// MaterializeUserKeyWithSyntheticSuffix builds the prefix of row i with another
// suffix.
func (s *keySeeker) MaterializeUserKeyWithSyntheticSuffix(it *colblk.PrefixBytesIter, suffix []byte, prev, i int) []byte {
	return append(s.materializePrefix(it, prev, i), suffix...)
}

// materializePrefix leaves room for a suffix behind the prefix: the block's
// header tells pebble how long its longest key is, so appending never moves it.
func (s *keySeeker) materializePrefix(it *colblk.PrefixBytesIter, prev, i int) []byte {
	if prev >= 0 && prev+1 == i {
		s.keys.SetNext(it)
	} else {
		s.keys.SetAt(it, i)
	}
	return append(it.Buf, terminator)
}

func appendSuffix(dst []byte, rev uint64) []byte {
	if rev == 0 {
		return dst
	}
	return append(binary.BigEndian.AppendUint64(dst, rev), suffixLen)
}

// commonPrefix returns the number of leading bytes that a and b share.
func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for ; i < n && a[i] == b[i]; i++ {
	}
	return i
}
