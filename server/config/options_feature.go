package config

import "time"

func (c *Config) featureOptions() []option {
	return []option{
		{name: "corrupt-check-time", group: groupFeatures, value: duration(&c.CorruptCheckTime),
			usage: "Time between comparisons of the replicas of each shard. 0: each once in ten minutes, with pauses by the time that it takes."},
		{name: "compact-hash-check-time", group: groupFeatures, value: duration(&c.CompactHashCheckTime),
			usage: "With the feature gate CompactHashCheck, the same as --corrupt-check-time: one comparison covers all history that is not compacted. The shorter of both counts."},
		{name: "compaction-batch-limit", group: groupFeatures, value: integer(new(1000)),
			without: "history is collected in the background, paced by time and bytes",
			usage:   "Maximum revisions deleted in each compaction batch."},
		{name: "compaction-sleep-interval", group: groupFeatures, value: duration(new(time.Duration)),
			without: "history is collected in the background, paced by time and bytes",
			usage:   "Pause between compaction batches."},
		{name: "watch-progress-notify-interval", group: groupFeatures, value: duration(&c.WatchProgressNotifyInterval),
			usage: "Period of progress notifications of quiet watches."},
		{name: "warning-apply-duration", group: groupFeatures, value: duration(new(100 * time.Millisecond)),
			without: "requests are applied in batches; see --warning-unary-request-duration",
			usage:   "Warn of requests whose apply takes longer."},
		{name: "bootstrap-defrag-threshold-megabytes", group: groupFeatures, value: unsigned(new(uint)),
			without: "there is nothing to defragment",
			usage:   "Defragment at start if that frees so many megabytes."},
		{name: "max-learners", group: groupFeatures, value: integer(&c.MaxLearners),
			usage: "Maximum number of learner members."},
		{name: "downgrade-check-time", group: groupFeatures, value: duration(new(5 * time.Second)),
			without: "kvd does not downgrade",
			usage:   "Time between checks of a downgrade."},
		{name: "snapshot-catchup-entries", group: groupFeatures, value: unsigned(&c.SnapshotCatchUpEntries),
			usage: "Number of raft entries of a shard that are kept for slow replicas when its log is cut."},

		{name: "force-new-cluster", group: groupUnsafe, value: boolean(&c.ForceNewCluster),
			usage: "Make a new cluster of this member alone, with the data that it has, once the other members are lost for good."},
		{name: "unsafe-no-fsync", group: groupUnsafe, value: boolean(&c.UnsafeNoFsync),
			usage: "Disable fsync. Unsafe, will cause data loss."},
	}
}

func (c *Config) kvdOptions() []option {
	return []option{
		{name: "read-mode", group: groupKvd, value: oneOf(&c.ReadMode, ReadModeLease, ReadModeQuorum),
			usage: "How linearizable reads are kept fresh. 'lease': by the sequencer's clock. 'quorum': by asking a majority for each batch, for machines whose clocks stop while they are paused."},
		{name: "initial-split-keys", group: groupKvd, value: keys(&c.InitialSplitKeys),
			usage: "Keys at which a new cluster's key space is cut into shards, separated by commas, escaped as in Go strings (\\x00, \\x2c for a comma). The same on all members."},
		{name: "block-cache-bytes", group: groupKvd, value: integer(&c.BlockCacheBytes),
			usage: "Size in bytes of the block cache that all shards of this member share."},
		{name: "memtable-bytes", group: groupKvd, value: integer(&c.MemtableBytes),
			usage: "Budget in bytes of the memtables of all shards of this member together."},
		{name: "disk-reserve-bytes", group: groupKvd, value: integer(&c.DiskReserveBytes),
			usage: "Room in bytes on the disk below which writes stop with the alarm NOSPACE until there is room again. 0 is 1 GiB or a twentieth of the disk, what is less; negative turns this off."},
	}
}
