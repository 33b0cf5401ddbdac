package mvcc

import (
	"encoding/binary"
	"math"
)

// meta is the store's record of how far it is. Every batch of apply writes it
// together with its effects, so whatever prefix of the batches a crash leaves
// behind, the record belongs to it.
type meta struct {
	// applied is the index of the last raft entry contained in the data.
	applied uint64
	// last is the largest revision applied.
	last int64
	// compact is the compaction revision: reads below it are refused.
	compact int64
	// drops counts the DropSpans; the live-key counters of before a drop say
	// nothing about the data of after it.
	drops uint64
}

const (
	metaFormat = 1
	metaLen    = 1 + 4*8
)

func appendMeta(dst []byte, m *meta) []byte {
	dst = append(dst, metaFormat)
	dst = binary.BigEndian.AppendUint64(dst, m.applied)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.last))
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.compact))
	return binary.BigEndian.AppendUint64(dst, m.drops)
}

func decodeMeta(b []byte) (m meta, ok bool) {
	if len(b) != metaLen || b[0] != metaFormat {
		return m, false
	}
	last, compact := binary.BigEndian.Uint64(b[9:]), binary.BigEndian.Uint64(b[17:])
	if last > math.MaxInt64 || compact > math.MaxInt64 {
		return m, false
	}
	return meta{
		applied: binary.BigEndian.Uint64(b[1:]),
		last:    int64(last),
		compact: int64(compact),
		drops:   binary.BigEndian.Uint64(b[25:]),
	}, true
}

// appendCollected encodes the record of how far history was thrown away.
func appendCollected(dst []byte, collected, touched int64) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(collected))
	return binary.BigEndian.AppendUint64(dst, uint64(touched))
}

func decodeCollected(b []byte) (collected, touched int64, ok bool) {
	if len(b) != 16 {
		return 0, 0, false
	}
	c, t := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	return int64(c), int64(t), c <= t && t <= math.MaxInt64
}
