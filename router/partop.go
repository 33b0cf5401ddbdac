package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// part sends a step of a transaction over several shards to the owner of the one
// shard that holds span. once: it must not be sent again where it may have been
// carried out.
func (r *Router) part(ctx context.Context, span keyspace.Span, m *kvdpb.PartRequest, once bool) (*kvdpb.PartReply, error) {
	res, err := r.one(ctx, &op{kind: opPart, part: m, span: span, write: once})
	if err != nil {
		return nil, err
	}
	return res.partReply()
}

func (res *result) partReply() (*kvdpb.PartReply, error) {
	if m, ok := res.msg.(*kvdpb.PartReply); ok {
		return m, nil
	}
	if res.body == nil {
		return nil, errFrame
	}
	m := &kvdpb.PartReply{}
	b := bytes.Clone(res.body.ReadOnlyData())
	res.body.Free()
	res.body = nil
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("decode the reply to a step of a transaction: %w", err)
	}
	return m, nil
}

// everyPart sends a step to the owners of all shards that hold a piece of span.
func (r *Router) everyPart(ctx context.Context, span keyspace.Span, m *kvdpb.PartRequest) error {
	parts, ok := r.routes.split(span)
	if !ok {
		return errNoRoute
	}
	for i := range parts {
		_, err := r.part(ctx, parts[i].span, m, false)
		if errors.Is(err, errSplit) {
			err = r.everyPart(ctx, parts[i].span, m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
