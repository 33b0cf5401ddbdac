package shard

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// Leases returns a checksum of the lease records in the copy, and one of the
// state that they belong to. Records of leases have no revision, but they change
// with the state's record only: it counts the decisions about leases of an epoch,
// and tells of splits. So copies of one state have the same records, however far
// each has applied the log beyond.
func (c *Copy) Leases() (state, sum uint64, err error) {
	record, err := c.sn.GetLocal(stateRecord)
	if err != nil {
		return 0, 0, fmt.Errorf("read state of shard: %w", err)
	}
	d := xxhash.New()
	err = scanLeases(c.sn, c.Span(), func(name, record []byte) error {
		// Names have one length. Writing to a digest cannot fail.
		_, _ = d.Write(name)
		_, _ = d.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(record))))
		_, _ = d.Write(record)
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("read leases: %w", err)
	}
	return xxhash.Sum64(record), d.Sum64(), nil
}
