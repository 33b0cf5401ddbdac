package balance

import (
	"fmt"
	"slices"
	"time"
)

const (
	// coldFor is how long two neighbours must be cold until they are merged, and coldWrites
	// the writes per second up to which a shard is.
	coldFor    = 10 * time.Minute
	coldWrites = 1.0
	// mergeShare is the part of the size at which a shard is split that a merged one may
	// have at most, so that it is not split again soon.
	mergeShare = 4
)

// noteCold keeps since when shards are cold.
func (b *Balancer) noteCold(o Observation) {
	cold := map[uint64]time.Duration{}
	for _, s := range o.Shards {
		if s.Owner == 0 || s.Writes > coldWrites {
			continue
		}
		since, ok := b.cold[s.ID]
		if !ok {
			since = o.Now
		}
		cold[s.ID] = since
	}
	b.cold = cold
}

// merge decides which neighbours are merged: small ones that have long been cold, from the
// left. A shard takes part in one merge at a time.
func (b *Balancer) merge(o Observation) (decisions []Decision) {
	if !o.Settings.MergeSmall {
		return nil
	}
	limit := min(o.Settings.MergeBytes, o.Settings.SplitBytes/mergeShare)
	for i := 0; i+1 < len(o.Shards) && len(b.merges) < o.Settings.MergesPerMin; i++ {
		left, right := o.Shards[i], o.Shards[i+1]
		if !b.coldLong(left, o.Now) || !b.coldLong(right, o.Now) || left.Bytes+right.Bytes > limit || !sameVoters(left, right) {
			continue
		}
		b.merges = append(b.merges, o.Now)
		b.rest[right.ID] = o.Now
		decisions = append(decisions, Decision{Kind: Merge, Shard: left.ID, Right: right.ID,
			Why: fmt.Sprintf("both are cold and take %d bytes, no more than %d", left.Bytes+right.Bytes, limit)})
		i++
	}
	return decisions
}

func (b *Balancer) coldLong(s Shard, now time.Duration) bool {
	since, cold := b.cold[s.ID]
	return cold && now-since >= coldFor && b.idle(s)
}

func sameVoters(a, b Shard) bool {
	if len(a.Voters) != len(b.Voters) {
		return false
	}
	for _, v := range a.Voters {
		if !slices.Contains(b.Voters, v) {
			return false
		}
	}
	return true
}
