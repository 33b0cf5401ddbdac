package watch

import (
	"sync"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard"
)

// source is what segments are fed by: the log of a shard as a local replica
// applies it, or as a feed brings it from another member.
type source struct {
	shard uint64
	// local says that the replica is here, so that its store can be read.
	local bool
	// serial orders the locks of sources of one shard.
	serial uint64

	mu struct {
		sync.Mutex
		// generation and span are those of the replica's descriptor. They and
		// segments change under Hub.mu as well, so that either lock will do to read.
		generation uint64
		span       keyspace.Span
		segments   []*segment
		// applied is the raft index up to which events were handed over.
		applied uint64
		// last is the largest revision known to be applied.
		last int64
		// answers wait for their raft index to be applied.
		answers []shard.Resolved
	}
}

// maxAnswers bounds the answers that wait; a newer one replaces the oldest.
const maxAnswers = 4

// answer takes in what the shard's owner resolved. It counts only for the span
// that the owner named, only if owner and source speak of the same generation,
// and only once the source has applied what the owner had. waiting says that
// this may still come about.
func (s *source) answer(r shard.Resolved) (waiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Applied <= s.mu.applied {
		s.creditLocked(r)
		return false
	}
	if r.Generation < s.mu.generation {
		return false
	}
	if len(s.mu.answers) == maxAnswers {
		s.mu.answers = append(s.mu.answers[:0], s.mu.answers[1:]...)
	}
	s.mu.answers = append(s.mu.answers, r)
	return true
}

func (s *source) creditLocked(r shard.Resolved) {
	if r.Generation != s.mu.generation {
		// It speaks of another cut of the keys. Who needed it asks again.
		for _, seg := range s.mu.segments {
			seg.wake()
		}
		return
	}
	for _, seg := range s.mu.segments {
		if r.Span.ContainsSpan(seg.span) {
			seg.credit(r.Revision)
		}
	}
}

// reachLocked notes that the log was handed over up to applied.
func (s *source) reachLocked(applied uint64) {
	s.mu.applied = max(s.mu.applied, applied)
	if len(s.mu.answers) == 0 {
		return
	}
	waiting := s.mu.answers[:0]
	for _, r := range s.mu.answers {
		if r.Applied <= s.mu.applied {
			s.creditLocked(r)
		} else {
			waiting = append(waiting, r)
		}
	}
	s.mu.answers = waiting
}

// awaits tells whether an answer of at least rev waits to count for the segment,
// or for those that will take its place once the source has applied a split that
// its owner has seen.
func (s *source) awaits(seg *segment, rev int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.mu.answers {
		if r.Revision >= rev && (r.Generation > s.mu.generation || r.Span.ContainsSpan(seg.span)) {
			return true
		}
	}
	return false
}
