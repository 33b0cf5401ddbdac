package watch

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// chunkBytes bounds the keys and values of one message of a feed, but for those of
// a single revision.
const chunkBytes = 256 << 10

// RegisterFeed registers the service by which other members follow the replicas
// here. It belongs on the peer port.
func (h *Hub) RegisterFeed(r grpc.ServiceRegistrar) { kvdpb.RegisterFeedServer(r, &feedServer{hub: h}) }

type feedServer struct {
	kvdpb.UnimplementedFeedServer
	hub *Hub
}

// serving returns the segment that a local replica of the shard feeds and that
// holds all of span, with the generation of the replica.
func (f *feedServer) serving(id uint64, start, end []byte) (*segment, uint64, keyspace.Span, error) {
	span := keyspace.Span{Start: start, End: end}
	if span.Empty() || !keyspace.Users().ContainsSpan(span) {
		return nil, 0, span, status.Errorf(codes.InvalidArgument, "watch: cannot feed %v", span)
	}
	segs := f.hub.topology.Load().covering(span)
	if len(segs) != 1 || !segs[0].source.local || segs[0].source.shard != id || !segs[0].span.ContainsSpan(span) {
		return nil, 0, span, status.Errorf(codes.FailedPrecondition, "watch: no replica of shard %d here covers %v", id, span)
	}
	src := segs[0].source
	src.mu.Lock()
	defer src.mu.Unlock()
	return segs[0], src.mu.generation, span, nil
}

// Follow implements kvdpb.FeedServer.
func (f *feedServer) Follow(req *kvdpb.FollowRequest, stream grpc.ServerStreamingServer[kvdpb.FollowFrame]) error {
	f.hub.interest.Add(1)
	defer f.hub.interest.Add(-1)
	s, generation, span, err := f.serving(req.Shard, req.Start, req.End)
	if err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	t := f.hub.live.newTask(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	s.subscribe(t)
	defer s.unsubscribe(t)
	pos := max(req.From-1, 0)
	for first := true; ; first = false {
		frame, ended, err := f.frame(s, span, &pos, first)
		if err != nil {
			return err
		}
		if frame != nil {
			frame.Generation = generation
			if err := stream.Send(frame); err != nil {
				return err
			}
			continue
		}
		if ended {
			return nil
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-f.hub.ctx.Done():
			return status.Error(codes.Unavailable, "watch: the member is stopping")
		}
	}
}

// frame builds what follows pos and moves it; nil if there is nothing now. ended
// says that there never will be.
func (f *feedServer) frame(s *segment, span keyspace.Span, pos *int64, first bool) (frame *kvdpb.FollowFrame, ended bool, err error) {
	// What is applied by now is in the segment when it is looked at next.
	s.source.mu.Lock()
	applied := s.source.mu.applied
	s.source.mu.Unlock()
	v := s.view()
	if !v.covers(*pos) {
		*pos = v.resolved
		return &kvdpb.FollowFrame{Jump: true, Resolved: v.resolved, Applied: applied}, false, nil
	}
	if v.resolved <= *pos && !first {
		return nil, v.frozen, nil
	}
	to := max(v.resolved, *pos)
	entries, upto := window([]view{v}, *pos, to, chunkBytes)
	entries = within(entries, span, s.span)
	events, err := f.encode(entries)
	if err != nil {
		return nil, false, err
	}
	frame = &kvdpb.FollowFrame{Events: events, Resolved: min(upto, v.resolved)}
	if upto == to {
		frame.Applied = applied
	}
	*pos = upto
	return frame, false, nil
}

func (f *feedServer) encode(entries []*entry) ([]*kvdpb.FeedEvent, error) {
	reader := prevReader{hub: f.hub}
	defer reader.close()
	events := make([]*kvdpb.FeedEvent, 0, len(entries))
	for _, e := range entries {
		if err := reader.read(e); err != nil {
			return nil, status.Errorf(codes.Unavailable, "watch: %v", err)
		}
		events = append(events, feedEvent(e))
	}
	return events, nil
}

// Read implements kvdpb.FeedServer.
func (f *feedServer) Read(req *kvdpb.FeedReadRequest, stream grpc.ServerStreamingServer[kvdpb.FeedChunk]) error {
	s, _, span, err := f.serving(req.Shard, req.Start, req.End)
	if err != nil {
		return err
	}
	if req.From <= 0 {
		return status.Errorf(codes.InvalidArgument, "watch: cannot read from revision %d", req.From)
	}
	maxBytes := f.hub.cfg.WindowBytes
	if req.MaxBytes > 0 {
		maxBytes = int(min(req.MaxBytes, uint64(maxBytes)))
	}
	ctx, cancel := context.WithTimeout(stream.Context(), readTimeout)
	defer cancel()
	to := min(req.To, s.resolved())
	if to < req.From {
		return stream.Send(&kvdpb.FeedChunk{Next: req.From})
	}
	entries, next, err := f.hub.readSegment(ctx, s, span, req.From, to, maxBytes)
	var compacted *mvcc.CompactedError
	switch {
	case errors.As(err, &compacted):
		return stream.Send(&kvdpb.FeedChunk{CompactRevision: compacted.CompactRevision})
	case errors.Is(err, errMoved), errors.Is(err, ErrNoReplica):
		return status.Errorf(codes.FailedPrecondition, "%v", err)
	case err != nil:
		return status.Errorf(codes.Unavailable, "%v", err)
	}
	events, err := f.encode(entries)
	if err != nil {
		return err
	}
	for len(events) > 0 {
		n, size := 0, 0
		for n < len(events) && size < chunkBytes {
			size += len(events[n].Key) + len(events[n].Value) + len(events[n].Prev.GetValue())
			n++
		}
		if err := stream.Send(&kvdpb.FeedChunk{Events: events[:n]}); err != nil {
			return err
		}
		events = events[n:]
	}
	return stream.Send(&kvdpb.FeedChunk{Next: next})
}
