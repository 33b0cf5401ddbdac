package router

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/router/wire"
	"github.com/kvd-io/kvd/shard"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Register registers the service that other members' routers use on the peer
// port.
func (r *Router) Register(s grpc.ServiceRegistrar) {
	kvdpb.RegisterShardsServer(s, &bulkServer{r: r})
	kvdpb.RegisterLeasesServer(s, &leaseServer{r: r})
}

// bulkServer serves the bulk calls of other members.
type bulkServer struct {
	kvdpb.UnimplementedShardsServer
	r *Router
}

// Scan implements kvdpb.ShardsServer.
func (b *bulkServer) Scan(req *kvdpb.ScanRequest, stream grpc.ServerStreamingServer[kvdpb.ScanChunk]) error {
	span := keyspace.Span{Start: req.Start, End: req.End}
	if span.Empty() || !keyspace.Users().ContainsSpan(span) || req.Revision <= 0 || req.Limit < 0 {
		return status.Error(codes.InvalidArgument, "kvd: scan of no span of user keys at a revision")
	}
	rep, ok := b.r.cfg.Replicas.Replica(req.Shard)
	if !ok {
		return status.Error(codes.Aborted, errNoReplica.Error())
	}
	src := &localChunks{rep: rep, spec: scanSpec{
		shard: req.Shard, span: span, at: req.Revision, generation: req.Generation, applied: req.Applied,
		limit: req.Limit, keysOnly: req.KeysOnly, desc: req.Descending,
	}}
	for {
		kvs, err := src.next(stream.Context())
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, ErrStaleView):
			return status.Error(codes.Aborted, err.Error())
		case err != nil:
			return clientError(err)
		}
		m := &pb.RangeResponse{Kvs: kvs}
		size, _ := wire.SizeBody(m)
		body, _ := wire.AppendBody(make([]byte, 0, size), m)
		if err := stream.Send(&kvdpb.ScanChunk{Kvs: body}); err != nil {
			return err
		}
	}
}

// Hash implements kvdpb.ShardsServer.
func (b *bulkServer) Hash(ctx context.Context, req *kvdpb.HashRequest) (*kvdpb.HashResponse, error) {
	if req.Revision <= 0 {
		return nil, status.Error(codes.InvalidArgument, "kvd: hash at no revision")
	}
	rep, ok := b.r.cfg.Replicas.Replica(req.Shard)
	if !ok {
		return nil, status.Error(codes.Aborted, errNoReplica.Error())
	}
	sum, err := hashReplica(ctx, rep, shard.Resolved{Shard: req.Shard, Generation: req.Generation, Applied: req.Applied}, req.Revision)
	switch {
	case errors.Is(err, ErrStaleView):
		return nil, status.Error(codes.Aborted, err.Error())
	case err != nil:
		return nil, clientError(err)
	}
	return &kvdpb.HashResponse{Sum: sum}, nil
}

// Describe implements kvdpb.ShardsServer.
func (b *bulkServer) Describe(_ context.Context, req *kvdpb.DescribeRequest) (*kvdpb.DescribeResponse, error) {
	if len(req.Shards) > maxResolve {
		return nil, status.Errorf(codes.InvalidArgument, "kvd: %d shards in one question", len(req.Shards))
	}
	resp := &kvdpb.DescribeResponse{}
	for _, id := range req.Shards {
		if rep, ok := b.r.cfg.Replicas.Replica(id); ok {
			resp.Replicas = append(resp.Replicas, rep.Status())
		}
	}
	return resp, nil
}

// Split implements kvdpb.ShardsServer.
func (b *bulkServer) Split(ctx context.Context, req *kvdpb.SplitRequest) (*kvdpb.SplitResponse, error) {
	if !keyspace.Valid(req.Key) || bytes.Equal(req.Key, keyspace.Min()) {
		return nil, status.Error(codes.InvalidArgument, "kvd: no key to split at")
	}
	left, right, err := b.r.cfg.Replicas.Split(ctx, req.Key)
	if err != nil {
		if judge(err) != final {
			return nil, status.Error(codes.Aborted, err.Error())
		}
		return nil, clientError(err)
	}
	return &kvdpb.SplitResponse{Left: left, Right: right}, nil
}

// CancelSplits implements kvdpb.ShardsServer.
func (b *bulkServer) CancelSplits(_ context.Context, req *kvdpb.CancelSplitsRequest) (*kvdpb.CancelSplitsResponse, error) {
	return &kvdpb.CancelSplitsResponse{Keys: b.r.cfg.Replicas.CancelSplits(req.Shard)}, nil
}
