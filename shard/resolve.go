package shard

import "context"

// Resolve tells up to which revision every write of the shard is applied, for
// the watch hubs. rev must have been allotted already; the answer's revision is
// at least that.
//
// The steps are those of a linearizable read (type read) of the whole span: R is
// asked for and its reading must be inside the read lease, so that no other
// owner had served by then. Then everything of this tenure that had asked for a
// revision by the time R came back must settle. After that every revision of
// the span up to R is applied at the answer's index, and none can appear later:
// this tenure's later ones are above R, as are those of any later owner. A
// deposed owner that resumes from a pause gets an R of today, which no lease of
// its own covers.
func (r *Replica) Resolve(ctx context.Context, rev int64) (Resolved, error) {
	t := r.tenure.Load()
	if t == nil || !t.serves() {
		return Resolved{}, r.notOwner()
	}
	if t.frozen.Load() {
		// Its left neighbour may write its keys by now.
		return Resolved{}, ErrSpanMoving
	}
	type answer struct {
		resolved Resolved
		err      error
	}
	answers := make(chan answer, 1)
	t.confirm(ctx, func(g Grant, err error) {
		if err == nil && g.First < rev {
			err = errNotAllotted
		}
		if err != nil {
			answers <- answer{err: err}
			return
		}
		t.pipeline.barrier(func(ok bool) {
			v := r.view.Load()
			span := *t.served.Load()
			applied := r.applied.Load()
			switch {
			case !ok || !t.serves():
				answers <- answer{err: r.notOwner()}
				return
			case t.frozen.Load():
				answers <- answer{err: ErrSpanMoving}
				return
			}
			answers <- answer{resolved: Resolved{
				Shard:      r.cfg.Shard,
				Generation: v.generation(),
				Span:       span,
				Applied:    applied,
				Revision:   g.First,
			}}
		})
	})
	select {
	case a := <-answers:
		return a.resolved, a.err
	case <-ctx.Done():
		return Resolved{}, ctx.Err()
	}
}
