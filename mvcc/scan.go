package mvcc

import (
	"context"

	"github.com/cockroachdb/pebble/v2"
)

// checkEvery is the number of rows between two looks at whether a scan should
// go on.
const checkEvery = 256

// scanOptions are those of a clone that scans rows.
func scanOptions(lower, upper []byte) *pebble.IterOptions {
	return &pebble.IterOptions{KeyTypes: pebble.IterKeyTypePointsOnly, LowerBound: lower, UpperBound: upper}
}

// rows returns an iterator of the snapshot over [lower, upper), both being row
// keys.
func (sn *Snapshot) rows(opts *pebble.IterOptions) (*pebble.Iterator, error) {
	if sn.err != nil {
		return nil, sn.err
	}
	it, err := sn.it.Clone(pebble.CloneOptions{IterOptions: opts})
	return it, diskError("open iterator", err)
}

// scanRows calls fn on every row of [lower, upper).
func (sn *Snapshot) scanRows(lower, upper []byte, fn func(*pebble.Iterator) error) error {
	it, err := sn.rows(scanOptions(lower, upper))
	if err != nil {
		return err
	}
	for valid := it.First(); valid && err == nil; valid = it.Next() {
		err = fn(it)
	}
	if err == nil {
		err = diskError("scan", it.Error())
	}
	// What matters of an iterator's end was told by Error.
	_ = it.Close()
	return err
}

// proceed tells whether a scan may go on.
func (sn *Snapshot) proceed(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return sn.store.isOpen()
}

// prefixEnd returns the first key after all those that begin with p, whose
// first byte is not 0xff.
func prefixEnd(p []byte) []byte {
	end := append([]byte(nil), p...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return end
}
