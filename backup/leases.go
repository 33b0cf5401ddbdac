package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/kvd-io/kvd/backup/etcdfile"
	"github.com/kvd-io/kvd/backup/extsort"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// leaseBook gathers the leases of a save.
//
// Records of leases have no revision: what a pinned shard tells of them is of
// some moment after the save's revision R. The book makes a set of leases of it
// that fits to the keys at R:
//
//   - A lease that was there both times is in the file with what was granted. Its
//     time begins anew wherever the file is restored, as after a restart of
//     etcd.
//   - A lease that was granted after R has no keys at R; it does no harm.
//   - A lease that a key is attached to at R and that has ended since, with its keys
//     deleted above R, has to be in the file, or the key would live for ever. What
//     was granted is not known any more, so it gets goneTTL.
//   - A lease that is being revoked is in the file if keys are attached to it at
//     R, so that they are deleted in the end, and else left out.
//
// Memory is bounded: everything is sorted on disk.
type leaseBook struct {
	sorter *extsort.Sorter
	dir    string
	// recent are leases that are known to have keys; it saves most repetitions.
	recent map[int64]struct{}
}

const (
	// goneTTL is the time, in seconds, of leases that ended while they were saved.
	goneTTL = 5
	// leaseBuffer bounds the memory of the book's sorter, recentLeases what it
	// remembers.
	leaseBuffer  = 1 << 20
	recentLeases = 16 << 10
)

// What the book notes about a lease, in the order in which it wants to read it.
const (
	noteAttached = iota
	noteGranted
	noteRevoking
)

func newLeaseBook(dir string) (*leaseBook, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	return &leaseBook{
		sorter: extsort.New(extsort.Options{Dir: dir, Bytes: leaseBuffer, MergeBytes: leaseBuffer}), dir: dir,
		recent: make(map[int64]struct{}),
	}, nil
}

func (b *leaseBook) note(id int64, kind byte, ttl int64) error {
	key := append(binary.BigEndian.AppendUint64(nil, uint64(id)), kind)
	return b.sorter.Add(key, binary.AppendVarint(nil, ttl))
}

// record takes the record of a lease.
func (b *leaseBook) record(l *kvdpb.LeaseRecord) error {
	if l.GetRevoking() {
		return b.note(l.GetId(), noteRevoking, l.GetTtl())
	}
	return b.note(l.GetId(), noteGranted, l.GetTtl())
}

// attached notes that a key is attached to a lease at the save's revision.
func (b *leaseBook) attached(id int64) error {
	if _, ok := b.recent[id]; ok {
		return nil
	}
	if len(b.recent) >= recentLeases {
		clear(b.recent)
	}
	b.recent[id] = struct{}{}
	return b.note(id, noteAttached, 0)
}

// each calls fn with the leases of the file in the order of their ids, negative
// ones last. Nothing may be added afterwards.
func (b *leaseBook) each(ctx context.Context, fn func(etcdfile.Lease) error) error {
	b.recent = nil
	var l etcdfile.Lease
	keys := false
	flush := func() (err error) {
		if l.TTL == 0 && keys {
			l.TTL = goneTTL
		}
		if l.ID != 0 && l.TTL > 0 {
			err = fn(l)
		}
		l, keys = etcdfile.Lease{}, false
		return err
	}
	err := b.sorter.Sort(ctx, func(key, value []byte) error {
		id := int64(binary.BigEndian.Uint64(key))
		if id != l.ID {
			if err := flush(); err != nil {
				return err
			}
			l.ID = id
		}
		ttl, _ := binary.Varint(value)
		switch key[8] {
		case noteAttached:
			keys = true
		case noteRevoking:
			// One that was granted anew meanwhile counts.
			if keys && l.TTL == 0 {
				l.TTL = ttl
			}
		default:
			l.TTL = max(ttl, 1)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// close removes what the book wrote.
func (b *leaseBook) close() error { return errors.Join(b.sorter.Close(), os.Remove(b.dir)) }
