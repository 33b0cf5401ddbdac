package multiraft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kvd-io/kvd/multiraft/peer"
)

// Snapshots travel as a client stream of chunks on the bulk connection, acknowledged at the end, so that they cannot delay heartbeats.

const (
	chunkService = "kvd.raft.Snapshots"
	chunkMethod  = "Install"
	// chunkPatience is how long one chunk may take: flow control lets the receiver's disk slow the stream down, but not stop it.
	chunkPatience = 60 * time.Second
)

var chunkDesc = grpc.ServiceDesc{
	ServiceName: chunkService,
	HandlerType: (*chunkServer)(nil),
	Streams: []grpc.StreamDesc{{StreamName: chunkMethod, ClientStreams: true,
		Handler: func(srv any, s grpc.ServerStream) error { return srv.(chunkServer).install(s) }}},
}

type chunkServer interface{ install(grpc.ServerStream) error }

// GetSnapshotConnection implements raftio.ITransport.
func (t *transport) GetSnapshotConnection(ctx context.Context, target string) (raftio.ISnapshotConnection, error) {
	to, err := t.member(target)
	if err != nil {
		return nil, err
	}
	cc, err := t.mesh.Conn(to)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	watchdog := time.AfterFunc(chunkPatience, cancel)
	stream, err := cc.NewStream(ctx, &chunkDesc.Streams[0], "/"+chunkService+"/"+chunkMethod)
	if err != nil {
		watchdog.Stop()
		cancel()
		return nil, fmt.Errorf("multiraft: opening a snapshot stream to member %016x: %w", to, err)
	}
	return &snapshotConnection{stream: stream, cancel: cancel, watchdog: watchdog}, nil
}

// snapshotConnection sends the chunks of one snapshot.
type snapshotConnection struct {
	stream   grpc.ClientStream
	cancel   context.CancelFunc
	watchdog *time.Timer
}

// Close implements raftio.ISnapshotConnection.
func (c *snapshotConnection) Close() {
	c.watchdog.Stop()
	c.cancel()
}

// SendChunk implements raftio.ISnapshotConnection. The last chunk returns once the receiver has the whole snapshot.
func (c *snapshotConnection) SendChunk(chunk raftpb.Chunk) error {
	c.watchdog.Reset(chunkPatience)
	b, err := chunk.Marshal()
	if err != nil {
		return fmt.Errorf("multiraft: encoding a snapshot chunk: %w", err)
	}
	if err := c.stream.SendMsg(wrapperspb.Bytes(b)); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("multiraft: sending a snapshot chunk: %w", err)
	} else if err == nil && !chunk.IsLastChunk() {
		return nil
	}
	// The end, or the receiver has ended the stream: its status says why.
	if err := c.stream.CloseSend(); err != nil {
		return fmt.Errorf("multiraft: ending a snapshot stream: %w", err)
	}
	if err := c.stream.RecvMsg(&wrapperspb.BytesValue{}); err != nil {
		return fmt.Errorf("multiraft: snapshot not taken: %w", err)
	}
	return nil
}

// install is the receiving end.
func (t *transport) install(s grpc.ServerStream) error {
	from, _ := peer.MemberFrom(s.Context())
	for {
		var m wrapperspb.BytesValue
		err := s.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			return s.SendMsg(&wrapperspb.BytesValue{})
		}
		if err != nil {
			return err
		}
		chunk, err := decodeChunk(m.Value, t.deployment)
		if err != nil {
			t.complain(from, err)
			return status.Error(codes.InvalidArgument, err.Error())
		}
		if err := t.takeChunk(chunk); err != nil {
			t.log.Warn("snapshot chunk refused", zap.String("member", fmt.Sprintf("%016x", from)), zap.Uint64("shard", chunk.ShardID),
				zap.Uint64("replica", chunk.ReplicaID), zap.Uint64("chunk", chunk.ChunkId), zap.Error(err))
			return status.Error(codes.Aborted, err.Error())
		}
	}
}

func (t *transport) takeChunk(chunk raftpb.Chunk) (err error) {
	t.gate.RLock()
	defer t.gate.RUnlock()
	if t.gate.closed {
		return ErrStopped
	}
	if !t.running(chunk.ShardID, chunk.ReplicaID) {
		return ErrNotFound
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errChunkRefused, r)
		}
	}()
	if !t.chunks(chunk) {
		return errChunkRefused
	}
	return nil
}
