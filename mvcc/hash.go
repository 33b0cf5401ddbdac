package mvcc

import (
	"context"
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// Hash returns a checksum of the history of span from the compaction revision
// up to rev, 0 being the newest: of every version above the compaction
// revision, deletions included, and of the state at it. So replicas agree
// however far each has collected what lies below.
//
// The hash of a span is the sum, modulo 2^32, of one number per version, the
// folded 64-bit xxHash of (key length, key, modification and creation revision,
// version, lease, deletion, value), all integers being 8 bytes in little endian.
// So the hashes of adjacent spans add up to the hash of both, wherever shards
// are cut, provided that all have the same compaction revision.
func (sn *Snapshot) Hash(ctx context.Context, span keyspace.Span, rev int64) (uint32, error) {
	return sn.hash(ctx, span, rev, false)
}

// StateHash returns a checksum of the state of span at rev, 0 being the newest:
// of the version of each key that is live there. Unlike Hash it stays the same
// when history below rev is compacted. It adds up as Hash does.
func (sn *Snapshot) StateHash(ctx context.Context, span keyspace.Span, rev int64) (uint32, error) {
	return sn.hash(ctx, span, rev, true)
}

func (sn *Snapshot) hash(ctx context.Context, span keyspace.Span, rev int64, state bool) (uint32, error) {
	if err := sn.readable(rev); err != nil {
		return 0, err
	}
	span = span.Intersect(keyspace.All())
	if span.Empty() {
		return 0, nil
	}
	if rev == 0 {
		rev = sn.meta.last
	}
	compact := sn.meta.compact
	if state {
		compact = rev
	}
	it, err := sn.rows(scanOptions(appendPrefix(nil, span.Start), appendPrefix(nil, span.End)))
	if err != nil {
		return 0, err
	}
	h := historyHash{rev: rev, compact: compact, digest: xxhash.New()}
	rows := 0
	for valid := it.First(); valid && err == nil; valid = it.Next() {
		if rows++; rows%checkEvery == 0 {
			if err = sn.proceed(ctx); err != nil {
				break
			}
		}
		var row []byte
		if row, err = it.ValueAndErr(); err != nil {
			err = diskError("read value", err)
			break
		}
		err = h.add(it.Key(), row)
	}
	if err == nil {
		err = diskError("scan", it.Error())
	}
	// What matters of an iterator's end was told by Error.
	_ = it.Close()
	return h.sum, err
}

// historyHash adds up the versions of a span, which come in the order of rows.
type historyHash struct {
	rev, compact int64
	// base is the key whose version at the compaction revision was seen: what
	// follows of it is history below.
	base    []byte
	hasBase bool
	digest  *xxhash.Digest
	buf     [6 * 8]byte
	sum     uint32
}

func (h *historyHash) add(rowKey, row []byte) error {
	key, mod, ok := decodeVersionKey(rowKey)
	if !ok {
		return corruptf("row key %x", rowKey)
	}
	v, ok := decodeVersion(row, mod)
	if !ok {
		return corruptVersion(key, mod)
	}
	if mod > h.rev {
		return nil
	}
	if mod <= h.compact {
		if h.hasBase && string(h.base) == string(key) {
			return nil
		}
		h.base, h.hasBase = append(h.base[:0], key...), true
		// A deletion at or below the compaction revision may be collected.
		if v.tombstone {
			return nil
		}
	}
	h.version(key, mod, v)
	return nil
}

func (h *historyHash) version(key []byte, mod int64, v version) {
	var dead uint64
	if v.tombstone {
		dead = 1
	}
	b := h.buf[:0]
	for _, u := range [...]uint64{uint64(len(key)), uint64(mod), uint64(v.create), uint64(v.version), uint64(v.lease), dead} {
		b = binary.LittleEndian.AppendUint64(b, u)
	}
	h.digest.Reset()
	// Writing to a digest cannot fail.
	_, _ = h.digest.Write(b[:8])
	_, _ = h.digest.Write(key)
	_, _ = h.digest.Write(b[8:])
	_, _ = h.digest.Write(v.value)
	sum := h.digest.Sum64()
	h.sum += uint32(sum) ^ uint32(sum>>32)
}
