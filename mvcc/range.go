package mvcc

import (
	"bytes"
	"context"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// RangeOptions says what of a span to read.
type RangeOptions struct {
	// Rev is the revision to read at; 0 is the newest.
	Rev int64
	// Limit ends the scan after that many keys were delivered; 0 is no limit.
	Limit int64
	// KeysOnly leaves the values out.
	KeysOnly bool
	// Bounds, both inclusive, on the revisions of the keys delivered; 0 is no
	// bound.
	MinMod, MaxMod, MinCreate, MaxCreate int64
	// Desc delivers in descending order of the keys.
	Desc bool
}

func (o *RangeOptions) admits(create, mod int64) bool {
	return mod >= o.MinMod && (o.MaxMod == 0 || mod <= o.MaxMod) &&
		create >= o.MinCreate && (o.MaxCreate == 0 || create <= o.MaxCreate)
}

// Range calls fn on the live keys of span, in key order, until it returns
// false. What fn is given is the caller's to keep, its Key being the encoded
// key; the bytes of several of them may share memory.
func (sn *Snapshot) Range(ctx context.Context, span keyspace.Span, o RangeOptions, fn func(*mvccpb.KeyValue) (more bool)) error {
	var slab kvSlab
	if o.Limit > 0 {
		slab.expect = int(min(o.Limit, maxSlabKeys))
	}
	left := o.Limit
	return sn.versions(ctx, span, o.Rev, o.Desc, func(key []byte, mod int64, row []byte) (bool, error) {
		v, ok := decodeVersion(row, mod)
		if !ok {
			return false, corruptVersion(key, mod)
		}
		if v.tombstone || !o.admits(v.create, mod) {
			return true, nil
		}
		if o.KeysOnly {
			v.value = nil
		}
		kv := slab.add(key, v.value)
		kv.CreateRevision, kv.ModRevision = v.create, mod
		kv.Version, kv.Lease = v.version, v.lease
		if !fn(kv) {
			return false, nil
		}
		left--
		return left != 0, nil
	})
}

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

// Bounds of what a slab allocates at a time.
const (
	minSlabKeys  = 4
	maxSlabKeys  = 256
	minSlabBytes = 1 << 10
	maxSlabBytes = 64 << 10
)

// kvSlab allocates the KeyValues of an answer in pieces, which grow with the
// answer.
type kvSlab struct {
	kvs    []mvccpb.KeyValue
	bytes  []byte
	expect int
	given  int
}

// add returns a KeyValue with a copy of key and value.
func (s *kvSlab) add(key, value []byte) *mvccpb.KeyValue {
	if len(s.kvs) == 0 {
		n := min(max(minSlabKeys, s.given, s.expect-s.given), maxSlabKeys)
		s.kvs = make([]mvccpb.KeyValue, n)
	}
	kv := &s.kvs[0]
	s.kvs = s.kvs[1:]
	s.given++
	kv.Key, kv.Value = s.copy(key), nil
	if len(value) > 0 {
		kv.Value = s.copy(value)
	}
	return kv
}

func (s *kvSlab) copy(b []byte) []byte {
	n := len(b)
	if n > maxSlabBytes/4 {
		return append(make([]byte, 0, n), b...)
	}
	if len(s.bytes) < n {
		s.bytes = make([]byte, min(max(minSlabBytes, 2*n*max(s.given, 1)), maxSlabBytes))
	}
	c := s.bytes[:n:n]
	s.bytes = s.bytes[n:]
	copy(c, b)
	return c
}
