package lease

import (
	"math/bits"
	"sync/atomic"
)

// ttlBuckets are etcd's: powers of two, from 1 s on.
const ttlBuckets = 24

// counters count what this member did.
type counters struct {
	granted, renewed, revoked, expired atomic.Uint64
	ttlSum                             atomic.Int64
	// ttl counts granted leases by the power of two that holds their TTL, the last
	// those above all.
	ttl [ttlBuckets + 1]atomic.Uint64
}

// observe counts a granted TTL, in seconds.
func (c *counters) observe(ttl int64) {
	c.ttlSum.Add(ttl)
	bucket := 0
	if ttl > 1 {
		bucket = min(bits.Len64(uint64(ttl-1)), ttlBuckets)
	}
	c.ttl[bucket].Add(1)
}

// Stats are counts since the member started: Granted, Renewed and Revoked of what
// its clients asked for, Expired of the leases that it ended because their time
// was over.
type Stats struct {
	Granted, Renewed, Revoked, Expired uint64
	// TTLSum adds up the granted TTLs in seconds. TTL counts them cumulatively, as in
	// a histogram: those of at most 1, 2, 4 … 2^23 seconds, and at last all.
	TTLSum int64
	TTL    []uint64
}

// Stats returns the member's counts.
func (m *Manager) Stats() Stats {
	c := &m.stats
	s := Stats{
		Granted: c.granted.Load(), Renewed: c.renewed.Load(), Revoked: c.revoked.Load(), Expired: c.expired.Load(),
		TTLSum: c.ttlSum.Load(), TTL: make([]uint64, len(c.ttl)),
	}
	sum := uint64(0)
	for i := range s.TTL {
		sum += c.ttl[i].Load()
		s.TTL[i] = sum
	}
	return s
}
