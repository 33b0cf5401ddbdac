package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// A merge is driven by the owners of both shards, each for its own log (package
// shard). What comes next follows from the phase in the descriptors, and from what
// this member's replicas of both have applied: so whoever owns one of them goes on
// where the last one stopped, and a step that is done twice changes nothing.

// mergeStep is the next step of a merge.
type mergeStep string

const (
	// mergeBegin: the left shard makes room for a copy.
	mergeBegin mergeStep = "begin"
	// mergeFreeze: the right shard stops serving.
	mergeFreeze mergeStep = "freeze"
	// mergeCopy: the left shard copies the right one.
	mergeCopy mergeStep = "copy"
	// mergeSurrender: the right shard gives its keys up.
	mergeSurrender mergeStep = "surrender"
	// mergeTellSurrendered: tell placement that it has.
	mergeTellSurrendered mergeStep = "tell surrendered"
	// mergeAbsorb: the left shard makes the copy its own.
	mergeAbsorb mergeStep = "absorb"
	// mergeTellDone: tell placement that it has.
	mergeTellDone mergeStep = "tell done"
	// mergeUnfreeze: the right shard serves again.
	mergeUnfreeze mergeStep = "unfreeze"
	// mergeDiscard: the left shard throws its copy away.
	mergeDiscard mergeStep = "discard"
	// mergeTellAborted: tell placement that all is as it was.
	mergeTellAborted mergeStep = "tell aborted"
)

// mergeView is what one member knows of a merge.
type mergeView struct {
	merge *kvdpb.Merge
	// ownsLeft and ownsRight: this member owns the shard, and its epoch is serving.
	ownsLeft, ownsRight bool
	// left and right are what its replicas have applied.
	left, right shard.MergeState
}

// decideMerge returns the next step that this member has to make, none if there is
// nothing to do, or to wait. What a replica that lags shows of the other shard may
// be old, never wrong.
func decideMerge(v mergeView) mergeStep {
	attempt := v.merge.Attempt
	surrendered := v.right.Frozen == attempt && v.right.Surrendered
	switch v.merge.Phase {
	case kvdpb.Merge_COPYING:
		switch {
		case surrendered:
			return mergeTellSurrendered
		case v.ownsLeft && v.left.Absorbing == 0 && v.left.Over < attempt && !v.left.Splitting:
			return mergeBegin
		case v.ownsRight && v.left.Absorbing == attempt && v.right.Frozen == 0 && v.right.Over < attempt && !v.right.Splitting:
			return mergeFreeze
		case v.ownsLeft && v.left.Absorbing == attempt && !v.left.Sealed && v.right.Frozen == attempt:
			return mergeCopy
		case v.ownsRight && v.left.Absorbing == attempt && v.left.Sealed && v.right.Frozen == attempt:
			return mergeSurrender
		}
	case kvdpb.Merge_ABORTING:
		switch {
		case surrendered:
			return mergeTellSurrendered
		case v.ownsRight && v.right.Over < attempt:
			return mergeUnfreeze
		case v.right.Over < attempt:
		case v.ownsLeft && v.left.Over < attempt:
			return mergeDiscard
		case v.left.Over >= attempt:
			return mergeTellAborted
		}
	case kvdpb.Merge_SURRENDERED:
		switch {
		case v.left.Over >= attempt:
			return mergeTellDone
		case v.ownsLeft && v.left.Absorbing == attempt && v.left.Sealed:
			return mergeAbsorb
		}
	}
	return ""
}

const (
	// mergeLimit bounds what a merge copies, in bytes: it goes through the log of the
	// left shard, and becomes part of it in one batch.
	mergeLimit = 64 << 20
	// mergePatience is how long a merge may take to freeze the right shard, and
	// frozenPatience how long that may stay frozen, before the merge is given up.
	mergePatience  = 30 * time.Second
	frozenPatience = 3 * time.Second
)

// mergeTime is since when this member has seen a merge under way, and frozen.
type mergeTime struct{ began, froze time.Time }

