package router

import (
	"context"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/multiraft/peer"
	"go.uber.org/zap"
)

// Router brings requests to shards. It is safe for concurrent use.
type Router struct {
	cfg    Config
	log    *zap.Logger
	routes *routes
	news   *news
	stale  *resolvedTable

	// links is copied on write, so that requests find a link without a lock.
	links  atomic.Pointer[map[uint64]*link]
	flight sync.Pool
	// across guards what attempts of transactions share with those who touch
	// their latches. It is held for a few instructions.
	across sync.Mutex

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     struct {
		sync.Mutex
		closed bool
	}
}

// New makes a router. The caller passes it frames (HandleFrame), lost
// connections (PeerDown) and changes of the range map (MapChanged), registers
// its bulk service (Register), and closes it.
func New(cfg Config) (*Router, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	r := &Router{cfg: cfg, log: cfg.Logger, routes: newRoutes(cfg.Placement.Map), news: newNews(), stale: newResolvedTable()}
	r.links.Store(&map[uint64]*link{})
	r.flight.New = func() any { return newFlight() }
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if cfg.ResolveInterval > 0 {
		r.background(r.refreshResolved)
	}
	return r, nil
}

// Close ends what the router does in the background. Requests in flight end in
// errors.
func (r *Router) Close() {
	r.mu.Lock()
	r.mu.closed = true
	r.mu.Unlock()
	r.cancel()
	for _, l := range *r.links.Load() {
		l.lost()
	}
	r.wg.Wait()
}

// background runs f until it returns; Close cancels its context and waits for it.
func (r *Router) background(f func(ctx context.Context)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.closed {
		return
	}
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		f(r.ctx)
	}()
}

// HandleFrame takes a frame of the mesh's request channel whose first byte lies
// between FirstFrameKind and LastFrameKind. The frame is valid only during the
// call, which does not block.
func (r *Router) HandleFrame(from uint64, frame []byte) {
	if len(frame) == 0 {
		return
	}
	l := r.link(from)
	var err error
	switch frame[0] {
	case frameRequest:
		err = l.request(r, frame)
	case frameReply:
		err = l.reply(frame)
	case frameCancel:
		err = l.canceled(frame)
	case frameResolve:
		err = l.resolve(r, frame)
	case frameResolveReply:
		err = l.resolveReply(frame)
	default:
		err = errFrame
	}
	if err != nil {
		r.log.Warn("dropped a frame of another member", zap.Uint64("member", from), zap.Uint8("kind", frame[0]), zap.Error(err))
	}
}

// PeerDown must be called when a connection with a member was lost.
func (r *Router) PeerDown(member uint64, ch peer.Channel) {
	if l := (*r.links.Load())[member]; l != nil && ch == peer.ChannelRequest {
		l.lost()
	}
}

// MapChanged must be called after the range map of Config.Placement changed.
func (r *Router) MapChanged() {
	r.routes.forget()
	r.news.all()
}

// OwnerChanged wakes the requests that wait for a shard. Calling it is optional
// and shortens the waits after a change of owners.
func (r *Router) OwnerChanged(shard uint64) { r.news.served(place{shard: shard}) }

func (r *Router) link(member uint64) *link {
	if l := (*r.links.Load())[member]; l != nil {
		return l
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := *r.links.Load()
	if l := old[member]; l != nil {
		return l
	}
	next := maps.Clone(old)
	next[member] = newLink(member, rand.Uint64(), r.cfg.Mesh)
	r.links.Store(&next)
	return next[member]
}
