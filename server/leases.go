package server

import (
	"context"
	"errors"
	"math"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/kvd-io/kvd/internal/histogram"
	"github.com/kvd-io/kvd/server/metrics"
)

// leaseKeys tells package auth which keys are attached to a lease.
func (m *Member) leaseKeys(ctx context.Context, id int64) ([][]byte, error) {
	keys, err := m.leases.Keys(ctx, id)
	if errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		return nil, nil
	}
	return keys, err
}

// leaseStats are the lease manager's counts in the words of package metrics.
func (m *Member) leaseStats() metrics.LeaseStats {
	s := m.leases.Stats()
	bounded := len(s.TTL) - 1
	ttls := histogram.Snapshot{
		Count: s.TTL[bounded], Bounds: make([]time.Duration, bounded), Cumulative: s.TTL[:bounded],
		// A few leases of the longest time fill a Duration.
		Sum: time.Duration(min(s.TTLSum, int64(math.MaxInt64/time.Second))) * time.Second,
	}
	for i := range bounded {
		ttls.Bounds[i] = time.Second << i
	}
	return metrics.LeaseStats{Granted: s.Granted, Revoked: s.Revoked, Renewed: s.Renewed, Expired: s.Expired, TTLs: ttls}
}
