package etcdfile

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Buckets of etcd v3.7's schema.
const (
	BucketKey            = "key"
	BucketMeta           = "meta"
	BucketLease          = "lease"
	BucketAlarm          = "alarm"
	BucketCluster        = "cluster"
	BucketMembers        = "members"
	BucketMembersRemoved = "members_removed"
	BucketAuth           = "auth"
	BucketAuthUsers      = "authUsers"
	BucketAuthRoles      = "authRoles"
)

var buckets = []string{
	BucketKey, BucketMeta, BucketLease, BucketAlarm, BucketCluster, BucketMembers, BucketMembersRemoved,
	BucketAuth, BucketAuthUsers, BucketAuthRoles,
}

// Keys of the small buckets.
const (
	metaScheduledCompact = "scheduledCompactRev"
	metaFinishedCompact  = "finishedCompactRev"
	metaConsistentIndex  = "consistent_index"
	metaTerm             = "term"
	metaConfState        = "confState"
	metaStorageVersion   = "storageVersion"
	clusterVersionKey    = "clusterVersion"
	authEnabledKey       = "authEnabled"
	authRevisionKey      = "authRevision"
)

// StorageVersion is the version of the schema that a Writer writes.
const StorageVersion = "3.7.0"

const (
	// revisionLen is the length of an encoded revision, 17 bytes; a deletion has
	// one more.
	revisionLen   = 8 + 1 + 8
	tombstoneMark = 't'
)

// Revision is the place of a change in the order of events, as row keys of the
// bucket "key" encode it.
type Revision struct {
	Main, Sub int64
	Tombstone bool
}

// AppendRevision appends the encoding of a revision.
func AppendRevision(dst []byte, r Revision) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Main))
	dst = append(dst, '_')
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Sub))
	if r.Tombstone {
		dst = append(dst, tombstoneMark)
	}
	return dst
}

// ParseRevision decodes a row key of the bucket "key".
func ParseRevision(b []byte) (Revision, error) {
	marked := len(b) == revisionLen+1 && b[revisionLen] == tombstoneMark
	if (len(b) != revisionLen && !marked) || b[8] != '_' {
		return Revision{}, fmt.Errorf("%w: %x is no revision", ErrCorrupt, short(b))
	}
	main, sub := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[9:])
	if main > math.MaxInt64 || sub > math.MaxInt64 {
		return Revision{}, fmt.Errorf("%w: revision %x is negative", ErrCorrupt, b)
	}
	return Revision{Main: int64(main), Sub: int64(sub), Tombstone: marked}, nil
}

// short cuts bytes that go into an error text.
func short(b []byte) []byte { return b[:min(len(b), 32)] }
