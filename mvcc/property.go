package mvcc

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
)

// revisionProperty is the name, on disk, of the interval of revisions that
// pebble keeps for each block and table: a scan for what changed in a window of
// revisions skips the blocks that hold nothing of it.
const revisionProperty = "kvd.mvcc.revision"

func newRevisionCollector() pebble.BlockPropertyCollector {
	return sstable.NewBlockIntervalCollector(revisionProperty, revisionMapper{}, nil)
}

// revisionFilter admits the blocks that may hold a version of from to to, both
// inclusive. It admits others too: every row must be checked again.
func revisionFilter(from, to int64) pebble.BlockPropertyFilter {
	return sstable.NewBlockIntervalFilter(revisionProperty, uint64(from), uint64(to)+1, nil)
}

type revisionMapper struct{}

// MapPointKey implements sstable.IntervalMapper.
func (revisionMapper) MapPointKey(key pebble.InternalKey, _ []byte) (sstable.BlockInterval, error) {
	n := Split(key.UserKey)
	if len(key.UserKey)-n != suffixLen {
		return sstable.BlockInterval{}, nil
	}
	rev := binary.BigEndian.Uint64(key.UserKey[n:])
	return sstable.BlockInterval{Lower: rev, Upper: rev + 1}, nil
}

// MapRangeKeys implements sstable.IntervalMapper. A store has no range keys.
func (revisionMapper) MapRangeKeys(sstable.Span) (sstable.BlockInterval, error) {
	return sstable.BlockInterval{}, nil
}
