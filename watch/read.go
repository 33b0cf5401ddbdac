package watch

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
)

const (
	// readTimeout bounds one window of history.
	readTimeout = 10 * time.Second
	// minWindow is what is read from each segment at a time, however many there are.
	minWindow = 32 << 10
)

// errMoved says that a segment has ended, so that its source's disk may no longer
// hold what it did. The newer topology knows who does.
var errMoved = errors.New("watch: the keys have moved")

func errField(err error) zap.Field { return zap.Error(err) }

// readWindow reads the events of span in [from, to] from memory, disk or another
// member, merged by revision. It returns whole revisions up to upto, which is
// below to where maxBytes or a source that lags ended it.
func (h *Hub) readWindow(ctx context.Context, segs []*segment, span keyspace.Span, from, to int64, maxBytes int) (entries []*entry, upto int64, err error) {
	if len(segs) == 0 {
		return nil, from - 1, errMoved
	}
	share := max(maxBytes/len(segs), min(maxBytes, minWindow))
	lists := make([][]*entry, 0, len(segs))
	upto = to
	for _, s := range segs {
		es, next, err := h.readSegment(ctx, s, s.span.Intersect(span), from, upto, share)
		if err != nil {
			return nil, from - 1, fmt.Errorf("read events of %v from revision %d: %w", s.span, from, err)
		}
		upto = min(upto, next-1)
		lists = append(lists, es)
	}
	for i, es := range lists {
		lists[i] = upTo(es, upto)
	}
	return merge(lists), upto, nil
}

// upTo cuts a list in the order of revisions behind rev.
func upTo(es []*entry, rev int64) []*entry {
	if n := len(es); n == 0 || es[n-1].rev <= rev {
		return es
	}
	return es[:sort.Search(len(es), func(i int) bool { return es[i].rev > rev })]
}

// readSegment reads events of one segment; next is the first revision not read.
func (h *Hub) readSegment(ctx context.Context, s *segment, span keyspace.Span, from, to int64, maxBytes int) (entries []*entry, next int64, err error) {
	v := s.view()
	if v.covers(from - 1) {
		es, upto := window([]view{v}, from-1, min(to, v.resolved), maxBytes)
		// What a replica that has left handed over lacks the previous values that
		// its store would have; a feed brings them along.
		if s.source.local || complete(es) {
			return within(es, span, s.span), upto + 1, nil
		}
	}
	if !s.source.local {
		return h.feeds.read(ctx, s, span, from, to, maxBytes)
	}
	if to = min(to, v.have); to < from {
		return nil, from, nil
	}
	sn, err := h.snapshot(s)
	if err != nil {
		return nil, from, err
	}
	defer sn.Close()
	next, err = sn.Events(ctx, span, from, to, maxBytes, func(rev, sub int64, kv *mvccpb.KeyValue, tombstone bool) bool {
		if e, ok := newEntry(rev, sub, kv, tombstone); ok {
			entries = append(entries, e)
		}
		return true
	})
	if err != nil {
		return nil, from, err
	}
	if next > sn.LastRevision() {
		// The store has no more, and to was known to be complete there.
		next = to + 1
	}
	return entries, next, nil
}

func complete(es []*entry) bool {
	for _, e := range es {
		if e.prev.Load() == nil {
			return false
		}
	}
	return true
}

// within returns the entries that lie in span. The list is not changed.
func within(es []*entry, span, all keyspace.Span) []*entry {
	if span.Equal(all) {
		return es
	}
	var out []*entry
	for _, e := range es {
		if span.Contains(e.key) {
			out = append(out, e)
		}
	}
	return out
}

// snapshot opens the store that feeds a segment. A segment that has not ended by
// then was fed by that store when the snapshot was taken, so nothing of its span
// was dropped there.
func (h *Hub) snapshot(s *segment) (Snapshot, error) {
	sn, err := h.cfg.Stores.Snapshot(s.source.shard)
	if err != nil {
		return nil, err
	}
	if s.isFrozen() {
		sn.Close()
		return nil, errMoved
	}
	return sn, nil
}

// prevReader reads what keys held before events, with one snapshot per shard.
type prevReader struct {
	hub       *Hub
	topology  *topology
	snapshots map[*segment]bounded
}

// bounded is a snapshot that is known to hold everything up to have.
type bounded struct {
	Snapshot
	have int64
}

// errLags says that a source has yet to apply what another one fed before it.
var errLags = errors.New("watch: the replica lags behind what watches have seen")

func (r *prevReader) close() {
	for _, sn := range r.snapshots {
		sn.Close()
	}
}

// fill completes the pending entries of a node that somebody wants the previous
// values of.
func (r *prevReader) fill(n *node) error {
	if n.prevs == 0 {
		return nil
	}
	for _, e := range n.pending {
		if err := r.read(e); err != nil {
			return err
		}
	}
	return nil
}

// read completes one entry. What was compacted counts as nothing, as in etcd.
func (r *prevReader) read(e *entry) error {
	if e.prev.Load() != nil {
		return nil
	}
	if r.topology == nil {
		r.topology, r.snapshots = r.hub.topology.Load(), map[*segment]bounded{}
	}
	segs := r.topology.covering(keyspace.Key(e.key))
	if len(segs) != 1 {
		return errMoved
	}
	s := segs[0]
	sn, open := r.snapshots[s]
	if !open {
		if !s.source.local {
			// Feeds bring the previous value along. This event came from a replica
			// that has left meanwhile.
			return errMoved
		}
		have := s.view().have
		opened, err := r.hub.snapshot(s)
		if err != nil {
			return err
		}
		sn = bounded{opened, have}
		r.snapshots[s] = sn
	}
	if sn.have < e.rev-1 {
		return errLags
	}
	prev, err := sn.GetAt(e.key, e.rev-1)
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) {
		return fmt.Errorf("read %s at revision %d: %w", keyspace.Format(e.key), e.rev-1, err)
	}
	e.setPrev(prev)
	return nil
}

// fillPrevs completes the entries that watchers of the group want the previous
// values of. The group's lock is held.
func fillPrevs(h *Hub, entries []*entry, g *group) error {
	reader := prevReader{hub: h}
	defer reader.close()
	for _, e := range entries {
		var err error
		g.mu.active.visit(e.key, func(n *node) {
			if n.prevs > 0 && err == nil {
				err = reader.read(e)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
