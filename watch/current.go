package watch

import (
	"context"
	"sync"
	"time"

	"github.com/kvd-io/kvd/shard"
)

// moment is what the sequencer says when a watch begins.
type moment struct {
	// revision: no write that starts from now on gets it or a smaller one.
	revision int64
	// compacted is the compaction revision; 0 if it is not known.
	compacted int64
	// asked: the sequencer answered, and auth is the auth version that it told.
	asked bool
	auth  uint64
}

func momentOf(g shard.Grant) moment {
	return moment{revision: g.First, compacted: g.Stamp.CompactRevision, asked: true, auth: g.Stamp.AuthVersion}
}

// resolvedCurrent remembers that the sequencer did not answer, so that not every
// new watch waits for it.
type resolvedCurrent struct {
	sync.Mutex
	failed time.Time
}

// now asks the sequencer for the current revision. Where it cannot be reached
// the largest revision known here does as well: a write that starts later gets a
// larger one, so a watch only sees more of the past than it would have. Then, as
// in etcd, watches work on a member that is cut off. An error is that of ctx.
func (h *Hub) now(ctx context.Context) (moment, error) {
	if g, ok := h.cfg.Revisions.TryCurrent(); ok {
		h.saw(g.First)
		return momentOf(g), nil
	}
	h.current.Lock()
	recent := time.Since(h.current.failed) < currentTimeout
	h.current.Unlock()
	if !recent {
		asked, cancel := context.WithTimeout(ctx, currentTimeout)
		g, err := h.cfg.Revisions.Current(asked)
		cancel()
		if err == nil {
			h.saw(g.First)
			return momentOf(g), nil
		}
		h.current.Lock()
		h.current.failed = time.Now()
		h.current.Unlock()
	}
	if err := ctx.Err(); err != nil {
		return moment{}, err
	}
	return moment{revision: h.seen.Load()}, nil
}
