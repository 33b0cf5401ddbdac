package watch

import "sync/atomic"

type counters struct {
	streams, watchers, slow, pending, events atomic.Int64
	rounds                                   atomic.Int64
}

// Stats is what the hub reports of itself, at one moment.
type Stats struct {
	// Streams and Watchers are open now; Slow counts the watches among them that
	// wait for their client to read.
	Streams, Watchers, Slow int64
	// PendingEvents wait on streams to be sent; an event counts once per watch.
	PendingEvents int64
	// Cohorts are the catch-ups under way.
	Cohorts int64
	// Events counts the events delivered so far, once per watch; Rounds the rounds
	// of questions to shard owners.
	Events, Rounds int64
}

// Stats returns the hub's figures.
func (h *Hub) Stats() Stats {
	h.groups.Lock()
	cohorts := 0
	for _, cs := range h.groups.cohorts {
		cohorts += len(cs)
	}
	h.groups.Unlock()
	return Stats{
		Streams: h.stats.streams.Load(), Watchers: h.stats.watchers.Load(), Slow: h.stats.slow.Load(),
		PendingEvents: h.stats.pending.Load(), Cohorts: int64(cohorts),
		Events: h.stats.events.Load(), Rounds: h.stats.rounds.Load(),
	}
}
