package etcdfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

var (
	// ErrCorrupt tells that a file is not what etcd or kvd writes.
	ErrCorrupt = errors.New("corrupt snapshot file")
	// ErrNotSnapshot tells that a file is no bbolt database.
	ErrNotSnapshot = errors.New("not a snapshot of etcd v3 or kvd")
)

func corruptf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// bbolt's format, version 2. All numbers are in the byte order of the machine
// that wrote the file, which etcd supports as little endian only.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeaderLen    = 16
	branchElementLen = 16
	leafElementLen   = 16
	bucketHeaderLen  = 16
	metaLen          = 64
	metaSumOffset    = 56

	flagBranch = 0x01
	flagLeaf   = 0x02

	flagBucket = 0x01

	minPageSize = 512
	maxPageSize = 1 << 20
	// maxPageBytes bounds one page with its overflow: a row of etcd cannot be
	// larger than a gRPC message, and pages are split at a few rows.
	maxPageBytes = 1 << 30
	// maxDepth is deeper than any tree with at least two children a page.
	maxDepth = 48
)

// pages reads the pages of one bbolt file.
type pages struct {
	r    io.ReaderAt
	size int64
	// pageSize and count are from the meta page that is in force.
	pageSize int64
	count    uint64
	root     uint64
	// seen has one bit for each page that was read since forget: no page has two
	// parents.
	seen []uint64
}

// openPages finds the meta page in force. size is that of the database alone.
func openPages(r io.ReaderAt, size int64) (*pages, error) {
	p := &pages{r: r, size: size}
	m, err := p.findMeta()
	if err != nil {
		return nil, err
	}
	p.pageSize = int64(binary.LittleEndian.Uint32(m[8:]))
	p.root = binary.LittleEndian.Uint64(m[16:])
	p.count = binary.LittleEndian.Uint64(m[40:])
	switch {
	case p.count > uint64(size/p.pageSize):
		return nil, corruptf("truncated: %d pages of %d bytes do not fit into %d bytes", p.count, p.pageSize, size)
	case p.root >= p.count:
		return nil, corruptf("root page %d of %d", p.root, p.count)
	}
	p.seen = make([]uint64, p.count/64+1)
	return p, nil
}

// forget begins another walk.
func (p *pages) forget() { clear(p.seen) }

// findMeta returns the valid meta page with the larger transaction id.
func (p *pages) findMeta() ([]byte, error) {
	var best []byte
	var bestTx uint64
	anyMagic := false
	var lastErr error
	try := func(at int64) bool {
		b := make([]byte, pageHeaderLen+metaLen)
		if at+int64(len(b)) > p.size {
			return false
		}
		if _, err := p.r.ReadAt(b, at); err != nil {
			lastErr = fmt.Errorf("read snapshot file: %w", err)
			return false
		}
		m := b[pageHeaderLen:]
		if binary.LittleEndian.Uint32(m) != boltMagic {
			return false
		}
		anyMagic = true
		size := binary.LittleEndian.Uint32(m[8:])
		sum := fnv.New64a()
		// Writing to a hash cannot fail.
		_, _ = sum.Write(m[:metaSumOffset])
		switch {
		case binary.LittleEndian.Uint32(m[4:]) != boltVersion:
			lastErr = fmt.Errorf("%w: database of version %d", ErrNotSnapshot, binary.LittleEndian.Uint32(m[4:]))
			return false
		case sum.Sum64() != binary.LittleEndian.Uint64(m[metaSumOffset:]):
			lastErr = corruptf("checksum of a meta page")
			return false
		case size < minPageSize || size > maxPageSize || size&(size-1) != 0:
			lastErr = corruptf("page size %d", size)
			return false
		}
		if tx := binary.LittleEndian.Uint64(m[48:]); best == nil || tx > bestTx {
			best, bestTx = m, tx
		}
		return true
	}
	if try(0) {
		try(int64(binary.LittleEndian.Uint32(best[8:])))
	} else {
		// The second meta page tells where it lies only once it is read.
		for at := int64(minPageSize); at <= maxPageSize; at *= 2 {
			if try(at) && int64(binary.LittleEndian.Uint32(best[8:])) == at {
				break
			}
		}
	}
	switch {
	case best != nil:
		return best, nil
	case lastErr != nil:
		return nil, lastErr
	case !anyMagic:
		return nil, fmt.Errorf("%w: it does not begin as one (etcd v2 backups and logs are not supported)", ErrNotSnapshot)
	}
	return nil, corruptf("no valid meta page")
}

