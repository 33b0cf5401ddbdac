package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// snapshotChunk is what one message of a snapshot carries, as in etcd.
const snapshotChunk = 32 << 10

// Snapshot implements pb.MaintenanceServer: the file in pieces, and its SHA-256
// as the last one.
func (s *maintenanceServer) Snapshot(_ *pb.SnapshotRequest, stream grpc.ServerStreamingServer[pb.SnapshotResponse]) (err error) {
	if s.snapshots == nil {
		return status.Error(codes.Unimplemented, "kvd: this member saves no snapshots")
	}
	ctx := stream.Context()
	f, err := s.snapshots.Save(ctx)
	if err != nil {
		return snapshotError(err)
	}
	defer func() {
		// A file that could not be removed is removed at the next start.
		_ = f.Close()
	}()
	w := &snapshotWriter{send: stream.Send, version: f.Version(), left: f.Size, sum: sha256.New()}
	if err := f.WriteTo(ctx, w); err != nil {
		return snapshotError(err)
	}
	if err := w.flush(); err != nil {
		return snapshotError(err)
	}
	if w.left != 0 {
		return status.Errorf(codes.Internal, "kvd: the snapshot is %d bytes shorter than it should be", w.left)
	}
	return stream.Send(&pb.SnapshotResponse{Blob: w.sum.Sum(nil), Version: f.Version()})
}

// snapshotError leaves a status and the end of a context as they are.
func snapshotError(err error) error {
	var st interface{ GRPCStatus() *status.Status }
	switch {
	case errors.As(err, &st):
		return st.GRPCStatus().Err()
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return status.Errorf(codes.Unavailable, "kvd: snapshot: %v", err)
}

// snapshotWriter sends what is written to it, in chunks.
type snapshotWriter struct {
	send    func(*pb.SnapshotResponse) error
	version string
	left    int64
	sum     hash.Hash
	buf     []byte
}

// Write implements io.Writer.
func (w *snapshotWriter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if w.buf == nil {
			w.buf = make([]byte, 0, snapshotChunk)
		}
		some := b[:min(len(b), snapshotChunk-len(w.buf))]
		w.buf, b = append(w.buf, some...), b[len(some):]
		if len(w.buf) == snapshotChunk {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// flush sends what was gathered. gRPC may hold it for longer, so that it is never
// used again.
func (w *snapshotWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	b := w.buf
	w.buf = nil
	w.left -= int64(len(b))
	// Writing to a hash cannot fail.
	_, _ = w.sum.Write(b)
	if w.left < 0 {
		return errors.New("the file is longer than it should be")
	}
	return w.send(&pb.SnapshotResponse{RemainingBytes: uint64(w.left), Blob: b, Version: w.version})
}
