package backup

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

const (
	// chunkBytes is about how much one message carries.
	chunkBytes = 256 << 10
	// chunkLeases is how many leases one message carries.
	chunkLeases = 4096
	// maxServed bounds the replicas that other members hold pinned here.
	maxServed = 4096
)

// Register registers the service by which other members read the replicas here.
// It belongs on the peer port.
func (s *Saver) Register(r grpc.ServiceRegistrar) {
	kvdpb.RegisterBackupServer(r, &rowServer{saver: s, slots: make(chan struct{}, maxServed)})
}

type rowServer struct {
	kvdpb.UnimplementedBackupServer
	saver *Saver
	slots chan struct{}
}

// Rows implements kvdpb.BackupServer.
func (r *rowServer) Rows(req *kvdpb.RowsRequest, stream grpc.ServerStreamingServer[kvdpb.RowsChunk]) error {
	if req.Revision < 1 || (len(req.Start) > 0 && !keyspace.Valid(req.Start)) {
		return status.Error(codes.InvalidArgument, "kvd: rows of no revision")
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	default:
		return status.Error(codes.ResourceExhausted, "kvd: too many snapshots are being saved")
	}
	ctx := stream.Context()
	src, err := r.saver.openLocal(ctx, want{shard: req.Shard, generation: req.Generation, applied: req.Applied, revision: req.Revision})
	if err != nil {
		return status.Error(codes.Aborted, fmt.Sprintf("kvd: %v", err))
	}
	defer src.close()
	span := src.span()
	if err := stream.Send(&kvdpb.RowsChunk{Start: span.Start, End: span.End, CompactRevision: src.compacted()}); err != nil {
		return err
	}
	return sendAll(ctx, src, req.Start, stream.Send)
}

// sendAll sends all of a source, in chunks.
func sendAll(ctx context.Context, src source, start []byte, send func(*kvdpb.RowsChunk) error) error {
	var buf []byte
	var leases []*kvdpb.LeaseRecord
	flush := func() error {
		if len(buf)+len(leases) == 0 {
			return nil
		}
		err := send(&kvdpb.RowsChunk{Leases: leases, Rows: buf})
		// gRPC may still hold what was sent.
		buf, leases = make([]byte, 0, chunkBytes+chunkBytes/4), nil
		return err
	}
	err := src.read(ctx, start, src.compacted(), &sink{
		lease: func(l *kvdpb.LeaseRecord) error {
			leases = append(leases, &kvdpb.LeaseRecord{Id: l.GetId(), Ttl: l.GetTtl(), Revoking: l.GetRevoking()})
			if len(leases) < chunkLeases {
				return nil
			}
			return flush()
		},
		row: func(it *item) error {
			buf = appendItem(buf, it)
			if len(buf) < chunkBytes {
				return nil
			}
			return flush()
		},
	})
	if err == nil {
		err = flush()
	}
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.Is(err, mvcc.ErrCorrupt):
		return status.Error(codes.DataLoss, fmt.Sprintf("kvd: %v", err))
	case errors.Is(err, errSourceLost), errors.Is(err, shard.ErrClosed):
		return status.Error(codes.Aborted, fmt.Sprintf("kvd: %v", err))
	}
	return err
}
