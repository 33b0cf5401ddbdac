package watch

import "github.com/kvd-io/kvd/mvcc/keyspace"

// Recheck ends those watches of the stream that the client may not go on with.
// permit is called for each with its key and range end as etcd's requests have
// them, and answers why not.
func (s *Stream) Recheck(permit func(key, rangeEnd []byte) error) {
	type judged struct {
		id   int64
		span keyspace.Span
	}
	s.mu.Lock()
	all := make([]judged, 0, len(s.mu.watchers))
	for id, w := range s.mu.watchers {
		if !w.compacted {
			all = append(all, judged{id, w.span})
		}
	}
	s.mu.Unlock()
	for _, w := range all {
		if err := permit(rangeOf(w.span)); err != nil {
			// A stream that was closed has no watches any more.
			_ = s.cancel(w.id, err.Error())
		}
	}
}

// rangeOf is the key and range end that a span was made of, or one that means the
// same keys.
func rangeOf(span keyspace.Span) (key, rangeEnd []byte) {
	key, _ = keyspace.UserKey(span.Start)
	if len(key) == 0 {
		// No user key sorts before this one.
		key = []byte{0}
	}
	if span.IsKey() {
		return key, nil
	}
	end, ok := keyspace.UserKey(span.End)
	if !ok {
		end = []byte{0}
	}
	return key, end
}
