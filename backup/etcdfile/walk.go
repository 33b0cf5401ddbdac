package etcdfile

import (
	"bytes"
	"encoding/binary"
)

// visit is called with the rows of a bucket in order; nested tells that the row
// is a bucket. The bytes are valid only during the call.
type visit func(key, value []byte, nested bool) error

// walk visits the rows of the tree under a page. Keys must rise.
func (p *pages) walk(root uint64, fn visit) error {
	w := &walker{p: p, fn: fn}
	return w.page(root, 0)
}

// walkInline visits the rows of a bucket that is small enough to lie in the row
// that names it.
func walkInline(b []byte, fn visit) error {
	if len(b) < pageHeaderLen {
		return corruptf("inline bucket of %d bytes", len(b))
	}
	q, err := parsePage(b, 0)
	if err != nil {
		return err
	}
	if !q.leaf {
		return corruptf("inline bucket with branches")
	}
	w := &walker{fn: fn}
	return w.leaf(q)
}

type walker struct {
	p     *pages
	fn    visit
	last  []byte
	began bool
}

func (w *walker) page(id uint64, depth int) error {
	if depth == maxDepth {
		return corruptf("tree of more than %d levels", maxDepth)
	}
	q, err := w.p.read(id)
	if err != nil {
		return err
	}
	if q.leaf {
		return w.leaf(q)
	}
	for i := range q.count {
		child, _, err := q.child(i)
		if err != nil {
			return err
		}
		if err := w.page(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) leaf(q page) error {
	for i := range q.count {
		key, value, nested, err := q.row(i)
		if err != nil {
			return err
		}
		if len(key) == 0 {
			return corruptf("row with an empty key")
		}
		if w.began && bytes.Compare(w.last, key) >= 0 {
			return corruptf("row %x after row %x", short(key), short(w.last))
		}
		w.last, w.began = append(w.last[:0], key...), true
		if err := w.fn(key, value, nested); err != nil {
			return err
		}
	}
	return nil
}

// bucket visits the rows of a bucket, given the value of the row that names it.
func (p *pages) bucket(value []byte, fn visit) error {
	if len(value) < bucketHeaderLen {
		return corruptf("bucket of %d bytes", len(value))
	}
	p.forget()
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return p.walk(root, fn)
	}
	return walkInline(value[bucketHeaderLen:], fn)
}
