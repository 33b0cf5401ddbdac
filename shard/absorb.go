package shard

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
)

// AbsorbBegin makes the shard, on its owner, ready to take over its right neighbour,
// whose descriptor is the one that the merge was decided on.
func (r *Replica) AbsorbBegin(ctx context.Context, attempt, generation uint64, right *kvdpb.Descriptor) error {
	return r.proposeMerge(ctx, "begin to merge into", &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_AbsorbBegin{AbsorbBegin: &kvdpb.ShardAbsorbBegin{
		Attempt: attempt, Right: right.GetShard(), Start: right.GetStart(), End: right.GetEnd(), Generation: generation}}}, func(m MergeState) bool {
		return m.Absorbing == attempt
	})
}

// Discard ends an attempt to absorb the right neighbour, and drops the copy. The
// caller has seen that Unfreeze applied there.
func (r *Replica) Discard(ctx context.Context, attempt uint64) error {
	return r.proposeMerge(ctx, "give up the copy in", &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_AbsorbDiscard{
		AbsorbDiscard: &kvdpb.ShardAbsorbDiscard{Attempt: attempt}}}, func(m MergeState) bool { return m.Over >= attempt })
}

// absorption is an Absorb on its way through the pipeline.
type absorption struct {
	attempt  uint64
	launched bool
}

// Absorb makes the sealed copy of the right neighbour part of the shard, on its
// owner, and returns once that is applied. The caller knows that the neighbour has
// surrendered; spared says that nobody can serve its keys from a read lease.
//
// The entry takes its place in the pipeline like a Prepare: behind everything that
// has asked for a revision. It is sent while nothing is prepared and undecided, and
// from then on nobody asks, until it applied. New transactions over several shards
// wait meanwhile, before they latch anything here, so that its turn comes.
func (r *Replica) Absorb(ctx context.Context, attempt uint64, spared bool) error {
	t := r.tenure.Load()
	fail := func(err error) error { return fmt.Errorf("absorb into shard %d: %w", r.cfg.Shard, err) }
	if t == nil || !t.serves() {
		return fail(r.notOwner())
	}
	switch m := r.Merge(); {
	case m.Over >= attempt:
		return nil
	case m.Absorbing != attempt || !m.Sealed:
		return fail(&RejectedError{Rejection: NoSuchMerge})
	}
	if !spared && !r.probeOut(ctx, t, ownership.NewWaitOut(true)) {
		return fail(fmt.Errorf("wait for read leases to end: %w", errors.Join(r.notOwner(), ctx.Err())))
	}
	if t.served.Load().Overlaps(keyspace.Leases()) {
		// They go on in a new tenure, from what is left of them now. From here on there
		// is no way back into this one.
		if _, err := t.lessor.drain(ctx, 0); err != nil {
			t.end()
			return fail(err)
		}
	}
	if !t.pipeline.absorb(attempt) {
		return fail(r.notOwner())
	}
	for {
		changed := r.changes()
		switch {
		case r.Merge().Over >= attempt:
			return nil
		case t.over():
			return fail(r.notOwner())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			// Whatever is in the log or not, another tenure finds out.
			t.end()
			return fail(ctx.Err())
		}
	}
}

// absorb puts an Absorb in line; false if the tenure takes in nothing any more.
func (p *pipeline) absorb(attempt uint64) bool {
	p.mu.Lock()
	if p.mu.stopped {
		p.mu.Unlock()
		return false
	}
	if p.mu.absorb == nil {
		p.mu.absorb = &absorption{attempt: attempt}
	}
	p.mu.Unlock()
	p.kick()
	return true
}

// absorbsLocked tells whether it is an Absorb's turn.
func (p *pipeline) absorbsLocked() bool {
	return p.mu.absorb != nil && !p.mu.absorb.launched && len(p.mu.held) == 0
}

// launchAbsorb puts an Absorb in flight once its turn has come, as the next of the
// epoch's sequence. The queue is held for the rest of the tenure, which ends when it
// applies.
func (p *pipeline) launchAbsorb() *batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.stopped || !p.absorbsLocked() {
		return nil
	}
	cmd, err := proto.Marshal(&kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_Absorb{
		Absorb: &kvdpb.ShardAbsorb{Epoch: p.t.epoch, Seq: p.mu.nextSeq, Attempt: p.mu.absorb.attempt}}})
	if err != nil {
		// Marshalling a message without required fields does not fail.
		p.t.r.log.DPanic("a merge cannot be encoded")
		return nil
	}
	p.mu.absorb.launched = true
	p.mu.ticket++
	b := &batch{ticket: p.mu.ticket, seq: p.mu.nextSeq, absorbs: true, cmd: cmd}
	p.mu.held = append(p.mu.held, p.mu.ticket)
	p.mu.nextSeq++
	p.mu.inflight = append(p.mu.inflight, b)
	return b
}
