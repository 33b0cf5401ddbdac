package backup

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// source is one shard's state, pinned at or after a revision.
type source interface {
	span() keyspace.Span
	// compacted is the revision from which on the history is whole.
	compacted() int64
	// read tells the sink of the leases of the shard, then of the history from compact (at or above
	// compacted), of keys from start on. It is called once.
	read(ctx context.Context, start []byte, compact int64, to *sink) error
	close()
}

// sink takes what a source has.
type sink struct {
	// lease takes the records of leases, which are about those that there were when the source was pinned.
	lease func(*kvdpb.LeaseRecord) error
	// row takes rows in the order of keys and of one key newest first.
	row func(*item) error
}

// errSourceLost says that a source ended early; another may take its place.
var errSourceLost = errors.New("the replica that was read went away")

// want is what is wanted of a shard: all its writes up to revision, which are
// applied at index applied under generation (0: any).
type want struct {
	shard               uint64
	generation, applied uint64
	revision            int64
}

// localSource reads a replica of this member.
type localSource struct {
	pin  *shard.Pinned
	want want
}

func (s *Saver) openLocal(ctx context.Context, w want) (source, error) {
	r, ok := s.cfg.Replicas.Replica(w.shard)
	if !ok {
		return nil, fmt.Errorf("no replica of shard %d on this member", w.shard)
	}
	pin, err := r.Pin(ctx, w.generation, w.applied, w.revision)
	if err != nil {
		return nil, err
	}
	return &localSource{pin: pin, want: w}, nil
}

func (l *localSource) span() keyspace.Span { return l.pin.Span() }

func (l *localSource) compacted() int64 { return l.pin.CompactRevision() }

func (l *localSource) close() { l.pin.Close() }

func (l *localSource) read(ctx context.Context, start []byte, compact int64, to *sink) error {
	err := l.pin.Leases(to.lease)
	if err == nil {
		err = l.rows(ctx, start, compact, to)
	}
	if errors.Is(err, mvcc.ErrClosed) {
		return errors.Join(errSourceLost, err)
	}
	return err
}

func (l *localSource) rows(ctx context.Context, start []byte, compact int64, to *sink) error {
	sn := l.pin.NewSnapshot()
	defer sn.Close()
	span := l.pin.Span().Intersect(keyspace.Span{Start: start, End: keyspace.UserEnd()})
	var it item
	return sn.Versions(ctx, span, compact, l.want.revision, func(v *mvcc.Version) error {
		if !it.set(v) {
			return nil
		}
		return to.row(&it)
	})
}

// remoteSource reads a replica of another member.
type remoteSource struct {
	stream interface {
		Recv() (*kvdpb.RowsChunk, error)
	}
	cancel context.CancelFunc
	head   *kvdpb.RowsChunk
}

// openRemote returns once the other member has pinned its replica. start is the
// first key that will be asked for.
func (s *Saver) openRemote(ctx context.Context, member uint64, w want, start []byte) (source, error) {
	conn, err := s.cfg.Cluster.Conn(member)
	if err != nil {
		return nil, err
	}
	// The stream outlives the call.
	ctx, cancel := context.WithCancel(ctx)
	stream, err := kvdpb.NewBackupClient(conn).Rows(ctx, &kvdpb.RowsRequest{
		Shard: w.shard, Generation: w.generation, Applied: w.applied, Revision: w.revision, Start: start,
	})
	if err != nil {
		cancel()
		return nil, err
	}
	head, err := stream.Recv()
	if err == nil && (len(head.Rows)+len(head.Leases) > 0 || head.CompactRevision < 0 || head.CompactRevision > w.revision) {
		err = errBadRows
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return &remoteSource{stream: stream, cancel: cancel, head: head}, nil
}

func (r *remoteSource) span() keyspace.Span {
	return keyspace.Span{Start: r.head.Start, End: r.head.End}
}

func (r *remoteSource) compacted() int64 { return r.head.CompactRevision }

func (r *remoteSource) close() { r.cancel() }

func (r *remoteSource) read(ctx context.Context, _ []byte, _ int64, to *sink) error {
	stop := context.AfterFunc(ctx, r.cancel)
	defer stop()
	var it item
	for {
		chunk, err := r.stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && status.Code(err) == codes.DataLoss:
			return err
		case err != nil:
			return errors.Join(errSourceLost, err)
		}
		for _, l := range chunk.Leases {
			if l.GetId() == 0 {
				return errBadRows
			}
			if err := to.lease(l); err != nil {
				return err
			}
		}
		for rest := chunk.Rows; len(rest) > 0; {
			if rest, err = takeItem(rest, &it); err != nil {
				return err
			}
			if err := to.row(&it); err != nil {
				return err
			}
		}
	}
}