// page is one page with its overflow.
type page struct {
	b     []byte
	leaf  bool
	count int
}

// read reads a page that was not read before.
func (p *pages) read(id uint64) (page, error) {
	if id < 2 || id >= p.count {
		return page{}, corruptf("page %d of %d", id, p.count)
	}
	head := make([]byte, pageHeaderLen)
	at := int64(id) * p.pageSize
	if _, err := p.r.ReadAt(head, at); err != nil {
		return page{}, fmt.Errorf("read snapshot file: page %d: %w", id, err)
	}
	overflow := uint64(binary.LittleEndian.Uint32(head[12:]))
	if got := binary.LittleEndian.Uint64(head); got != id {
		return page{}, corruptf("page %d calls itself %d", id, got)
	}
	if overflow >= p.count-id {
		return page{}, corruptf("page %d has %d more behind it, of %d", id, overflow, p.count)
	}
	for i := id; i <= id+overflow; i++ {
		if p.seen[i/64]&(1<<(i%64)) != 0 {
			return page{}, corruptf("page %d is used twice", i)
		}
		p.seen[i/64] |= 1 << (i % 64)
	}
	size := int64(overflow+1) * p.pageSize
	if size > maxPageBytes {
		return page{}, corruptf("page %d has %d bytes", id, size)
	}
	b := make([]byte, size)
	if _, err := p.r.ReadAt(b, at); err != nil {
		return page{}, fmt.Errorf("read snapshot file: page %d: %w", id, err)
	}
	return parsePage(b, id)
}

// parsePage looks at a page's header.
func parsePage(b []byte, id uint64) (page, error) {
	q := page{b: b, count: int(binary.LittleEndian.Uint16(b[10:]))}
	switch flags := binary.LittleEndian.Uint16(b[8:]); flags {
	case flagLeaf:
		q.leaf = true
	case flagBranch:
	default:
		return q, corruptf("page %d is of kind %x", id, flags)
	}
	if pageHeaderLen+q.count*leafElementLen > len(b) {
		return q, corruptf("page %d with %d rows", id, q.count)
	}
	if !q.leaf && q.count == 0 {
		return q, corruptf("page %d is an empty branch", id)
	}
	return q, nil
}

// child returns the page and the first key behind element i of a branch.
func (q page) child(i int) (id uint64, key []byte, err error) {
	at := pageHeaderLen + i*branchElementLen
	e := q.b[at : at+branchElementLen]
	key, err = q.slice(at, binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:]))
	return binary.LittleEndian.Uint64(e[8:]), key, err
}

// row returns element i of a leaf.
func (q page) row(i int) (key, value []byte, bucket bool, err error) {
	at := pageHeaderLen + i*leafElementLen
	e := q.b[at : at+leafElementLen]
	flags, pos := binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])
	ksize, vsize := binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
	if flags&^flagBucket != 0 {
		return nil, nil, false, corruptf("row of kind %x", flags)
	}
	if key, err = q.slice(at, pos, ksize); err != nil {
		return nil, nil, false, err
	}
	// A position is relative to its element; the value follows the key.
	if uint64(pos)+uint64(ksize) > uint64(len(q.b)) {
		return nil, nil, false, corruptf("row outside of its page")
	}
	value, err = q.slice(at, pos+ksize, vsize)
	return key, value, flags&flagBucket != 0, err
}

// slice returns n bytes at a position relative to an element at offset at.
func (q page) slice(at int, pos, n uint32) ([]byte, error) {
	from := uint64(at) + uint64(pos)
	to := from + uint64(n)
	if to > uint64(len(q.b)) {
		return nil, corruptf("row outside of its page")
	}
	return q.b[from:to:to], nil
}
