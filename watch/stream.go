package watch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/auth"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard"
)

// etcd's texts, which clients see as cancel reasons.
var (
	errEmptyRange  = errors.New("mvcc: watcher range is empty")
	errDuplicateID = errors.New("mvcc: duplicate watch ID provided on the WatchStream")
)

// ErrStreamClosed is what a closed stream answers.
var ErrStreamClosed = errors.New("watch: stream is closed")

// Stream is one client's Watch call: any number of watches that share an
// outgoing queue. Create, Cancel and Progress are called by the goroutine that
// receives the client's requests, Run by the one that sends.
type Stream struct {
	hub *Hub

	mu struct {
		sync.Mutex
		watchers map[int64]*watcher
		nextID   int64
		out      queue
		// stalled watchers were refused by the full queue. They go on once it has
		// drained.
		stalled []*watcher
		// newest is the largest revision of an event handed to the stream.
		newest int64
		// progress is the revision that the client asked all its watches to be told;
		// 0 for none. raised counts how often it had to be raised.
		progress int64
		raised   int
		closed   bool
	}
	// cost is what the queued items weigh, and those that are being sent.
	cost atomic.Int64
	// asked says that progress or told of some watcher is set.
	asked atomic.Bool
	// response is what the sender fills over and over.
	response Response
	// wakec wakes the sender, roomc the receiver that waits for room.
	wakec, roomc chan struct{}
	done         chan struct{}
}

// NewStream begins a stream. It must be closed.
func (h *Hub) NewStream() *Stream {
	s := &Stream{hub: h, wakec: make(chan struct{}, 1), roomc: make(chan struct{}, 1), done: make(chan struct{})}
	s.mu.watchers = map[int64]*watcher{}
	h.streams.Lock()
	defer h.streams.Unlock()
	h.streams.open[s] = struct{}{}
	h.stats.streams.Add(1)
	if h.ctx.Err() != nil {
		s.mu.closed = true
		close(s.done)
	}
	return s
}

// Create begins a watch as the client's request says. Whatever is wrong with the
// request is answered on the stream, as etcd does; the error says that the
// stream is closed or ctx ended, or, as shard.ErrOldAuth, that the request was
// checked under another version of auth (auth.Version of ctx) than the present
// one: then there is no watch, and it may be checked and created anew.
//
// A watch that is created without a revision sees every write that starts after
// the response was sent.
func (s *Stream) Create(ctx context.Context, req *pb.WatchCreateRequest) error {
	if err := s.waitForRoom(ctx); err != nil {
		return err
	}
	now, err := s.hub.now(ctx)
	if err != nil {
		return err
	}
	if v := auth.Version(ctx); now.asked && v != now.auth && v != shard.AuthExempt {
		return shard.ErrOldAuth
	}
	if req.StartRevision < 0 {
		return s.refuse(now.revision, rpctypes.ErrCompacted.Error())
	}
	key := req.Key
	if len(key) == 0 {
		key = []byte{0}
	}
	span := keyspace.UserSpan(key, req.RangeEnd)
	if span.Empty() {
		return s.refuse(now.revision, errEmptyRange.Error())
	}
	w := &watcher{
		stream: s, span: span, start: req.StartRevision, mask: maskOf(req),
		fragment: req.Fragment, progress: req.ProgressNotify, quiet: true,
		next: req.StartRevision,
	}
	if w.start == 0 {
		w.next = now.revision + 1
	}
	// Invariant 2 of group: nothing below next is delivered.
	w.last = w.next - 1
	if err := s.admit(w, req.WatchId, now.revision); err != nil {
		if errors.Is(err, errDuplicateID) {
			return s.refuse(now.revision, err.Error())
		}
		return err
	}
	if w.start > 0 && w.start < now.compacted {
		s.compact(w, now.compacted)
		return nil
	}
	s.hub.attach(w)
	return nil
}

func maskOf(req *pb.WatchCreateRequest) (mask uint8) {
	for _, f := range req.Filters {
		switch f {
		case pb.WatchCreateRequest_NOPUT:
			mask |= noPut
		case pb.WatchCreateRequest_NODELETE:
			mask |= noDelete
		}
	}
	if req.PrevKv {
		mask |= withPrev
	}
	return mask
}

// admit gives the watch its id and queues the response that it is created.
func (s *Stream) admit(w *watcher, id, revision int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return ErrStreamClosed
	}
	if id == clientv3.AutoWatchID {
		for s.mu.watchers[s.mu.nextID] != nil {
			s.mu.nextID++
		}
		id = s.mu.nextID
		s.mu.nextID++
	} else if s.mu.watchers[id] != nil {
		return errDuplicateID
	}
	w.id = id
	s.mu.watchers[id] = w
	if w.start == 0 {
		// The client may take the created response for the watch's position.
		s.mu.newest = max(s.mu.newest, revision)
	}
	s.hub.stats.watchers.Add(1)
	s.enqueueLocked(item{kind: itemCreated, id: id, revision: revision})
	return nil
}

