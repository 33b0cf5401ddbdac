package manager

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

func replicas(members ...uint64) []*kvdpb.Replica {
	var rs []*kvdpb.Replica
	for i, m := range members {
		rs = append(rs, &kvdpb.Replica{Member: m, Replica: uint64(i + 1)})
	}
	return rs
}

func descriptor(shard, parent uint64, phase kvdpb.Descriptor_Phase, seeded ...uint64) *kvdpb.Descriptor {
	rs := replicas(10, 20, 30)
	return &kvdpb.Descriptor{Shard: shard, Parent: parent, Phase: phase, Replicas: rs, Initial: rs, Seeded: seeded}
}

func restored(shard uint64) *kvdpb.Descriptor {
	d := descriptor(shard, 0, live)
	d.Restored = true
	return d
}

const (
	live    = kvdpb.Descriptor_LIVE
	seeding = kvdpb.Descriptor_SEEDING
)

func TestDecide(t *testing.T) {
	owner := observed{running: true, hasSeed: true, hasLog: true, started: true, serving: true, epoch: 4}
	follower := observed{running: true, hasSeed: true, hasLog: true, started: true}
	pending := func(o observed) observed { o.pending = 3; return o }
	for _, c := range []struct {
		name   string
		shards []*kvdpb.Descriptor
		local  map[uint64]observed
		want   []action
	}{
		{
			name:   "a restored shard starts from what the restore left",
			shards: []*kvdpb.Descriptor{restored(2)},
			local:  map[uint64]observed{2: {hasSeed: true}},
			want:   []action{{kind: start, shard: 2, replica: 2, first: true}},
		}, {
			name:   "and never without it",
			shards: []*kvdpb.Descriptor{restored(2)},
			want:   []action{{kind: lost, shard: 2, replica: 2}},
		}, {
			name:   "a shard of the bootstrap starts with its initial list",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live)},
			want:   []action{{kind: start, shard: 2, replica: 2, first: true}},
		}, {
			name:   "a restart does not",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live)},
			local:  map[uint64]observed{2: {hasSeed: true, hasLog: true, started: true}},
			want:   []action{{kind: start, shard: 2, replica: 2}},
		}, {
			name:   "a crash between the first start and its mark is a restart",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live)},
			local:  map[uint64]observed{2: {hasSeed: true, hasLog: true}},
			want:   []action{{kind: start, shard: 2, replica: 2}},
		}, {
			name:   "a replica that lost its log may have voted: it stays down",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live)},
			local:  map[uint64]observed{2: {hasSeed: true, started: true}},
			want:   []action{{kind: lost, shard: 2, replica: 2}},
		}, {
			name:   "a replica that lost its store stays down too",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live)},
			local:  map[uint64]observed{2: {hasLog: true}},
			want:   []action{{kind: lost, shard: 2, replica: 2}},
		}, {
			name:   "nothing begins beside a step",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live)},
			local:  map[uint64]observed{2: {busy: true}},
		}, {
			name:   "a removed replica stays away",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live)},
			local:  map[uint64]observed{2: {removed: true}},
		}, {
			name:   "no seed before the parent shows the split",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, seeding)},
			local:  map[uint64]observed{2: follower},
		}, {
			name:   "the seed comes from the frozen span",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, seeding)},
			local:  map[uint64]observed{2: pending(follower)},
			want:   []action{{kind: seed, shard: 3, replica: 2}},
		}, {
			name:   "a seed that survived a crash is confirmed",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, seeding)},
			local:  map[uint64]observed{2: pending(follower), 3: {hasSeed: true}},
			want:   []action{{kind: confirm, shard: 3, replica: 2}},
		}, {
			name:   "a confirmed seed waits for the majority",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, seeding, 20)},
			local:  map[uint64]observed{2: pending(follower), 3: {hasSeed: true}},
		}, {
			name:   "a late seed is made after the child went live, as long as the parent has the span",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, live, 10, 30)},
			local:  map[uint64]observed{2: pending(follower)},
			want:   []action{{kind: seed, shard: 3, replica: 2}},
		}, {
			name:   "a live child starts from its seed",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, live, 10, 20)},
			local:  map[uint64]observed{2: pending(follower), 3: {hasSeed: true}},
			want:   []action{{kind: start, shard: 3, replica: 2, first: true}},
		}, {
			name:   "the parent owner's member leads the child",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, live, 10, 20)},
			local:  map[uint64]observed{2: pending(owner), 3: {hasSeed: true}},
			want:   []action{{kind: start, shard: 3, replica: 2, first: true, campaign: true}},
		}, {
			name:   "a rewound parent does not bring back a child that was started",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, live, 10, 20, 30)},
			local:  map[uint64]observed{2: pending(follower), 3: {started: true}},
			want:   []action{{kind: lost, shard: 3, replica: 2}},
		}, {
			name:   "the frozen span stays until every replica of the child holds the data",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, live, 10, 20)},
			local:  map[uint64]observed{2: pending(owner), 3: follower},
		}, {
			name:   "then it is dropped",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, live, 10, 20, 30)},
			local:  map[uint64]observed{2: pending(owner), 3: follower},
			want:   []action{{kind: done, shard: 2, child: 3}},
		}, {
			name:   "only the owner drops it",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, live, 10, 20, 30)},
			local:  map[uint64]observed{2: pending(follower), 3: follower},
		}, {
			name:   "a child that an earlier owner reserved is aborted",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, seeding)},
			local:  map[uint64]observed{2: owner},
			want:   []action{{kind: abort, shard: 2, child: 3}},
		}, {
			name:   "a child that this owner is splitting off is not",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, seeding)},
			local: map[uint64]observed{2: func() observed {
				o := owner
				o.proposed, o.proposedIn = 3, 4
				return o
			}()},
		}, {
			name:   "a running replica whose confirmation was lost confirms again",
			shards: []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, live, 10, 30)},
			local:  map[uint64]observed{2: pending(follower), 3: follower},
			want:   []action{{kind: confirm, shard: 3, replica: 2}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			actions := decide(view{member: 20, shards: c.shards, local: c.local})
			require.Equal(t, c.want, actions)
			// The second look, at one shard, decides the same for it.
			for _, d := range append(c.shards, descriptor(9, 8, live)) {
				of := func(all []action) []action {
					return slices.DeleteFunc(slices.Clone(all), func(a action) bool { return a.shard != d.Shard })
				}
				some := decide(view{member: 20, shards: related(c.shards, d.Shard), local: c.local})
				require.ElementsMatch(t, of(actions), of(some))
			}
		})
	}
}

func TestRelated(t *testing.T) {
	// 2 is split into 3 and 4, 3 into 5.
	all := []*kvdpb.Descriptor{descriptor(2, 0, live), descriptor(3, 2, live), descriptor(4, 2, live), descriptor(5, 3, live), descriptor(6, 0, live)}
	ids := func(shard uint64) (ids []uint64) {
		for _, d := range related(all, shard) {
			ids = append(ids, d.Shard)
		}
		return ids
	}
	require.ElementsMatch(t, []uint64{2, 3, 4}, ids(2))
	require.ElementsMatch(t, []uint64{3, 5, 2}, ids(3))
	require.ElementsMatch(t, []uint64{5, 3}, ids(5))
	require.Equal(t, []uint64{6}, ids(6))
	require.Empty(t, ids(7))
}
