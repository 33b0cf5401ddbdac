package shard

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// TestNoteThatFails: leases that were to be checkpointed and are not after all are kept alive from memory as before,
// without a wait for the log.
func TestNoteThatFails(t *testing.T) {
	g := newFakeGroup(t)
	defer g.close()
	g.addNode(newFakeSequencer(), func(c *Config) { c.waits = waits{propose: patience} })
	g.lead(g.nodes[0])
	r := g.nodes[0].replica
	until(t, "node serves", r.Serving)
	const count = 2*maxLeaseChange + 1
	var grants errgroup.Group
	for id := range int64(count) {
		grants.Go(func() error {
			_, err := r.Lease(t.Context(), &kvdpb.LeaseCall{Step: &kvdpb.LeaseCall_Grant{Grant: &kvdpb.LeaseGrant{Id: id + 1, Ttl: 3600, Nonce: 1}}})
			return err
		})
	}
	require.NoError(t, grants.Wait())

	s := r.tenure.Load().lessor
	var before int
	g.do(func() { g.mu.hold, before = true, len(g.mu.entries) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	noted := make(chan error, 1)
	go func() {
		_, err := s.note(ctx, 0)
		noted <- err
	}()
	until(t, "the first checkpoints", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.mu.entries) > before
	})
	cancel()
	require.ErrorIs(t, <-noted, context.Canceled)

	var others []int64
	s.mu.Lock()
	for id, l := range s.mu.leases {
		if !l.checkpointing {
			others = append(others, id)
		}
	}
	s.mu.Unlock()
	require.Len(t, others, count-maxLeaseChange)
	wait, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, id := range others {
		answer, err := s.keepAlive(wait, id)
		require.NoError(t, err)
		require.Equal(t, int64(3600), answer.Leases[0].Record.Ttl)
	}

	// The next note takes all of them.
	g.commitAll()
	tooMuch, err := s.note(wait, 0)
	require.NoError(t, err)
	require.Zero(t, tooMuch)
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, l := range s.mu.leases {
		require.Positive(t, l.record.RemainingMs, "lease %d", id)
	}
}

// TestSlackBudget: what an attempt has had of the slack it does not get again, and the next attempt gets all of it.
func TestSlackBudget(t *testing.T) {
	var b slackBudget
	require.Equal(t, leaseSlack, b.left(7))
	b.spend(7, time.Second)
	b.spend(7, -time.Millisecond)
	require.Equal(t, leaseSlack-time.Second, b.left(7))
	b.spend(7, leaseSlack)
	require.Zero(t, b.left(7))
	require.Equal(t, leaseSlack, b.left(8))
	b.spend(8, 0)
	require.Equal(t, leaseSlack, b.left(8))
}
