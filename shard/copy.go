package shard

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// ErrStaleCopy says that this replica's copy cannot stand in for the owner:
// its generation is another one, or it no longer has the history asked for.
var ErrStaleCopy = errors.New("the replica's copy cannot vouch for the read")

// Copy is this replica's state at one instant, owner or not. It is a snapshot: to
// be closed soon, and used by one goroutine at a time.
type Copy struct {
	sn       *mvcc.Snapshot
	view     *view
	revision int64
}

// maxCopyAttempts bounds how often Copy tries to catch a moment between two
// changes of the descriptor, which are rare.
const maxCopyAttempts = 8

// Copy opens the replica's copy for reading at revision rev, zero meaning the
// copy's own revision, once it has applied raft index applied. It fails with
// ErrStaleCopy if in the very snapshot that it opens the generation is not the
// given one (zero: any) or what rev needs has been compacted.
//
// What the owner confirmed (Request.Confirm) as revision, applied index and
// generation makes a linearizable read of it.
func (r *Replica) Copy(ctx context.Context, generation, applied uint64, rev int64) (*Copy, error) {
	if r.store.Load() == nil {
		return nil, ErrClosed
	}
	if err := r.waitApplied(ctx, applied); err != nil {
		return nil, fmt.Errorf("shard %d: wait for index %d: %w", r.cfg.Shard, applied, err)
	}
	for range maxCopyAttempts {
		c, err := r.copyNow(ctx)
		if err != nil {
			return nil, err
		}
		if c == nil {
			continue
		}
		if err := c.vouch(generation, rev); err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	}
	return nil, ErrStaleCopy
}

// copyNow takes a snapshot and finds the descriptor that it belongs to; nil if
// that changed meanwhile.
func (r *Replica) copyNow(ctx context.Context) (c *Copy, err error) {
	sn := r.store.Load().NewSnapshot()
	defer func() {
		if c == nil {
			sn.Close()
		}
	}()
	if err := sn.Err(); err != nil {
		return nil, fmt.Errorf("shard %d: snapshot: %w", r.cfg.Shard, err)
	}
	// What the snapshot contains may have been committed and not yet published.
	if err := r.waitApplied(ctx, sn.AppliedIndex()); err != nil {
		return nil, err
	}
	v := r.view.Load()
	if v.index > sn.AppliedIndex() {
		return nil, nil
	}
	if v.desc == nil {
		return nil, ErrStaleCopy
	}
	progress, err := sn.GetLocal(progressRecord)
	if err != nil {
		return nil, fmt.Errorf("shard %d: read progress: %w", r.cfg.Shard, err)
	}
	var s state
	if err := s.load(nil, progress); err != nil {
		return nil, fmt.Errorf("shard %d: %w", r.cfg.Shard, err)
	}
	return &Copy{sn: sn, view: v, revision: s.lastRevision}, nil
}

func (c *Copy) vouch(generation uint64, rev int64) error {
	switch {
	case generation != 0 && generation != c.Generation():
		return fmt.Errorf("%w: generation %d, not %d", ErrStaleCopy, c.Generation(), generation)
	case rev > 0 && rev < c.CompactRevision():
		return fmt.Errorf("%w: compacted at %d", ErrStaleCopy, c.CompactRevision())
	}
	return nil
}

// Revision returns the largest revision that is applied in the copy: it is
// exactly the shard's state at that revision.
func (c *Copy) Revision() int64 { return c.revision }

// CompactRevision returns the compaction revision as the copy knows it.
func (c *Copy) CompactRevision() int64 { return c.sn.CompactRevision() }

// Applied returns the raft index that the copy contains.
func (c *Copy) Applied() uint64 { return c.sn.AppliedIndex() }

// Generation returns that of the copy's descriptor.
func (c *Copy) Generation() uint64 { return c.view.generation() }

// Span returns the keys that the shard holds in the copy.
func (c *Copy) Span() keyspace.Span { return c.view.span }

// Close ends the copy.
func (c *Copy) Close() { c.sn.Close() }

// Head, Get, Range, Hash, StateHash and Count read the copy; see mvcc.Snapshot. Keys outside of
// Span must not be asked for.

func (c *Copy) Head(key []byte) (mvcc.Head, error) { return c.sn.Head(key) }

func (c *Copy) Get(key []byte, rev int64) (*mvccpb.KeyValue, error) { return c.sn.Get(key, rev) }

func (c *Copy) Range(ctx context.Context, span keyspace.Span, o mvcc.RangeOptions, fn func(*mvccpb.KeyValue) bool) error {
	return c.sn.Range(ctx, span, o, fn)
}

func (c *Copy) Hash(ctx context.Context, span keyspace.Span, rev int64) (uint32, error) {
	return c.sn.Hash(ctx, span, rev)
}

func (c *Copy) StateHash(ctx context.Context, span keyspace.Span, rev int64) (uint32, error) {
	return c.sn.StateHash(ctx, span, rev)
}

func (c *Copy) Count(ctx context.Context, span keyspace.Span, rev int64) (int64, error) {
	return c.sn.Count(ctx, span, rev)
}
