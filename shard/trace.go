package shard

import (
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/kvd-io/kvd/internal/tracing"
)

// writeTrace notes when a sampled write passed its stations. Its spans are made
// when it is answered, which may happen on another goroutine and before the write
// has come to its end.
type writeTrace struct {
	began time.Time
	// evaluating, queued and applying are in nanoseconds after began; 0 is not yet.
	evaluating, queued, applying atomic.Int64
}

// newWriteTrace returns nil, on which everything is without effect, for a write
// whose spans are not wanted.
func newWriteTrace(req *Request) *writeTrace {
	if !tracing.Sampled(req.Ctx) {
		return nil
	}
	return &writeTrace{began: time.Now()}
}

func (t *writeTrace) note(station *atomic.Int64, at time.Time) {
	station.Store(max(int64(at.Sub(t.began)), 1))
}

func (t *writeTrace) evaluate() {
	if t != nil {
		t.note(&t.evaluating, time.Now())
	}
}

func (t *writeTrace) queue() {
	if t != nil {
		t.note(&t.queued, time.Now())
	}
}

func (t *writeTrace) apply(began time.Time) {
	if t != nil {
		t.note(&t.applying, began)
	}
}

// end makes the spans.
func (t *writeTrace) end(w *write) {
	if t == nil {
		return
	}
	at := func(station *atomic.Int64) time.Time {
		if after := station.Load(); after > 0 {
			return t.began.Add(time.Duration(after))
		}
		return time.Time{}
	}
	now := time.Now()
	or := func(a, b time.Time) time.Time {
		if a.IsZero() {
			return b
		}
		return a
	}
	evaluating, queued, applying := at(&t.evaluating), at(&t.queued), at(&t.applying)
	shard := attribute.Int64("kvd.shard", int64(w.r.cfg.Shard))
	tracing.Past(w.req.Ctx, "shard.latch", t.began, or(evaluating, now), shard)
	tracing.Past(w.req.Ctx, "shard.evaluate", evaluating, or(queued, now), shard)
	tracing.Past(w.req.Ctx, "shard.propose", queued, or(applying, now), shard)
	tracing.Past(w.req.Ctx, "shard.apply", applying, now, shard)
}