// merges lists the merges that this member has something to do with.
func (m *Manager) merges() []*kvdpb.Merge {
	var all []*kvdpb.Merge
	for _, d := range m.cfg.Placement.Shards() {
		if d.Merge != nil && d.Merge.Left == d.Shard {
			all = append(all, d.Merge)
		}
	}
	return all
}

// mergeAll begins the next step of each merge that this member has one of.
func (m *Manager) mergeAll() {
	all := m.merges()
	m.mu.Lock()
	maps.DeleteFunc(m.mu.merges, func(attempt uint64, _ mergeTime) bool {
		return !slices.ContainsFunc(all, func(g *kvdpb.Merge) bool { return g.Attempt == attempt })
	})
	m.mu.Unlock()
	for _, g := range all {
		if v := m.mergeView(g); v.ownsLeft || v.ownsRight {
			m.merge(g.Left)
		}
	}
}

// mergeView looks at a merge. Of a shard that has no running replica here nothing is
// known.
func (m *Manager) mergeView(g *kvdpb.Merge) mergeView {
	v := mergeView{merge: g}
	if left, ok := m.Replica(g.Left); ok {
		v.ownsLeft, v.left = left.Serving(), left.Merge()
	}
	if right, ok := m.Replica(g.Right); ok {
		v.ownsRight, v.right = right.Serving(), right.Merge()
	}
	return v
}

// merge makes steps of the merge into a shard, in the background, unless that is under
// way already.
func (m *Manager) merge(left uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed || m.mu.merging[left] {
		return
	}
	m.mu.merging[left] = true
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		for {
			changed := m.next()
			acted, err := m.mergeOnce(left)
			if err != nil && m.ctx.Err() == nil {
				m.log.Info("a step of a merge is tried again", zap.Uint64("shard", left), zap.Error(err))
				select {
				case <-m.ctx.Done():
				case <-time.After(mergeRetry(err)):
				}
			}
			m.mu.Lock()
			// Whoever woke the manager meanwhile has found this under way.
			if again := acted || err != nil || changed != (<-chan struct{})(m.mu.changed); !again || m.ctx.Err() != nil {
				delete(m.mu.merging, left)
				m.mu.Unlock()
				return
			}
			m.mu.Unlock()
		}
	}()
}

const (
	// mergePause is how long a step that failed is left alone, freezePause a freeze: each
	// try holds up the requests of the shard.
	mergePause  = 50 * time.Millisecond
	freezePause = 2 * time.Second
)

// mergeRetry is how long to leave a step alone that failed. A freeze that was given up
// held requests up in vain, whether the shard had stopped by then or not, and would
// again. One whose fate is not known is looked at soon: if it applied, the shard is
// frozen.
func mergeRetry(err error) time.Duration {
	if errors.Is(err, shard.ErrFreezeAborted) {
		return freezePause
	}
	return mergePause
}

// mergeOnce makes the next step of the merge into a shard.
func (m *Manager) mergeOnce(left uint64) (acted bool, err error) {
	g := m.described(left).GetMerge()
	if g == nil || g.Left != left {
		return false, nil
	}
	v := m.mergeView(g)
	if !v.ownsLeft && !v.ownsRight {
		return false, nil
	}
	patience := stepTimeout
	if g.Phase == kvdpb.Merge_COPYING {
		// The right shard may be frozen meanwhile, or become so.
		patience = frozenPatience
	}
	ctx, cancel := context.WithTimeout(m.ctx, patience)
	defer cancel()
	if reason := m.impatient(v, time.Now()); reason != "" {
		return true, m.abortMerge(ctx, g, reason)
	}
	step := decideMerge(v)
	if step == "" {
		return false, nil
	}
	err = m.mergeStep(ctx, g, step)
	if errors.Is(err, shard.ErrTooLargeToMerge) {
		return true, m.abortMerge(ctx, g, err.Error())
	}
	if err != nil {
		return false, fmt.Errorf("%s, to merge shard %d into shard %d: %w", step, g.Right, g.Left, err)
	}
	m.log.Info("made a step of a merge", zap.String("step", string(step)), zap.Uint64("left", g.Left), zap.Uint64("right", g.Right))
	// What was told to placement shows once this member has applied it.
	told := step == mergeTellSurrendered || step == mergeTellDone || step == mergeTellAborted
	return !told, nil
}

