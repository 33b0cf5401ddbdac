package mvcc

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// Snapshot is the state of a store at one instant: data, local records and the
// record of how far they are belong to the same batch. It is made per request,
// used by one goroutine at a time, and must be closed; until then it keeps
// memory and files from being given back, and the store from being closed.
//
// The callbacks of its scans may call Get, GetAt, Head and the accessors, and
// begin other scans. After the store was closed every method answers ErrClosed.
type Snapshot struct {
	store *Store
	g     *generation
	// it serves point reads only; scans run on clones of it.
	it   *pebble.Iterator
	meta meta
	err  error
	// row holds the key being sought; it begins in rowBuf.
	row    []byte
	rowBuf [96]byte
	// sweeps are the drops whose index entries the snapshot may still see.
	sweeps []sweep
}

// pointOptions let point reads profit from every bloom filter.
var pointOptions = pebble.IterOptions{KeyTypes: pebble.IterKeyTypePointsOnly, UseL6Filters: true}

// NewSnapshot takes a snapshot of the store as of its last committed batch.
func (s *Store) NewSnapshot() *Snapshot {
	for {
		if sn, again := s.newSnapshot(); !again {
			return sn
		}
	}
}

// newSnapshot makes one attempt. It has to be made again where a batch that absorbed
// a span came in between: the sweeps of before would hide what is in the span now.
func (s *Store) newSnapshot() (sn *Snapshot, again bool) {
	sn = &Snapshot{store: s}
	sn.row = sn.rowBuf[:0]
	if sn.g, sn.err = s.acquire(); sn.err != nil {
		return sn, false
	}
	g := sn.g
	absorbs := g.absorbs.Load()
	turn := g.turn.Load()
	published := g.published.Load()
	sn.sweeps = g.sweeps.list()
	it, err := g.db.NewIter(&pointOptions)
	if err != nil {
		sn.err = diskError("open iterator", err)
		return sn, false
	}
	sn.it = it
	if turn&1 == 0 && g.turn.Load() == turn {
		sn.meta = *published
		return sn, false
	}
	if g.absorbs.Load() != absorbs {
		sn.Close()
		return nil, true
	}
	// A batch was being committed meanwhile; the record among the data tells
	// whether it is part of what the iterator sees.
	sn.meta, sn.err = sn.readMeta()
	// What was dropped meanwhile counts, and what was swept meanwhile did.
	if more := g.sweeps.list(); len(more) > 0 {
		sn.sweeps = append(sn.sweeps[:len(sn.sweeps):len(sn.sweeps)], more...)
	}
	return sn, false
}

// swept tells whether the index entry of key at rev belongs to a span that was
// dropped since.
func (sn *Snapshot) swept(key []byte, rev int64) bool {
	for i := range sn.sweeps {
		if w := &sn.sweeps[i]; w.drop <= sn.meta.drops && rev <= w.upto && w.span.Contains(key) {
			return true
		}
	}
	return false
}

// readMeta reads the store's record as the snapshot's iterator sees it.
func (sn *Snapshot) readMeta() (m meta, err error) {
	if !sn.it.SeekPrefixGE(metaKey) {
		return m, diskError("read store record", sn.it.Error())
	}
	v, err := sn.it.ValueAndErr()
	if err != nil {
		return m, diskError("read store record", err)
	}
	m, ok := decodeMeta(v)
	if !ok {
		return m, corruptf("store record %x", v)
	}
	return m, nil
}

// Close ends the snapshot. Closing twice is allowed.
func (sn *Snapshot) Close() {
	if sn.it != nil {
		// An error of the iterator was told by the read that met it.
		_ = sn.it.Close()
		sn.it = nil
	}
	if sn.g != nil {
		sn.g.release()
		sn.g = nil
	}
	if sn.err == nil {
		sn.err = ErrClosed
	}
}

// Err returns the error that made the snapshot unusable, if any.
func (sn *Snapshot) Err() error { return sn.err }

// AppliedIndex returns the raft index that the snapshot contains.
func (sn *Snapshot) AppliedIndex() uint64 { return sn.meta.applied }

// LastRevision returns the largest revision that the snapshot contains.
func (sn *Snapshot) LastRevision() int64 { return sn.meta.last }

// CompactRevision returns the lowest revision that the snapshot can be read at.
func (sn *Snapshot) CompactRevision() int64 { return sn.meta.compact }

