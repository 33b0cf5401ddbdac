package mvcc

import (
	"bytes"
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// The lease index has one row per attached key. Apply keeps it exact without
// reading anything, because an effect names the lease that it attaches its key
// to and the one that it takes it from.

const leaseLen = 8

// appendLeaseStart appends the bound that sorts before all index rows of a lease.
func appendLeaseStart(dst []byte, lease int64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, leasePrefix), uint64(lease))
}

// appendLeaseKey appends the row key of a key's entry in the lease index.
func appendLeaseKey(dst []byte, lease int64, key []byte) []byte {
	return append(append(appendLeaseStart(dst, lease), key...), terminator)
}

// decodeLeaseKey splits the row key of a lease index entry; key aliases row.
func decodeLeaseKey(row []byte) (lease int64, key []byte, ok bool) {
	n := len(row)
	if n < 1+leaseLen+2 || row[0] != leasePrefix || row[n-1] != terminator || !keyspace.Valid(row[1+leaseLen:n-1]) {
		return 0, nil, false
	}
	return int64(binary.BigEndian.Uint64(row[1:])), row[1+leaseLen : n-1 : n-1], true
}

// index brings the lease index up to date with an effect.
func (b *Batch) index(e *Effect) error {
	if e.Detach != 0 {
		b.buf = appendLeaseKey(b.buf[:0], e.Detach, e.Key)
		if err := b.b.Delete(b.buf, nil); err != nil {
			return err
		}
	}
	if e.Lease == 0 || e.Tombstone {
		return nil
	}
	b.buf = appendLeaseKey(b.buf[:0], e.Lease, e.Key)
	return b.b.Set(b.buf, nil, nil)
}

// dropLeased removes the index rows of a span. It reads the whole index, which
// is in the order of leases.
func (b *Batch) dropLeased(span keyspace.Span) error {
	it, err := b.g.db.NewIter(scanOptions(leaseIndex()))
	if err != nil {
		return diskError("open iterator", err)
	}
	// What matters of an iterator's end was told by Error.
	defer func() { _ = it.Close() }()
	for valid := it.First(); valid; valid = it.Next() {
		_, key, ok := decodeLeaseKey(it.Key())
		if !ok {
			return corruptf("lease index row %x", it.Key())
		}
		if span.Contains(key) {
			if err := b.b.Delete(it.Key(), nil); err != nil {
				return err
			}
		}
	}
	return diskError("scan the lease index", it.Error())
}

func leaseIndex() (lower, upper []byte) {
	return []byte{leasePrefix, terminator}, []byte{rowsEnd, terminator}
}

// trimLeased removes the index rows that keep is not for, in a store that is being
// made.
func (s *Store) trimLeased(keep func(sn *Snapshot, lease int64, key []byte) (bool, error)) error {
	sn := s.NewSnapshot()
	defer sn.Close()
	if sn.err != nil {
		return sn.err
	}
	b := sn.g.db.NewBatch()
	// Closing a batch cannot fail in a way that matters.
	defer func() { _ = b.Close() }()
	commit := func() error {
		if err := sn.g.db.Apply(b, pebble.NoSync); err != nil {
			return diskError("commit", err)
		}
		sn.g.wrote(b.Len())
		b.Reset()
		return nil
	}
	lower, upper := leaseIndex()
	err := sn.scanRows(lower, upper, func(it *pebble.Iterator) error {
		lease, key, ok := decodeLeaseKey(it.Key())
		if !ok {
			return corruptf("lease index row %x", it.Key())
		}
		if stays, err := keep(sn, lease, key); stays || err != nil {
			return err
		}
		if err := b.Delete(it.Key(), nil); err != nil {
			return err
		}
		if b.Len() < trimBatch {
			return nil
		}
		return commit()
	})
	if err != nil {
		return err
	}
	return commit()
}

// Leased calls fn with the keys of span that are attached to a lease, in order,
// until fn answers false. The key is valid during the call only.
func (sn *Snapshot) Leased(lease int64, span keyspace.Span, fn func(key []byte) bool) error {
	if span.Empty() {
		return sn.err
	}
	// Both bounds are whole rows, which end in a terminator.
	lower, upper := appendLeaseKey(nil, lease, span.Start), appendLeaseKey(nil, lease, span.End)
	it, err := sn.rows(scanOptions(lower, upper))
	if err != nil {
		return err
	}
	// What matters of an iterator's end was told by Error.
	defer func() { _ = it.Close() }()
	for valid := it.First(); valid; valid = it.Next() {
		_, key, ok := decodeLeaseKey(it.Key())
		if !ok || bytes.Compare(key, span.Start) < 0 {
			return corruptf("lease index row %x", it.Key())
		}
		if !fn(key) {
			return nil
		}
	}
	return diskError("scan the lease index", it.Error())
}
