package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

const (
	// pinPatience bounds the attempts to pin all shards at one revision. It covers
	// the loss of a member, and a split.
	pinPatience = 30 * time.Second
	// attemptPatience bounds one attempt.
	attemptPatience = 5 * time.Second
	retryFirst      = 20 * time.Millisecond
	retryMost       = time.Second
	// opening bounds the shards that are being pinned at a time.
	opening = 32
)

// pinned is the whole store at one revision.
type pinned struct {
	revision, compact int64
	// sources are in the order of keys.
	sources []source
	wants   []want
	view    *placement.View
}

func (p *pinned) close() {
	for _, src := range p.sources {
		if src != nil {
			src.close()
		}
	}
}

// pinAll pins every shard at one revision. The sources live as long as ctx.
func (s *Saver) pinAll(ctx context.Context) (*pinned, error) {
	deadline := time.Now().Add(pinPatience)
	for delay := retryFirst; ; delay = min(2*delay, retryMost) {
		p, err := s.tryPin(ctx)
		if err == nil {
			return p, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if time.Now().Add(delay).After(deadline) {
			return nil, fmt.Errorf("kvd: could not look at all shards at one revision: %w", err)
		}
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
	}
}

func (s *Saver) tryPin(ctx context.Context) (*pinned, error) {
	attempt, cancel := context.WithTimeout(ctx, attemptPatience)
	defer cancel()
	// Users and roles that were changed before the save are in the file.
	if err := s.cfg.Cluster.Barrier(attempt); err != nil {
		return nil, fmt.Errorf("ask for the latest of members, users and roles: %w", err)
	}
	g, err := s.cfg.Cluster.Current(attempt)
	if err != nil {
		return nil, fmt.Errorf("ask for the current revision: %w", err)
	}
	p := &pinned{revision: g.First, compact: g.Stamp.CompactRevision, view: s.cfg.Cluster.View()}
	live := p.view.Map.Live()
	if p.wants, err = s.resolve(attempt, p.revision, live); err != nil {
		return nil, err
	}
	p.sources = make([]source, len(live))
	open := errgroup.Group{}
	open.SetLimit(opening)
	for i, d := range live {
		open.Go(func() (err error) {
			p.sources[i], err = s.open(ctx, attempt, d, p.wants[i])
			return err
		})
	}
	if err = open.Wait(); err == nil {
		err = p.check()
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// resolve asks all owners; the answers are in the order of the descriptors.
func (s *Saver) resolve(ctx context.Context, rev int64, live []*kvdpb.Descriptor) ([]want, error) {
	ids := make([]uint64, len(live))
	for i, d := range live {
		ids[i] = d.Shard
	}
	var mu sync.Mutex
	answers := make(map[uint64]shard.Resolved, len(live))
	s.cfg.Cluster.Resolve(ctx, rev, ids, func(r shard.Resolved) {
		mu.Lock()
		defer mu.Unlock()
		answers[r.Shard] = r
	})
	mu.Lock()
	defer mu.Unlock()
	wants := make([]want, len(live))
	for i, id := range ids {
		r, ok := answers[id]
		if !ok || r.Revision < rev {
			return nil, fmt.Errorf("no owner of shard %d answered", id)
		}
		wants[i] = want{shard: id, generation: r.Generation, applied: r.Applied, revision: rev}
	}
	return wants, nil
}

// open pins a replica of a shard, here if there is one. The source lives as long
// as ctx; attempt bounds the call.
func (s *Saver) open(ctx, attempt context.Context, d *kvdpb.Descriptor, w want) (source, error) {
	src, err := s.openLocal(attempt, w)
	if err == nil {
		return src, nil
	}
	errs := []error{err}
	for _, r := range d.Replicas {
		if r.Member == s.cfg.Member || attempt.Err() != nil {
			continue
		}
		src, err := s.openBounded(ctx, attempt, r.Member, w, nil)
		if err == nil {
			return src, nil
		}
		errs = append(errs, fmt.Errorf("member %x: %w", r.Member, err))
	}
	return nil, fmt.Errorf("pin shard %d: %w", d.Shard, errors.Join(errs...))
}

// openBounded is openRemote with a bound for the call apart from the life of the
// source.
func (s *Saver) openBounded(ctx, attempt context.Context, member uint64, w want, start []byte) (source, error) {
	life, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(attempt, cancel)
	src, err := s.openRemote(life, member, w, start)
	if !stop() && err == nil {
		// The bound ended the stream just when it was open.
		src.close()
		err = attempt.Err()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return &cancelled{src, cancel}, nil
}

// cancelled is a source with a context of its own.
type cancelled struct {
	source
	cancel context.CancelFunc
}

func (c *cancelled) close() {
	c.source.close()
	c.cancel()
}

// check makes sure that the sources hold every user key, each once, with all that
// the revision needs.
func (p *pinned) check() error {
	order := make([]int, len(p.sources))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return bytes.Compare(p.sources[a].span().Start, p.sources[b].span().Start)
	})
	next := keyspace.Min()
	for _, i := range order {
		span := p.sources[i].span()
		if !bytes.Equal(span.Start, next) {
			return fmt.Errorf("shard %d begins at %s, not at %s: a split came in between",
				p.wants[i].shard, keyspace.Format(span.Start), keyspace.Format(next))
		}
		next = span.End
		p.compact = max(p.compact, p.sources[i].compacted())
	}
	switch {
	case !bytes.Equal(next, keyspace.Max()):
		return fmt.Errorf("the shards end at %s: a split came in between", keyspace.Format(next))
	case p.compact > p.revision:
		return fmt.Errorf("revision %d was compacted at %d meanwhile", p.revision, p.compact)
	}
	return nil
}
