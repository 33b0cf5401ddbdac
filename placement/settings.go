package placement

import "github.com/kvd-io/kvd/proto/kvdpb"

// Defaults of the cluster's settings.
const (
	defaultReplicas    = 3
	defaultMaxChanges  = 4
	defaultSplitBytes  = 512 << 20
	defaultSplitWrites = 20000
)

// orDefault returns what an optional setting points to.
func orDefault[T any](set *T, def T) T {
	if set != nil {
		return *set
	}
	return def
}

// OwnersFollow tells whether ownerships move to the sequencer's member.
func OwnersFollow(s *kvdpb.ClusterSettings) bool { return orDefault(s.OwnersFollowSequencer, true) }
