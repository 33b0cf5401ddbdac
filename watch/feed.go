package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

const (
	// feedPatience is how long a member that is to hold a replica itself waits for
	// it before it follows another member.
	feedPatience = 3 * time.Second
	// feedMinDelay and feedMaxDelay bound the pause after a feed that failed.
	feedMinDelay = 50 * time.Millisecond
	feedMaxDelay = 2 * time.Second
)

// errNoPeer says that nobody is known to hold a replica of the keys.
var errNoPeer = errors.New("watch: no other member is known to hold the keys")

// feeds follows, on other members, the segments that no local replica feeds while
// somebody here watches them. There is one feed per segment, for all watches. A
// feed that was lost goes on where it was, on the same member or another.
type feeds struct {
	hub *Hub
	mu  struct {
		sync.Mutex
		open map[*segment]*feed
	}
}

type feed struct {
	segment *segment
	refs    int
	cancel  context.CancelFunc
}

func (f *feeds) init(h *Hub) {
	f.hub = h
	f.mu.open = map[*segment]*feed{}
}

// want keeps a segment fed until unwant was called as often.
func (f *feeds) want(s *segment) {
	if !f.needed(s) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fd := f.mu.open[s]; fd != nil {
		fd.refs++
		return
	}
	ctx, cancel := context.WithCancel(f.hub.ctx)
	f.mu.open[s] = &feed{segment: s, refs: 1, cancel: cancel}
	f.hub.spawn(func() { f.run(ctx, s) })
}

func (f *feeds) unwant(s *segment) {
	if !f.needed(s) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fd := f.mu.open[s]
	if fd == nil {
		return
	}
	if fd.refs--; fd.refs == 0 {
		fd.cancel()
		delete(f.mu.open, s)
	}
}

func (f *feeds) needed(s *segment) bool {
	return !s.source.local && s.source.shard != 0 && f.hub.cfg.Peers != nil && f.hub.cfg.Map != nil
}

// dropFrozen ends the feeds of segments that have ended.
func (f *feeds) dropFrozen(ended map[*segment]view) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range ended {
		if fd := f.mu.open[s]; fd != nil {
			fd.cancel()
			delete(f.mu.open, s)
		}
	}
}

// run follows a segment until ctx ends.
func (f *feeds) run(ctx context.Context, s *segment) {
	delay := feedMinDelay
	if f.isReplica(s) && !pause(ctx, feedPatience) {
		return
	}
	for attempt := 0; ctx.Err() == nil; attempt++ {
		began := time.Now()
		member, err := f.pick(s, attempt)
		if err == nil {
			err = f.follow(ctx, s, member)
		}
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > feedMaxDelay {
			delay = feedMinDelay
		}
		f.hub.log.Debug("a watch feed ended; following again", zap.Uint64("shard", s.source.shard),
			zap.Uint64("member", member), zap.Int64("from-revision", s.resolved()+1), errField(err))
		// The range map may know better by now which shard holds the keys.
		f.hub.MapChanged()
		if !pause(ctx, delay) {
			return
		}
		delay = min(2*delay, feedMaxDelay)
	}
}

// pause waits; false if ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (f *feeds) isReplica(s *segment) bool {
	for _, d := range f.hub.cfg.Map().Overlapping(s.span) {
		for _, r := range d.Replicas {
			if r.Member == f.hub.cfg.MemberID {
				return true
			}
		}
	}
	return false
}

// pick chooses a member that holds the segment's shard, another one with each
// attempt.
func (f *feeds) pick(s *segment, attempt int) (member uint64, err error) {
	for _, d := range f.hub.cfg.Map().Overlapping(s.span) {
		if d.Shard != s.source.shard {
			continue
		}
		var members []uint64
		for _, r := range d.Replicas {
			if r.Member != f.hub.cfg.MemberID {
				members = append(members, r.Member)
			}
		}
		if len(members) > 0 {
			return members[attempt%len(members)], nil
		}
	}
	return 0, errNoPeer
}

// follow takes in what a member sends until that ends.
func (f *feeds) follow(ctx context.Context, s *segment, member uint64) error {
	conn, err := f.hub.cfg.Peers.Conn(member)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := kvdpb.NewFeedClient(conn).Follow(ctx, &kvdpb.FollowRequest{
		Shard: s.source.shard, Start: s.span.Start, End: s.span.End, From: s.resolved() + 1,
	})
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f.take(s, frame, first); err != nil {
			return err
		}
	}
}

// take takes in one frame. Nothing in it is believed that contradicts what is
// known already.
func (f *feeds) take(s *segment, frame *kvdpb.FollowFrame, first bool) error {
	entries, err := entriesFromFeed(frame.Events, s.span)
	if err != nil {
		return err
	}
	src := s.source
	src.mu.Lock()
	defer src.mu.Unlock()
	if first {
		// Another member may be behind the last one, or of another generation.
		src.mu.generation, src.mu.applied, src.mu.span = frame.Generation, frame.Applied, s.span
		src.mu.answers = nil
	}
	if frame.Generation != src.mu.generation {
		return fmt.Errorf("watch: the feed of shard %d changed from generation %d to %d", src.shard, src.mu.generation, frame.Generation)
	}
	if frame.Jump {
		s.jump(frame.Resolved)
	}
	if err := s.append(entries, int(f.hub.ringLimit.Load())); err != nil {
		return err
	}
	s.credit(frame.Resolved)
	f.hub.saw(frame.Resolved)
	src.reachLocked(frame.Applied)
	return nil
}

// read reads history on a member that has it.
func (f *feeds) read(ctx context.Context, s *segment, span keyspace.Span, from, to int64, maxBytes int) ([]*entry, int64, error) {
	if !f.needed(s) {
		return nil, from, ErrNoReplica
	}
	var last error
	for attempt := range 3 {
		member, err := f.pick(s, attempt)
		if err != nil {
			return nil, from, err
		}
		entries, next, err := f.readFrom(ctx, member, s, span, from, to, maxBytes)
		if err == nil || errors.Is(err, mvcc.ErrCompacted) || ctx.Err() != nil {
			return entries, next, err
		}
		last = err
	}
	return nil, from, last
}

func (f *feeds) readFrom(ctx context.Context, member uint64, s *segment, span keyspace.Span, from, to int64, maxBytes int) (entries []*entry, next int64, err error) {
	conn, err := f.hub.cfg.Peers.Conn(member)
	if err != nil {
		return nil, from, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := kvdpb.NewFeedClient(conn).Read(ctx, &kvdpb.FeedReadRequest{
		Shard: s.source.shard, Start: span.Start, End: span.End, From: from, To: to, MaxBytes: uint64(max(maxBytes, 0)),
	})
	if err != nil {
		return nil, from, err
	}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, from, fmt.Errorf("watch: member %016x broke off the history of %v", member, span)
		}
		if err != nil {
			return nil, from, err
		}
		if chunk.CompactRevision > 0 {
			return nil, from, &mvcc.CompactedError{CompactRevision: chunk.CompactRevision}
		}
		es, err := entriesFromFeed(chunk.Events, span)
		if err != nil {
			return nil, from, err
		}
		if entries, err = appendOrdered(entries, es, from, to); err != nil {
			return nil, from, err
		}
		if chunk.Next != 0 {
			if chunk.Next < from || (len(entries) > 0 && chunk.Next <= entries[len(entries)-1].rev) {
				return nil, from, fmt.Errorf("watch: member %016x ends the history of %v at revision %d", member, span, chunk.Next)
			}
			return entries, min(chunk.Next, to+1), nil
		}
	}
}
