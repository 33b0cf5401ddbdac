package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// chunkBytes bounds a chunk, unless a single version is larger.
const chunkBytes = 512 << 10

// ErrTooLargeToMerge says that a shard holds more than goes through a log.
var ErrTooLargeToMerge = errors.New("the shard is too large to be merged")

// CopyFrom copies the frozen right neighbour, of which right is this member's
// replica, into the shard, on its owner: all of its history and leases, but for what
// its compaction revision has made unreadable. It fails with ErrTooLargeToMerge where
// that is more than limit bytes.
func (r *Replica) CopyFrom(ctx context.Context, right *Replica, attempt uint64, limit int64) error {
	a := r.view.Load().absorbing
	if a.GetBegin().GetAttempt() != attempt {
		return fmt.Errorf("copy into shard %d: %w", r.cfg.Shard, &RejectedError{Rejection: NoSuchMerge})
	}
	if a.GetSeal() != nil {
		return nil
	}
	c := &copier{r: r, limit: limit, chunk: &kvdpb.ShardAbsorbChunk{Attempt: attempt, Copy: a.GetCopy() + 1}}
	if err := c.copy(ctx, right); err != nil {
		return fmt.Errorf("copy shard %d into shard %d: %w", right.cfg.Shard, r.cfg.Shard, err)
	}
	return nil
}

// copier sends a copy, chunk by chunk.
type copier struct {
	r     *Replica
	limit int64
	sent  int64
	chunk *kvdpb.ShardAbsorbChunk
	size  int
	last  []byte
}

func (c *copier) copy(ctx context.Context, right *Replica) error {
	store := right.store.Load()
	if store == nil {
		return ErrClosed
	}
	v := right.view.Load()
	if v.frozen.GetAttempt() != c.chunk.Attempt {
		return &RejectedError{Rejection: NoSuchMerge}
	}
	begin := c.r.view.Load().absorbing.GetBegin()
	if !v.span.Equal(keyspace.Span{Start: begin.GetStart(), End: begin.GetEnd()}) {
		return &RejectedError{Rejection: BadMerge}
	}
	// Freeze is applied, so the snapshot holds all that the shard ever will.
	sn := store.NewSnapshot()
	defer sn.Close()
	if err := sn.Err(); err != nil {
		return err
	}
	progress, err := sn.GetLocal(progressRecord)
	if err != nil {
		return err
	}
	var s state
	if err := s.load(nil, progress); err != nil {
		return err
	}
	seal := &kvdpb.AbsorbSeal{Revision: max(s.lastRevision, sn.LastRevision()), CompactRevision: sn.CompactRevision()}
	err = sn.Versions(ctx, v.span, seal.CompactRevision, max(seal.Revision, seal.CompactRevision), func(version *mvcc.Version) error {
		return c.version(ctx, version)
	})
	if err != nil {
		return err
	}
	err = scanLeases(sn, v.span, func(_, record []byte) error {
		l := &kvdpb.LeaseRecord{}
		if err := proto.Unmarshal(record, l); err != nil {
			return fmt.Errorf("decode lease: %w", err)
		}
		if err := c.room(ctx, len(record)); err != nil {
			return err
		}
		c.chunk.Leases = append(c.chunk.Leases, l)
		return nil
	})
	if err != nil {
		return err
	}
	c.chunk.Seal = seal
	return c.send(ctx)
}

func (c *copier) version(ctx context.Context, v *mvcc.Version) error {
	if err := c.room(ctx, len(v.Key)+len(v.Value)+versionOverhead); err != nil {
		return err
	}
	c.chunk.Versions = append(c.chunk.Versions, &kvdpb.AbsorbedVersion{
		Key: bytes.Clone(v.Key), Value: bytes.Clone(v.Value), Revision: v.Revision, Sub: v.Sub,
		Create: v.Create, Version: v.Version, Lease: v.Lease, Tombstone: v.Tombstone,
		Newest: !bytes.Equal(v.Key, c.last),
	})
	c.last = append(c.last[:0], v.Key...)
	return nil
}

// versionOverhead is what a version takes beside key and value, in bytes.
const versionOverhead = 32

// room counts what is about to be added to the chunk. A chunk that would get too large
// by it is sent before: what fits into a command alone may not with others.
func (c *copier) room(ctx context.Context, size int) error {
	c.sent += int64(size)
	if c.sent > c.limit {
		return fmt.Errorf("%w: it holds more than %d bytes with its history", ErrTooLargeToMerge, c.limit)
	}
	if c.size > 0 && c.size+size > chunkBytes {
		if err := c.send(ctx); err != nil {
			return err
		}
	}
	c.size += size
	return nil
}

// send proposes the chunk until it applied, and begins the next one. Another copy
// that was begun meanwhile ends this one.
func (c *copier) send(ctx context.Context) error {
	cmd := &kvdpb.ShardCommand{Command: &kvdpb.ShardCommand_AbsorbChunk{AbsorbChunk: c.chunk}}
	for {
		err := c.r.propose(ctx, cmd)
		var rejected *RejectedError
		switch {
		case err == nil || c.applied():
			c.chunk = &kvdpb.ShardAbsorbChunk{Attempt: c.chunk.Attempt, Copy: c.chunk.Copy, Index: c.chunk.Index + 1}
			c.size = 0
			return nil
		case errors.As(err, &rejected), ctx.Err() != nil:
			return err
		}
		if !c.r.Serving() {
			return c.r.notOwner()
		}
		pause(ctx, driveRetryFirst)
	}
}

// applied tells whether the chunk is part of the copy.
func (c *copier) applied() bool {
	a := c.r.view.Load().absorbing
	return a.GetBegin().GetAttempt() == c.chunk.Attempt && a.GetCopy() == c.chunk.Copy && a.GetNext() > c.chunk.Index
}

// MergeBytes estimates what a merge would have to copy.
func (r *Replica) MergeBytes() (int64, error) {
	store, v := r.store.Load(), r.view.Load()
	if store == nil {
		return 0, ErrClosed
	}
	n, err := store.SpanBytes(v.span)
	if err != nil {
		return 0, fmt.Errorf("shard %d: %w", r.cfg.Shard, err)
	}
	return n, nil
}
