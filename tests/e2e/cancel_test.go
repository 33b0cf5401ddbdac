package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
)

// TestCancelSplit: while a member is down that has to copy its part of a split, the next split of the shard waits, and can be
// cancelled; the first one only goes forward. Nothing is left of the cancelled one.
func TestCancelSplit(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 3})
	e := &env{cluster: c, cli: client(t, c), sharded: true}
	for i := range 100 {
		e.put(t, fmt.Sprintf("k%02d", i), "v")
	}
	id := fmt.Sprint(e.settled(t, 3)[0].ID)
	e.must(t, "shard", "transfer", id, c.Members[0].Name)
	// Not the sequencer, whose loss would hold the split up as well.
	down := c.Members[2]
	status, err := e.cli.Status(within(t, patience), down.ClientURL)
	must(t, "status", err)
	if status.Leader == status.Header.MemberId {
		down = c.Members[1]
	}
	must(t, "kill", down.Kill())
	e.must(t, "shard", "split", "k50")
	eventually(t, patience, func(context.Context) error {
		if s := e.shards(t)[0]; !strings.Contains(s.Operation, "(2 of 3)") {
			return fmt.Errorf("the split that waits for a member is shown as %q", s.Operation)
		}
		return nil
	})
	type answer struct {
		out string
		err error
	}
	second := make(chan answer, 1)
	go func() {
		out, err := e.kvctl(t, "shard", "split", "k25")
		second <- answer{out, err}
	}()
	eventually(t, patience, func(context.Context) error {
		out, err := e.kvctl(t, "shard", "cancel", id)
		switch {
		case err == nil && strings.Contains(out, `split at "k25"`):
			return nil
		case err == nil:
			t.Fatalf("shard cancel: %s", out)
		}
		return fmt.Errorf("the second split has not come yet: %w: %s", err, out)
	})
	select {
	case a := <-second:
		if a.err == nil || !strings.Contains(a.out, "was cancelled") {
			t.Errorf("the cancelled split: %v\n%s", a.err, a.out)
		}
	case <-time.After(patience):
		t.Fatal("the cancelled split goes on")
	}
	e.refused(t, "only goes forward", "shard", "cancel", id)
	must(t, "start", down.Start())
	if n := len(e.settled(t, 3)); n != 2 {
		t.Errorf("%d shards", n)
	}
	e.must(t, "shard", "split", "k25")
	if n := len(e.settled(t, 3)); n != 3 {
		t.Errorf("%d shards", n)
	}
	e.sameHashes(t)
}
