package router

import (
	"context"
	"fmt"
	"io"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/router/wire"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// chunkBytes is about how much of a stream is in memory at a time.
const chunkBytes = 512 << 10

// scanSpec is what to read of one shard, and what its owner confirmed.
type scanSpec struct {
	shard               uint64
	span                keyspace.Span
	at                  int64
	generation, applied uint64
	limit               int64
	keysOnly, desc      bool
}

// chunks reads a scanSpec piece by piece.
type chunks interface {
	// next returns the next keys in order, with user keys, or io.EOF. The values
	// are the caller's.
	next(ctx context.Context) ([]*mvccpb.KeyValue, error)
	close()
}

// localChunks reads a replica of this member. Between two chunks it holds
// nothing open, so that a slow reader pins no snapshot; each chunk is checked
// anew.
type localChunks struct {
	rep  Replica
	spec scanSpec
	done bool
}

func (c *localChunks) next(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	if c.done {
		return nil, io.EOF
	}
	view, err := c.rep.View(ctx, c.spec.generation, c.spec.applied, c.spec.at)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	if !view.Span().ContainsSpan(c.spec.span) {
		return nil, ErrStaleView
	}
	opts := mvcc.RangeOptions{Rev: c.spec.at, Limit: c.spec.limit, KeysOnly: c.spec.keysOnly, Desc: c.spec.desc}
	var kvs []*mvccpb.KeyValue
	size, full := 0, false
	err = view.Range(ctx, c.spec.span, opts, func(kv *mvccpb.KeyValue) bool {
		key, ok := keyspace.UserKey(kv.Key)
		if !ok {
			return true
		}
		size += len(kv.Key) + len(kv.Value) + 32
		full = size >= chunkBytes
		encoded := kv.Key
		kv.Key = key
		kvs = append(kvs, kv)
		if full {
			c.advance(encoded)
		}
		return !full
	})
	if err != nil {
		return nil, err
	}
	if c.spec.limit > 0 {
		c.spec.limit -= int64(len(kvs))
		full = full && c.spec.limit > 0
	}
	c.done = !full
	if len(kvs) == 0 {
		return nil, io.EOF
	}
	return kvs, nil
}

// advance makes the rest of the span begin behind key.
func (c *localChunks) advance(key []byte) {
	if c.spec.desc {
		c.spec.span.End = key
		return
	}
	c.spec.span.Start = keyspace.Key(key).End
}

func (c *localChunks) close() {}

// remoteChunks reads a replica of another member over the bulk connection.
type remoteChunks struct {
	stream interface {
		Recv() (*kvdpb.ScanChunk, error)
	}
	cancel context.CancelFunc
}

func (r *Router) remoteChunks(ctx context.Context, member uint64, s scanSpec) (chunks, error) {
	conn, err := r.cfg.Mesh.Conn(member)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := kvdpb.NewShardsClient(conn).Scan(ctx, &kvdpb.ScanRequest{
		Shard: s.shard, Start: s.span.Start, End: s.span.End, Revision: s.at,
		Generation: s.generation, Applied: s.applied, Limit: s.limit, KeysOnly: s.keysOnly, Descending: s.desc,
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("scan of shard %d at member %016x: %w", s.shard, member, err)
	}
	return &remoteChunks{stream: stream, cancel: cancel}, nil
}

func (c *remoteChunks) next(context.Context) ([]*mvccpb.KeyValue, error) {
	chunk, err := c.stream.Recv()
	if err != nil {
		return nil, err
	}
	m := &pb.RangeResponse{}
	if err := wire.Unmarshal(chunk.Kvs, m); err != nil {
		return nil, err
	}
	return m.Kvs, nil
}

func (c *remoteChunks) close() { c.cancel() }

// open has the owner of the shard that holds the beginning (the end, if
// descending) of spec.span confirm the revision, and returns the chunks of
// that shard's part of the span.
func (r *Router) open(ctx context.Context, spec scanSpec, p readPoint) (chunks, keyspace.Span, error) {
	parts, ok := r.routes.split(spec.span)
	if !ok {
		return nil, keyspace.Span{}, errNoRoute
	}
	at := parts[0]
	if spec.desc {
		at = parts[len(parts)-1]
	}
	confirm := op{kind: opRange, rng: subRange(&pb.RangeRequest{}, at.span), span: at.span, confirm: true, readRev: p.at, stamp: p.stamp}
	res, err := r.one(ctx, &confirm)
	if err != nil {
		return nil, at.span, err
	}
	freeBody(res.body)
	d := r.routes.lookup(at.span.Start)
	if d == nil {
		return nil, at.span, errNoRoute
	}
	spec.shard, spec.span, spec.at = d.Shard, at.span, p.at
	spec.generation, spec.applied = res.generation, res.applied
	rep, member, err := r.target(d, 0)
	if local, ok := r.cfg.Replicas.Replica(d.Shard); ok && rep == nil && !r.cfg.Fenced(d.Shard) {
		wait, cancel := context.WithTimeout(ctx, copyWait)
		view, err := local.View(wait, spec.generation, spec.applied, spec.at)
		cancel()
		if err == nil {
			view.Close()
			rep = local
		}
	}
	switch {
	case rep != nil:
		return &localChunks{rep: rep, spec: spec}, at.span, nil
	case err != nil:
		return nil, at.span, err
	}
	c, err := r.remoteChunks(ctx, member, spec)
	return c, at.span, err
}
