package mvcc

import (
	"bytes"
	"context"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// visitVersion is called with the key, revision and row value of a version; the
// bytes are valid only during the call.
type visitVersion func(key []byte, mod int64, row []byte) (more bool, err error)

// versions calls fn, for each key of span that had a version at rev, with that
// version, tombstones included, until it returns false or an error.
func (sn *Snapshot) versions(ctx context.Context, span keyspace.Span, rev int64, desc bool, fn visitVersion) error {
	if err := sn.readable(rev); err != nil {
		return err
	}
	span = span.Intersect(keyspace.All())
	if span.Empty() {
		return nil
	}
	if rev >= sn.meta.last {
		rev = 0
	}
	buf := make([]byte, 0, len(span.Start)+len(span.End)+2)
	buf = appendPrefix(buf, span.Start)
	lower := buf[:len(buf):len(buf)]
	buf = appendPrefix(buf, span.End)
	it, err := sn.rows(scanOptions(lower, buf[len(lower):]))
	if err != nil {
		return err
	}
	w := walker{sn: sn, ctx: ctx, it: it, rev: rev, fn: fn}
	if desc {
		err = w.descend()
	} else {
		err = w.ascend()
	}
	if err == nil {
		err = diskError("scan", it.Error())
	}
	// What matters of an iterator's end was told by Error.
	_ = it.Close()
	return err
}

// walker goes over the keys of an iterator.
type walker struct {
	sn   *Snapshot
	ctx  context.Context
	it   *pebble.Iterator
	rev  int64 // 0 is the newest
	fn   visitVersion
	rows int
	buf  []byte
}

// nexts is how many versions are stepped over before a seek is cheaper.
const nexts = 6

func (w *walker) proceed() error {
	if w.rows++; w.rows%checkEvery != 0 {
		return nil
	}
	return w.sn.proceed(w.ctx)
}

// at decodes the row that the iterator stands on.
func (w *walker) at() (key []byte, mod int64, err error) {
	key, mod, ok := decodeVersionKey(w.it.Key())
	if !ok {
		return nil, 0, corruptf("row key %x", w.it.Key())
	}
	return key, mod, nil
}

// visit delivers the row that the iterator stands on.
func (w *walker) visit(key []byte, mod int64) (bool, error) {
	row, err := w.it.ValueAndErr()
	if err != nil {
		return false, diskError("read value", err)
	}
	return w.fn(key, mod, row)
}

func (w *walker) ascend() error {
	for valid := w.it.First(); valid; {
		if err := w.proceed(); err != nil {
			return err
		}
		key, mod, err := w.at()
		if err != nil {
			return err
		}
		if w.rev != 0 && mod > w.rev {
			// A key's newest version stands first.
			if valid, err = w.older(key); err != nil {
				return err
			}
			continue
		}
		more, err := w.visit(key, mod)
		if err != nil || !more {
			return err
		}
		valid = w.it.NextPrefix()
	}
	return nil
}

// older moves from a version of key that is too new to one that is not, or to
// the next key.
func (w *walker) older(key []byte) (valid bool, err error) {
	w.buf = append(w.buf[:0], key...)
	for range nexts {
		if !w.it.Next() {
			return false, nil
		}
		next, mod, err := w.at()
		if err != nil {
			return false, err
		}
		if mod <= w.rev || !bytes.Equal(next, w.buf) {
			return true, nil
		}
	}
	n := len(w.buf)
	w.buf = appendVersionKey(w.buf, w.buf[:n], w.rev)
	return w.it.SeekGE(w.buf[n:]), nil
}

// descend meets a key's oldest version first.
func (w *walker) descend() error {
	valid := w.it.Last()
	for valid {
		if err := w.proceed(); err != nil {
			return err
		}
		key, mod, err := w.at()
		if err != nil {
			return err
		}
		w.buf = append(w.buf[:0], key...)
		row, found := []byte(nil), int64(0)
		steps := 0
		for valid && mod <= w.ceiling() && steps < nexts {
			v, err := w.it.ValueAndErr()
			if err != nil {
				return diskError("read value", err)
			}
			row, found = append(row[:0], v...), mod
			steps++
			if valid = w.it.Prev(); !valid {
				break
			}
			if key, mod, err = w.at(); err != nil {
				return err
			}
			if !bytes.Equal(key, w.buf) {
				break
			}
		}
		if steps == nexts && valid && bytes.Equal(key, w.buf) && mod <= w.ceiling() {
			if row, found, err = w.newest(row); err != nil {
				return err
			}
		}
		if found != 0 {
			more, err := w.fn(w.buf, found, row)
			if err != nil || !more {
				return err
			}
		}
		if valid && bytes.Equal(key, w.buf) {
			// Versions of this key remain that are too new or were jumped over.
			valid = w.it.SeekLT(appendPrefix(w.buf, w.buf)[len(w.buf):])
		}
	}
	return nil
}

// ceiling returns the largest revision that counts.
func (w *walker) ceiling() int64 {
	if w.rev == 0 {
		return 1<<63 - 1
	}
	return w.rev
}

// newest seeks the version of the key in buf that counts.
func (w *walker) newest(row []byte) ([]byte, int64, error) {
	n := len(w.buf)
	seek := appendVersionKey(w.buf, w.buf, w.ceiling())
	w.buf = seek[:n]
	if !w.it.SeekGE(seek[n:]) {
		return nil, 0, diskError("scan", w.it.Error())
	}
	key, mod, err := w.at()
	if err != nil {
		return nil, 0, err
	}
	if !bytes.Equal(key, w.buf) {
		return nil, 0, corruptf("no version of %s at %d", keyspace.Format(w.buf), w.ceiling())
	}
	v, err := w.it.ValueAndErr()
	if err != nil {
		return nil, 0, diskError("read value", err)
	}
	return append(row[:0], v...), mod, nil
}
