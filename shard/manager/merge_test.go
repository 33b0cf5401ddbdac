package manager

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

func TestDecideMerge(t *testing.T) {
	const (
		copying     = kvdpb.Merge_COPYING
		aborting    = kvdpb.Merge_ABORTING
		surrendered = kvdpb.Merge_SURRENDERED
	)
	for _, c := range []struct {
		name        string
		phase       kvdpb.Merge_Phase
		owns        string // l, r or both
		left, right shard.MergeState
		want        mergeStep
	}{
		{name: "the left owner begins", phase: copying, owns: "l", want: mergeBegin},
		{name: "not while it splits", phase: copying, owns: "l", left: shard.MergeState{Splitting: true}},
		{name: "the right one waits for that", phase: copying, owns: "r"},
		{name: "then it freezes", phase: copying, owns: "lr", left: shard.MergeState{Absorbing: 7}, want: mergeFreeze},
		{name: "not while it splits either", phase: copying, owns: "r", left: shard.MergeState{Absorbing: 7}, right: shard.MergeState{Splitting: true}},
		{name: "nor for another attempt", phase: copying, owns: "lr", left: shard.MergeState{Absorbing: 6}},
		{name: "the left owner copies what is frozen", phase: copying, owns: "l", left: shard.MergeState{Absorbing: 7}, right: shard.MergeState{Frozen: 7}, want: mergeCopy},
		{name: "the right one waits for the seal", phase: copying, owns: "r", left: shard.MergeState{Absorbing: 7}, right: shard.MergeState{Frozen: 7}},
		{name: "then it surrenders", phase: copying, owns: "lr", left: shard.MergeState{Absorbing: 7, Sealed: true}, right: shard.MergeState{Frozen: 7}, want: mergeSurrender},
		{name: "which either tells", phase: copying, owns: "l", left: shard.MergeState{Absorbing: 7, Sealed: true},
			right: shard.MergeState{Frozen: 7, Surrendered: true}, want: mergeTellSurrendered},
		{name: "also who was to give up", phase: aborting, owns: "r", right: shard.MergeState{Frozen: 7, Surrendered: true}, want: mergeTellSurrendered},
		{name: "the left owner absorbs", phase: surrendered, owns: "l", left: shard.MergeState{Absorbing: 7, Sealed: true},
			right: shard.MergeState{Frozen: 7, Surrendered: true}, want: mergeAbsorb},
		{name: "whatever it knows of the right one", phase: surrendered, owns: "l", left: shard.MergeState{Absorbing: 7, Sealed: true}, want: mergeAbsorb},
		{name: "the right one has nothing left to do", phase: surrendered, owns: "r", left: shard.MergeState{Absorbing: 7, Sealed: true}},
		{name: "then it is told", phase: surrendered, owns: "r", left: shard.MergeState{Over: 7}, want: mergeTellDone},
		{name: "to give up, the right one is thawed first", phase: aborting, owns: "lr", left: shard.MergeState{Absorbing: 7, Sealed: true},
			right: shard.MergeState{Frozen: 7}, want: mergeUnfreeze},
		{name: "also where it was never frozen", phase: aborting, owns: "r", want: mergeUnfreeze},
		{name: "the copy is kept until that is seen", phase: aborting, owns: "l", left: shard.MergeState{Absorbing: 7, Sealed: true}},
		{name: "then it is thrown away", phase: aborting, owns: "l", left: shard.MergeState{Absorbing: 7}, right: shard.MergeState{Over: 7}, want: mergeDiscard},
		{name: "and told", phase: aborting, owns: "r", left: shard.MergeState{Over: 7}, right: shard.MergeState{Over: 7}, want: mergeTellAborted},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := mergeView{merge: &kvdpb.Merge{Attempt: 7, Left: 2, Right: 3, Phase: c.phase}, left: c.left, right: c.right}
			for _, side := range c.owns {
				v.ownsLeft = v.ownsLeft || side == 'l'
				v.ownsRight = v.ownsRight || side == 'r'
			}
			require.Equal(t, c.want, decideMerge(v))
		})
	}
}

func TestMergeRetry(t *testing.T) {
	require.Equal(t, freezePause, mergeRetry(fmt.Errorf("freeze: %w: %w", shard.ErrFreezeAborted, context.DeadlineExceeded)))
	require.Equal(t, mergePause, mergeRetry(fmt.Errorf("freeze: %w", context.DeadlineExceeded)))
}
