package mvcc

import (
	"bytes"
	"context"
	"sort"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

const (
	// minWindow and maxWindow bound the entries of the revision index that are
	// worked off together.
	minWindow, maxWindow = 64, 4096
	// typicalEvent is the size of an event that a window is laid out for.
	typicalEvent = 256
	// defaultBulkEvents is how many events of a window make it worth trying to
	// read them in one scan of the keys.
	defaultBulkEvents = 1024
	// bulkWaste is how many rows such a scan may pass for each event wanted;
	// bulkBytes bounds the values that it gathers.
	bulkWaste = 4
	bulkBytes = 8 << 20
)

// entry is one entry of the revision index, and what is known of its version.
type entry struct {
	rev, sub  int64
	key       []byte
	tombstone bool
	// v is the version, once it was read.
	v    version
	read bool
}

// window is a run of entries of the revision index, in order.
type window struct {
	entries []entry
	arena   []byte
}

// indexEvents reads the revision index, a window at a time, and the version of
// each entry: by a get, or many of them by a scan of the keys that skips every
// block in which nothing of the window's revisions was written.
func (sn *Snapshot) indexEvents(ctx context.Context, span keyspace.Span, from, to int64, d *delivery) error {
	it, err := sn.rows(scanOptions(appendIndexStart(nil, from), appendIndexStart(nil, to+1)))
	if err != nil {
		return err
	}
	size := maxWindow
	if d.maxBytes > 0 {
		size = min(max(d.maxBytes/typicalEvent, minWindow), maxWindow)
	}
	var w window
	for valid := it.First(); err == nil && !d.ended; {
		if valid, err = sn.fillWindow(ctx, it, valid, span, size, &w); err != nil || len(w.entries) == 0 {
			break
		}
		if w.puts() >= sn.store.engine.bulkEvents {
			if err = sn.readWindow(ctx, &w); err != nil {
				break
			}
		}
		err = sn.deliverWindow(&w, d)
	}
	if err == nil {
		err = diskError("scan revision index", it.Error())
	}
	// What matters of an iterator's end was told by Error.
	_ = it.Close()
	return err
}

// fillWindow reads the next entries that lie in span, and tells whether the
// iterator has more.
func (sn *Snapshot) fillWindow(ctx context.Context, it *pebble.Iterator, valid bool, span keyspace.Span, size int, w *window) (bool, error) {
	clear(w.entries)
	w.entries, w.arena = w.entries[:0], nil
	for rows := 1; valid && len(w.entries) < size; valid = it.Next() {
		if rows++; rows%checkEvery == 0 {
			if err := sn.proceed(ctx); err != nil {
				return false, err
			}
		}
		e, err := readIndexEntry(it)
		if err != nil {
			return false, err
		}
		if span.Contains(e.key) && !sn.swept(e.key, e.rev) {
			e.key = w.keep(e.key)
			w.entries = append(w.entries, e)
		}
	}
	return valid, nil
}

// keep copies bytes into the window's memory.
func (w *window) keep(b []byte) []byte {
	if cap(w.arena)-len(w.arena) < len(b) {
		w.arena = make([]byte, 0, max(len(b), 16<<10))
	}
	n := len(w.arena)
	w.arena = append(w.arena, b...)
	return w.arena[n:len(w.arena):len(w.arena)]
}

// puts counts the entries that have a value to be read.
func (w *window) puts() (n int) {
	for i := range w.entries {
		if !w.entries[i].tombstone {
			n++
		}
	}
	return n
}

// find returns the entry of a version, if the window has it.
func (w *window) find(rev, sub int64) *entry {
	i := sort.Search(len(w.entries), func(i int) bool {
		e := &w.entries[i]
		return e.rev > rev || (e.rev == rev && e.sub >= sub)
	})
	if i == len(w.entries) || w.entries[i].rev != rev || w.entries[i].sub != sub {
		return nil
	}
	return &w.entries[i]
}

// readWindow reads versions of a window in the order of their keys. Where the
// keys between them turn out to be many, or the values large, it gives up and
// leaves the rest to gets.
func (sn *Snapshot) readWindow(ctx context.Context, w *window) error {
	lo, hi := w.entries[0].key, w.entries[0].key
	for i := range w.entries {
		if k := w.entries[i].key; bytes.Compare(k, lo) < 0 {
			lo = k
		} else if bytes.Compare(k, hi) > 0 {
			hi = k
		}
	}
	first, last := w.entries[0].rev, w.entries[len(w.entries)-1].rev
	opts := scanOptions(appendPrefix(nil, lo), appendPrefix(nil, keyspace.Key(hi).End))
	opts.PointKeyFilters = append(make([]pebble.BlockPropertyFilter, 0, 2), revisionFilter(first, last))
	it, err := sn.rows(opts)
	if err != nil {
		return err
	}
	left, gathered := bulkWaste*len(w.entries), 0
	for valid := it.First(); valid && left > 0 && gathered < bulkBytes; left-- {
		if left%checkEvery == 0 {
			if err = sn.proceed(ctx); err != nil {
				break
			}
		}
		key, rev, ok := decodeVersionKey(it.Key())
		if !ok {
			err = corruptf("row key %x", it.Key())
			break
		}
		if rev < first {
			// Only older ones of this key follow.
			valid = it.NextPrefix()
			continue
		}
		if rev <= last {
			var row []byte
			if row, err = it.ValueAndErr(); err != nil {
				err = diskError("read value", err)
				break
			}
			v, ok := decodeVersion(row, rev)
			if !ok {
				err = corruptVersion(key, rev)
				break
			}
			if e := w.find(rev, v.sub); e != nil && !v.tombstone && bytes.Equal(e.key, key) {
				v.value = w.keep(v.value)
				e.v, e.read = v, true
				gathered += len(v.value)
			}
		}
		valid = it.Next()
	}
	if err == nil {
		err = diskError("scan versions", it.Error())
	}
	// What matters of an iterator's end was told by Error.
	_ = it.Close()
	return err
}

// deliverWindow hands out the events of a window.
func (sn *Snapshot) deliverWindow(w *window, d *delivery) error {
	for i := range w.entries {
		e := &w.entries[i]
		if !d.begins(e.rev) {
			return nil
		}
		if e.tombstone {
			e.v = version{tombstone: true}
		} else if !e.read {
			if err := sn.readEntry(e); err != nil {
				return err
			}
		}
		if !d.event(e.sub, e.key, e.v) {
			return nil
		}
	}
	return nil
}

// readEntry gets the version of an entry. Its value is valid until the next
// read.
func (sn *Snapshot) readEntry(e *entry) error {
	sn.row = appendVersionKey(sn.row[:0], e.key, e.rev)
	if !sn.it.SeekPrefixGE(sn.row) {
		if err := sn.it.Error(); err != nil {
			return diskError("read key", err)
		}
		return corruptVersion(e.key, e.rev)
	}
	if !bytes.Equal(sn.it.Key(), sn.row) {
		return corruptVersion(e.key, e.rev)
	}
	row, err := sn.it.ValueAndErr()
	if err != nil {
		return diskError("read value", err)
	}
	v, ok := decodeVersion(row, e.rev)
	if !ok || v.tombstone {
		return corruptVersion(e.key, e.rev)
	}
	e.v = v
	return nil
}
