package api

import (
	"context"
	"sync"
	"time"

	"github.com/kvd-io/kvd/auth"
	"github.com/kvd-io/kvd/watch"
)

// staleStreams is how often streams are looked at for whether this member may
// still serve them.
const staleStreams = time.Second

// guardedStreams are the streams of watches that are open. A watch asks nobody for
// each event, so it is looked at again when auth changes, and ended with all
// others when this member has not heard for too long whether it did.
type guardedStreams struct {
	auth *auth.Service
	mu   struct {
		sync.Mutex
		open map[*guardedStream]struct{}
	}
}

// guardedStream is one stream and who opened it.
type guardedStream struct {
	stream *watch.Stream
	ctx    context.Context
	end    context.CancelCauseFunc
	// known says that name is the user of the stream. It is established by its first
	// watch under auth, since tokens end before watches do.
	mu    sync.Mutex
	known bool
	name  string
}

func newGuardedStreams(service *auth.Service) *guardedStreams {
	g := &guardedStreams{auth: service}
	g.mu.open = map[*guardedStream]struct{}{}
	return g
}

func (g *guardedStreams) add(s *guardedStream) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.open[s] = struct{}{}
}

func (g *guardedStreams) remove(s *guardedStream) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.mu.open, s)
}

func (g *guardedStreams) all() []*guardedStream {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*guardedStream, 0, len(g.mu.open))
	for s := range g.mu.open {
		out = append(out, s)
	}
	return out
}

// run looks at the streams until ctx ends.
func (g *guardedStreams) run(ctx context.Context) {
	tick := time.NewTicker(staleStreams)
	defer tick.Stop()
	var seen *auth.Rules
	for {
		changed := g.auth.News()
		if rules := g.auth.Rules(); rules != seen {
			seen = rules
			for _, s := range g.all() {
				s.recheck(g.auth, rules)
			}
		}
		if err := g.auth.Fresh(); err != nil {
			for _, s := range g.all() {
				s.end(err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

// user establishes who opened the stream, as the caller of a watch that is
// permitted.
func (s *guardedStream) user(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known {
		s.known, s.name = true, name
	}
}

// recheck ends the watches that the rules do not permit.
func (s *guardedStream) recheck(service *auth.Service, rules *auth.Rules) {
	if rules.Version() == 0 {
		return
	}
	s.mu.Lock()
	known, name := s.known, s.name
	s.mu.Unlock()
	var caller *auth.Caller
	var err error
	if !known {
		name, err = service.CallerName(s.ctx, rules)
	}
	caller = rules.Named(name)
	s.stream.Recheck(func(key, rangeEnd []byte) error {
		if err != nil {
			return err
		}
		return caller.Watch(key, rangeEnd)
	})
}