// impatient tells why a merge should be given up, if it should.
func (m *Manager) impatient(v mergeView, now time.Time) string {
	if v.merge.Phase != kvdpb.Merge_COPYING {
		return ""
	}
	frozen := v.right.Frozen == v.merge.Attempt
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.mu.merges[v.merge.Attempt]
	if t.began.IsZero() {
		t.began = now
	}
	if frozen && t.froze.IsZero() {
		t.froze = now
	}
	m.mu.merges[v.merge.Attempt] = t
	switch {
	case v.right.Surrendered:
	case frozen && now.Sub(t.froze) > frozenPatience:
		return fmt.Sprintf("shard %d was not copied within %v", v.merge.Right, frozenPatience)
	case !frozen && now.Sub(t.began) > mergePatience:
		return fmt.Sprintf("shard %d did not come to rest within %v", v.merge.Right, mergePatience)
	}
	return ""
}

func (m *Manager) abortMerge(ctx context.Context, g *kvdpb.Merge, reason string) error {
	m.log.Info("giving up a merge", zap.Uint64("left", g.Left), zap.Uint64("right", g.Right), zap.String("reason", reason))
	return m.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_AbortMerge{
		AbortMerge: &kvdpb.AbortMerge{Left: g.Left, Attempt: g.Attempt, Reason: reason}}})
}

// mergeStep carries out a step. Those that put something into a log fail on a member
// that does not own the shard any more.
func (m *Manager) mergeStep(ctx context.Context, g *kvdpb.Merge, step mergeStep) error {
	left, _ := m.Replica(g.Left)
	right, _ := m.Replica(g.Right)
	desc := m.described(g.Right)
	if desc == nil || left == nil && step != mergeTellSurrendered {
		return errors.New("a replica has gone")
	}
	switch step {
	case mergeTellDone:
		return m.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_MergeDone{
			MergeDone: &kvdpb.MergeDone{Left: g.Left, Attempt: g.Attempt}}})
	case mergeAbsorb:
		return left.Absorb(ctx, g.Attempt, g.Spared)
	case mergeDiscard:
		return left.Discard(ctx, g.Attempt)
	case mergeBegin:
		return left.AbsorbBegin(ctx, g.Attempt, g.Generation, desc)
	case mergeTellAborted:
		return m.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_MergeAborted{
			MergeAborted: &kvdpb.MergeAborted{Left: g.Left, Attempt: g.Attempt}}})
	}
	if right == nil {
		return errors.New("a replica has gone")
	}
	switch step {
	case mergeFreeze:
		size, err := right.MergeBytes()
		if err != nil {
			return err
		}
		if size > mergeLimit {
			return fmt.Errorf("shard %d: %w: it takes about %d MiB of the %d that a merge copies", g.Right, shard.ErrTooLargeToMerge, size>>20, mergeLimit>>20)
		}
		return right.Freeze(ctx, g.Attempt, g.Left, desc)
	case mergeCopy:
		return left.CopyFrom(ctx, right, g.Attempt, mergeLimit)
	case mergeSurrender:
		return right.Surrender(ctx, g.Attempt)
	case mergeTellSurrendered:
		return m.update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_MergeSurrendered{
			MergeSurrendered: &kvdpb.MergeSurrendered{Left: g.Left, Attempt: g.Attempt, Spared: right.Merge().Spared}}})
	case mergeUnfreeze:
		return right.Unfreeze(ctx, g.Attempt)
	}
	return fmt.Errorf("unknown step %q", step)
}
