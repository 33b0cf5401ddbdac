package placement

import "github.com/kvd-io/kvd/shard"

// Grant is what the sequencer gave: the first of the allotted revisions, or the
// current revision, with the stamp of that moment.
type Grant = shard.Grant

var _ shard.Sequencer = (*Node)(nil)
