package metrics

import (
	"time"

	"github.com/kvd-io/kvd/internal/histogram"
)

// LeaseStats are figures of client leases, since the start of the member.
type LeaseStats struct {
	// Granted, Revoked, Renewed and Expired count what happened to leases here.
	Granted, Revoked, Renewed, Expired uint64
	// TTLs are the times to live that leases were granted with.
	TTLs histogram.Snapshot
}

// The bounds are etcd's: 1 second to 3 months.
const (
	lowestTTL  = time.Second
	ttlBuckets = 24
)
