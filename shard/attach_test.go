package shard

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// spanNotes is a cluster that takes every registration and notes its span.
type spanNotes struct {
	noLeases
	spans chan keyspace.Span
}

func (n spanNotes) Register(_ context.Context, _ int64, span keyspace.Span) error {
	n.spans <- span
	return nil
}

// TestRegistrationCoversWhatItWasMadeFor: a registration is good for its own span
// only, however far the shard reaches when it is asked for (pitfall 19: a merge).
func TestRegistrationCoversWhatItWasMadeFor(t *testing.T) {
	user := func(k string) []byte { return keyspace.User([]byte(k)) }
	span := func(from, to string) keyspace.Span { return keyspace.Span{Start: user(from), End: user(to)} }
	notes := spanNotes{spans: make(chan keyspace.Span, 1)}
	te := &tenure{r: &Replica{cfg: Config{Leases: notes}}, ctx: t.Context()}
	served := span("a", "z")
	te.served.Store(&served)
	a := attachments{t: te}
	a.mu.known = map[int64]*attachment{1: {span: span("a", "m"), ready: true}}

	require.True(t, a.attachable(1, user("b")))
	require.False(t, a.attachable(1, user("m")))
	require.False(t, a.attachable(2, user("b")))
	require.True(t, a.covers(1, []keyspace.Span{span("a", "b"), span("l", "m")}))
	require.False(t, a.covers(1, []keyspace.Span{span("a", "b"), span("l", "n")}))

	// Asked for more, it registers anew, for all that the shard serves.
	done := make(chan error, 1)
	require.True(t, a.ready(1, []keyspace.Span{span("b", "c")}, nil))
	require.False(t, a.ready(1, []keyspace.Span{span("b", "c"), span("n", "o")}, func(err error) { done <- err }))
	require.Equal(t, served, <-notes.spans)
	require.NoError(t, <-done)
	require.True(t, a.attachable(1, user("n")))

	// One whose fence passed while it was under way is void.
	a.forget(1)
	require.False(t, a.ready(1, []keyspace.Span{span("b", "c")}, func(err error) { done <- err }))
	a.forget(1)
	<-notes.spans
	require.NoError(t, <-done)
	require.False(t, a.attachable(1, user("b")))
}
