package config

import (
	"fmt"

	"go.etcd.io/etcd/pkg/v3/featuregate"
)

const featureGatesFlag = "feature-gates"

const (
	leaseCheckpoint        featuregate.Feature = "LeaseCheckpoint"
	leaseCheckpointPersist featuregate.Feature = "LeaseCheckpointPersist"
)

// featureSpecs are etcd's feature gates of this version. None changes kvd: what they switch is always so, or does not
// exist.
var featureSpecs = map[featuregate.Feature]featuregate.FeatureSpec{
	"StopGRPCServiceOnDefrag":      {PreRelease: featuregate.Alpha},
	"InitialCorruptCheck":          {PreRelease: featuregate.Alpha},
	"CompactHashCheck":             {PreRelease: featuregate.Alpha},
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
