package auth

import (
	"bytes"
	"slices"

	"github.com/kvd-io/kvd/placement/authstate"
)

// interval is a range of user keys. A nil end is above all keys.
type interval struct{ start, end []byte }

// intervalOf translates etcd's key and range end.
func intervalOf(key, rangeEnd []byte) interval {
	switch {
	case len(rangeEnd) == 0:
		return interval{key, append(bytes.Clone(key), 0)}
	case authstate.OpenEnd(rangeEnd):
		return interval{key, nil}
	}
	return interval{key, rangeEnd}
}

// compareEnds orders ends: nil is the largest.
func compareEnds(a, b []byte) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return bytes.Compare(a, b)
}

// ranges is a set of keys: intervals that neither overlap nor touch, in order.
type ranges []interval

// newRanges unites intervals. Permissions add up: two that touch permit a request
// over both.
func newRanges(all []interval) ranges {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b interval) int { return bytes.Compare(a.start, b.start) })
	var out ranges
	for _, i := range all {
		if n := len(out); n > 0 && (out[n-1].end == nil || bytes.Compare(i.start, out[n-1].end) <= 0) {
			if compareEnds(i.end, out[n-1].end) > 0 {
				out[n-1].end = i.end
			}
			continue
		}
		out = append(out, i)
	}
	return out
}

// cover tells whether all keys from key on are in the set: the one key, or those
// before rangeEnd.
func (r ranges) cover(key, rangeEnd []byte) bool {
	// The last interval that begins at or before key.
	i, found := slices.BinarySearchFunc(r, key, func(i interval, key []byte) int { return bytes.Compare(i.start, key) })
	if !found {
		i--
	}
	if i < 0 || (r[i].end != nil && bytes.Compare(key, r[i].end) >= 0) {
		return false
	}
	switch {
	case len(rangeEnd) == 0:
		return true
	case authstate.OpenEnd(rangeEnd):
		return r[i].end == nil
	}
	return compareEnds(rangeEnd, r[i].end) <= 0
}