// GetLocal returns a local record; nil where there is none. The caller owns the
// bytes.
func (sn *Snapshot) GetLocal(name []byte) ([]byte, error) {
	if sn.err != nil {
		return nil, sn.err
	}
	sn.row = appendLocalKey(sn.row[:0], name)
	if !sn.it.SeekPrefixGE(sn.row) {
		return nil, diskError("read local record", sn.it.Error())
	}
	v, err := sn.it.ValueAndErr()
	if err != nil {
		return nil, diskError("read local record", err)
	}
	return append(make([]byte, 0, len(v)), v...), nil
}

// ScanLocal calls fn with the local records whose name begins with prefix, in
// order, until fn returns an error, which it passes on. The bytes are valid
// only during the call.
func (sn *Snapshot) ScanLocal(prefix []byte, fn func(name, value []byte) error) error {
	first := append([]byte{localPrefix}, prefix...)
	return sn.scanRows(appendPrefix(nil, first), appendPrefix(nil, prefixEnd(first)), func(it *pebble.Iterator) error {
		name, ok := decodeLocalKey(it.Key())
		if !ok {
			return corruptf("local record %x", it.Key())
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return diskError("read local record", err)
		}
		return fn(name, v)
	})
}

// readable checks that the snapshot can be read at rev; 0 is the newest.
func (sn *Snapshot) readable(rev int64) error {
	if sn.err != nil {
		return sn.err
	}
	if rev < 0 {
		return fmt.Errorf("mvcc: negative revision %d", rev)
	}
	if rev > 0 && rev < sn.meta.compact {
		return &CompactedError{CompactRevision: sn.meta.compact}
	}
	return nil
}

// seek positions the point iterator at the version of key that was valid at
// rev, 0 being the newest. It returns the row's value, which is valid until the
// next read, and nil where the key had no version.
func (sn *Snapshot) seek(key []byte, rev int64) (row []byte, mod int64, err error) {
	if err := sn.readable(rev); err != nil {
		return nil, 0, err
	}
	if !keyspace.Valid(key) {
		return nil, 0, fmt.Errorf("mvcc: key %s outside the key space", keyspace.Format(key))
	}
	if rev == 0 {
		sn.row = appendPrefix(sn.row[:0], key)
	} else {
		sn.row = appendVersionKey(sn.row[:0], key, rev)
	}
	if !sn.it.SeekPrefixGE(sn.row) {
		return nil, 0, diskError("read key", sn.it.Error())
	}
	_, mod, ok := decodeVersionKey(sn.it.Key())
	if !ok {
		return nil, 0, corruptf("row key %x", sn.it.Key())
	}
	if row, err = sn.it.ValueAndErr(); err != nil {
		return nil, 0, diskError("read value", err)
	}
	return row, mod, nil
}

// Get returns the version of key that was valid at rev, 0 being the newest; nil
// where the key did not exist then. Key and value are the caller's.
func (sn *Snapshot) Get(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	row, mod, err := sn.seek(key, rev)
	if row == nil || err != nil {
		return nil, err
	}
	v, ok := decodeVersion(row, mod)
	if !ok {
		return nil, corruptVersion(key, mod)
	}
	if v.tombstone {
		return nil, nil
	}
	buf := make([]byte, len(key)+len(v.value))
	n := copy(buf, key)
	copy(buf[n:], v.value)
	return &mvccpb.KeyValue{
		Key:            buf[:n:n],
		Value:          buf[n:],
		CreateRevision: v.create,
		ModRevision:    mod,
		Version:        v.version,
		Lease:          v.lease,
	}, nil
}

// GetAt is Get for a revision that must be given: what a watch event's previous
// value needs. It returns ErrCompacted below the compaction revision.
func (sn *Snapshot) GetAt(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	if rev <= 0 {
		// Nothing exists at revision 0, and nothing below it can be asked for
		// once there was a compaction.
		if sn.err == nil && sn.meta.compact > 0 {
			return nil, &CompactedError{CompactRevision: sn.meta.compact}
		}
		return nil, sn.err
	}
	return sn.Get(key, rev)
}

// Head is a key's newest version without its value.
type Head struct {
	Create, Mod, Version, Lease int64
	// Exists is false for a key that was never written or is deleted; the rest
	// is 0 then.
	Exists bool
}

// Head returns the newest version of key without its value.
func (sn *Snapshot) Head(key []byte) (Head, error) {
	row, mod, err := sn.seek(key, 0)
	if row == nil || err != nil {
		return Head{}, err
	}
	v, ok := decodeVersion(row, mod)
	if !ok {
		return Head{}, corruptVersion(key, mod)
	}
	if v.tombstone {
		return Head{}, nil
	}
	return Head{Create: v.create, Mod: mod, Version: v.version, Lease: v.lease, Exists: true}, nil
}

func corruptVersion(key []byte, mod int64) error {
	return corruptf("version of %s at revision %d", keyspace.Format(key), mod)
}
