package mvcc

import (
	"context"
	"fmt"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// Version is one version of a key, as Versions visits it.
type Version struct {
	// Key is the encoded key. Key and Value are valid only during the call.
	Key, Value []byte
	// Revision and Sub are the place in the order of events.
	Revision, Sub int64
	// Create, Version and Lease are 0 for a tombstone.
	Create, Version, Lease int64
	Tombstone              bool
}

// Versions calls fn with the history of span between two revisions: what was
// valid at from (deletions at from itself included), and every version of a
// revision above from, up to and including to. They come in the order of keys,
// and of one key the newest first. An error of fn ends the scan and is passed
// on. A from below the compaction revision is answered with ErrCompacted.
func (sn *Snapshot) Versions(ctx context.Context, span keyspace.Span, from, to int64, fn func(*Version) error) error {
	if sn.err != nil {
		return sn.err
	}
	if from < 0 || to < from {
		return fmt.Errorf("mvcc: versions from revision %d to %d", from, to)
	}
	if from < sn.meta.compact {
		return &CompactedError{CompactRevision: sn.meta.compact}
	}
	span = span.Intersect(keyspace.All())
	if span.Empty() {
		return nil
	}
	it, err := sn.rows(scanOptions(appendPrefix(nil, span.Start), appendPrefix(nil, span.End)))
	if err != nil {
		return err
	}
	rows := 0
	for valid := it.First(); valid && err == nil; {
		if rows++; rows%checkEvery == 0 {
			if err = sn.proceed(ctx); err != nil {
				break
			}
		}
		key, rev, ok := decodeVersionKey(it.Key())
		if !ok {
			err = corruptf("row key %x", it.Key())
			break
		}
		if rev > to {
			valid = it.Next()
			continue
		}
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
		if rev >= from || !v.tombstone {
			err = fn(&Version{Key: key, Value: v.value, Revision: rev, Sub: v.sub,
				Create: v.create, Version: v.version, Lease: v.lease, Tombstone: v.tombstone})
		}
		switch {
		case err != nil:
		case rev <= from:
			// Only what from superseded follows of this key.
			valid = it.NextPrefix()
		default:
			valid = it.Next()
		}
	}
	if err == nil {
		err = diskError("scan versions", it.Error())
	}
	// What matters of an iterator's end was told by Error.
	_ = it.Close()
	return err
}
