package config

import (
	"fmt"
	"time"

	"go.etcd.io/etcd/pkg/v3/featuregate"
)

const featureGatesFlag = "feature-gates"

const (
	initialCorruptCheck    featuregate.Feature = "InitialCorruptCheck"
	compactHashCheck       featuregate.Feature = "CompactHashCheck"
	leaseCheckpoint        featuregate.Feature = "LeaseCheckpoint"
	leaseCheckpointPersist featuregate.Feature = "LeaseCheckpointPersist"
)

// featureSpecs are etcd's feature gates of this version. But for the two of corruption checks none changes kvd: what
// they switch is always so, or does not exist.
var featureSpecs = map[featuregate.Feature]featuregate.FeatureSpec{
	"StopGRPCServiceOnDefrag":      {PreRelease: featuregate.Alpha},
	initialCorruptCheck:            {PreRelease: featuregate.Alpha},
	compactHashCheck:               {PreRelease: featuregate.Alpha},
	"TxnModeWriteWithSharedBuffer": {Default: true, PreRelease: featuregate.Beta},
	leaseCheckpoint:                {PreRelease: featuregate.Alpha},
	leaseCheckpointPersist:         {PreRelease: featuregate.Alpha},
	"SetMemberLocalAddr":           {PreRelease: featuregate.Alpha},
	"FastLeaseKeepAlive":           {Default: true, PreRelease: featuregate.Beta},
	"PriorityRequest":              {PreRelease: featuregate.Alpha},
}

func newFeatureGate() featuregate.MutableFeatureGate {
	gate := featuregate.New("kvd", nil)
	if err := gate.Add(featureSpecs); err != nil {
		panic(fmt.Sprintf("config: the table of feature gates contradicts itself: %v", err)) // a constant table
	}
	return gate
}

// gates is the value of --feature-gates.
func gates(gate featuregate.MutableFeatureGate) *value {
	return &value{kind: "list", show: gate.String, set: gate.Set}
}

// InitialCorruptCheck says whether a member compares its data with others before it serves.
func (c *Config) InitialCorruptCheck() bool { return c.Features.Enabled(initialCorruptCheck) }

// CorruptCheckPeriod is how often the replicas of each shard are compared; 0: as often as the store likes.
func (c *Config) CorruptCheckPeriod() time.Duration {
	period := c.CorruptCheckTime
	if t := c.CompactHashCheckTime; t > 0 && c.Features.Enabled(compactHashCheck) && (period <= 0 || t < period) {
		period = t
	}
	return max(period, 0)
}
