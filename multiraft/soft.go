package multiraft

import _ "unsafe" // for go:linkname

// Dragonboat sizes its queues for a few busy groups: each replica takes 1.1 MiB of heap when idle, and every applied entry of a quiet group reallocates a
// buffer of 50 KiB. Its settings can be changed only by a file in the working directory, whoever wrote it, so the variables that were initialised from
// them are reached by name. One that has not its known default is left alone: somebody did write that file, or the name means something else in another
// version of Dragonboat. TestSoftSettings notices the latter.

//go:linkname receiveQueueLen github.com/lni/dragonboat/v4.receiveQueueLen
var receiveQueueLen uint64

//go:linkname streamConnections github.com/lni/dragonboat/v4.streamConnections
var streamConnections uint64

//go:linkname incomingProposalsMaxLen github.com/lni/dragonboat/v4.incomingProposalsMaxLen
var incomingProposalsMaxLen uint64

//go:linkname incomingReadIndexMaxLen github.com/lni/dragonboat/v4.incomingReadIndexMaxLen
var incomingReadIndexMaxLen uint64

//go:linkname pendingProposalShards github.com/lni/dragonboat/v4.pendingProposalShards
var pendingProposalShards uint64

//go:linkname entrySliceSize github.com/lni/dragonboat/v4/internal/raft.entrySliceSize
var entrySliceSize uint64

//go:linkname minEntrySliceSize github.com/lni/dragonboat/v4/internal/raft.minEntrySliceSize
var minEntrySliceSize uint64

//go:linkname sendQueueLen github.com/lni/dragonboat/v4/internal/transport.sendQueueLen
var sendQueueLen uint64

//go:linkname maxEntrySize github.com/lni/dragonboat/v4/internal/raft.maxEntrySize
var maxEntrySize uint64

//go:linkname nodeReloadInterval github.com/lni/dragonboat/v4.nodeReloadInterval
var nodeReloadInterval uint64

// softSettings are all settings that differ from Dragonboat's defaults.
var softSettings = [...]struct {
	name              string
	at                *uint64
	standard, changed uint64
}{
	// Messages for one replica between two steps. What does not fit is dropped, and raft sends it again.
	{"ReceiveQueueLength", &receiveQueueLen, 1024, 512},
	// All messages for a member go over one connection here: one queue batches them best, and must be longer than one of four.
	{"StreamConnections", &streamConnections, 4, 1},
	{"SendQueueLength", &sendQueueLen, 2048, 8192},
	{"IncomingProposalQueueLength", &incomingProposalsMaxLen, 2048, 512},
	{"IncomingReadIndexQueueLength", &incomingReadIndexMaxLen, 4096, 1024},
	{"PendingProposalShards", &pendingProposalShards, 16, 2},
	// What one message brings a follower that lags: all groups share a connection, and heartbeats wait behind it.
	{"MaxEntrySize", &maxEntrySize, 64 << 20, 1 << 20},
	// In nanoseconds here. That often each worker looks at all its groups, though everything that there is to do was announced to it: a third
	// of what an idle group costs.
	{"NodeReloadMillisecond", &nodeReloadInterval, 200_000_000, 1_000_000_000},
	{"InMemEntrySliceSize", &entrySliceSize, 512, 64},
	{"MinEntrySliceFreeSize", &minEntrySliceSize, 96, 16},
}

func init() {
	for _, s := range softSettings {
		if *s.at == s.standard {
			*s.at = s.changed
		}
	}
}