// refuse answers a request for a watch that cannot be.
func (s *Stream) refuse(revision int64, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return ErrStreamClosed
	}
	s.enqueueLocked(item{kind: itemRefused, id: InvalidWatchID, revision: revision, reason: reason})
	return nil
}

// Refuse answers a request that the caller turned down before it got here, such
// as for want of permission.
func (s *Stream) Refuse(ctx context.Context, reason string) error {
	if err := s.waitForRoom(ctx); err != nil {
		return err
	}
	return s.refuse(s.hub.seen.Load(), reason)
}

// Cancel ends a watch. An id that is not there is ignored, as in etcd.
func (s *Stream) Cancel(ctx context.Context, id int64) error {
	if err := s.waitForRoom(ctx); err != nil {
		return err
	}
	return s.cancel(id, "")
}

// cancel ends a watch and tells the client why; no reason is its own wish.
func (s *Stream) cancel(id int64, reason string) error {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return ErrStreamClosed
	}
	w := s.mu.watchers[id]
	if w == nil {
		s.mu.Unlock()
		return nil
	}
	w.canceled.Store(true)
	delete(s.mu.watchers, id)
	if !w.compacted {
		s.hub.stats.watchers.Add(-1)
	}
	s.enqueueLocked(item{kind: itemCanceled, id: id, revision: max(s.hub.seen.Load(), w.last), reason: reason})
	s.dropStalledLocked(w)
	s.mu.Unlock()
	s.hub.detach(w)
	s.checkProgress()
	return nil
}

// compact ends a watch whose next events are gone.
func (s *Stream) compact(w *watcher, compacted int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.canceled.Swap(true) || s.mu.closed {
		return
	}
	w.compacted = true
	s.hub.stats.watchers.Add(-1)
	s.enqueueLocked(item{kind: itemCompacted, id: w.id, revision: max(s.hub.seen.Load(), w.last), compacted: compacted})
}

// Close ends the stream and all its watches. It may be called twice.
func (s *Stream) Close() {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return
	}
	s.mu.closed = true
	close(s.done)
	ws := make([]*watcher, 0, len(s.mu.watchers))
	for _, w := range s.mu.watchers {
		if !w.compacted {
			s.hub.stats.watchers.Add(-1)
		}
		w.canceled.Store(true)
		ws = append(ws, w)
	}
	clear(s.mu.watchers)
	s.hub.stats.slow.Add(-int64(len(s.mu.stalled)))
	s.mu.stalled = nil
	s.hub.stats.pending.Add(-s.mu.out.drop())
	s.mu.Unlock()
	for _, w := range ws {
		s.hub.detach(w)
	}
	h := s.hub
	h.streams.Lock()
	defer h.streams.Unlock()
	delete(h.streams.open, s)
	h.stats.streams.Add(-1)
}

// limit is what may be queued on a stream. Every watch has room for one shared
// event, however many there are.
func (s *Stream) limitLocked(live bool) int64 {
	limit := int64(s.hub.cfg.StreamBytes) + int64(len(s.mu.watchers))*itemCost
	if !live {
		// History must not crowd out what is new.
		return limit / 2
	}
	return limit
}

// hasRoom tells whether the queue would take history.
func (s *Stream) hasRoom() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cost.Load() < s.limitLocked(false)
}

// deliver queues a delivery for watchers of one span. It returns those that the
// queue has no room for; they have been handed nothing of it.
func (s *Stream) deliver(ws []*watcher, b *batches, live bool) (refused []*watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil
	}
	limit := s.limitLocked(live)
	var shared *Batch
	for _, w := range ws {
		if w.canceled.Load() {
			continue
		}
		batch := b.of(w.mask)
		if batch == nil {
			continue
		}
		if s.cost.Load() >= limit {
			refused = append(refused, w)
			continue
		}
		if batch.first <= w.last {
			s.hub.broken(fmt.Errorf("watch %d over %v would go back from revision %d to %d", w.id, w.span, w.last, batch.first))
		}
		w.last, w.quiet = batch.last, false
		s.mu.newest = max(s.mu.newest, batch.last)
		// The bytes of a batch that several watches of the stream share count once.
		bytes := int64(batch.bytes)
		if batch == shared {
			bytes = 0
		}
		shared = batch
		s.hub.stats.pending.Add(int64(len(batch.Events)))
		if s.mu.out.merge(w, batch) {
			s.cost.Add(bytes + mergeCost)
			s.mu.out.at(w.tail).cost += bytes + mergeCost
			continue
		}
		w.tail = s.enqueueLocked(item{kind: itemEvents, id: w.id, fragment: w.fragment, batch: batch, cost: bytes})
	}
	return refused
}

// enqueueLocked adds an item to the queue and wakes the sender.
func (s *Stream) enqueueLocked(it item) (seq uint64) {
	it.cost += itemCost
	s.cost.Add(it.cost)
	wasEmpty := s.mu.out.empty()
	seq = s.mu.out.push(it)
	if wasEmpty {
		s.signal()
	}
	return seq
}

func (s *Stream) signal() {
	select {
	case s.wakec <- struct{}{}:
	default:
	}
}
