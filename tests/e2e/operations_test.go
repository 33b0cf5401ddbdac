package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
)

// operations is how many transfers, and how many moves, TestOperationsUnderLoad makes: go test ./tests/e2e -run
// TestOperationsUnderLoad -args -operations=100.
var operations = flag.Int("operations", 3, "transfers and moves under load")

func (e *env) shards(t *testing.T) []shardJSON {
	t.Helper()
	out, err := e.kvctl(t, "shard", "list", "-w", "json")
	var all []shardJSON
	if err == nil {
		err = json.Unmarshal([]byte(out), &all)
	}
	if err != nil {
		t.Fatalf("shard list: %v\n%s", err, out)
	}
	return all
}

func (e *env) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := e.kvctl(t, args...)
	if err != nil {
		t.Fatalf("kvctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// refused runs a command that must fail with a text.
func (e *env) refused(t *testing.T, text string, args ...string) {
	t.Helper()
	out, err := e.kvctl(t, args...)
	if err == nil || !strings.Contains(out, text) || strings.Contains(out, "goroutine ") {
		t.Errorf("kvctl %s: %v, want %q:\n%s", strings.Join(args, " "), err, text, out)
	}
}

// TestOperationsUnderLoad: owners are handed over and replicas move, again and again, and clients notice nothing but latency.
func TestOperationsUnderLoad(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 4})
	e := &env{cluster: c, cli: client(t, c), sharded: true}
	e.must(t, "cluster", "settings", "set", "balance-replicas", "off")
	for i := range steadyKeys {
		e.put(t, steadyKey(i), strings.Repeat("x", 100))
	}
	e.split(t, steadyKey(500))
	shards := e.settled(t, 3)
	names := []string{"m1", "m2", "m3", "m4"}

	load := startSteady(t, e.cli, 4)
	await(t, 2*time.Second)
	quiet := load.lap()
	for i := range *operations {
		s := e.find(t, shards[i%len(shards)].ID)
		to := s.voters()[i%3]
		if to == s.Owner.Name {
			to = s.voters()[(i+1)%3]
		}
		e.must(t, "shard", "transfer", fmt.Sprint(s.ID), to)
		if now := e.find(t, s.ID); now.Owner == nil || now.Owner.Name != to {
			t.Fatalf("shard %d after its transfer to %s: %+v", s.ID, to, now)
		}
	}
	transfers := load.lap()
	for i := range *operations {
		s := e.find(t, shards[i%len(shards)].ID)
		from, to := s.voters()[i/2%3], ""
		if i%4 == 0 {
			from = s.Owner.Name
		}
		for _, name := range names {
			if !slices.Contains(s.voters(), name) {
				to = name
			}
		}
		e.must(t, "shard", "move", fmt.Sprint(s.ID), from, to)
		now := e.find(t, s.ID)
		if slices.Contains(now.voters(), from) || !slices.Contains(now.voters(), to) || len(now.Replicas) != 3 {
			t.Fatalf("shard %d after its move from %s to %s: %+v", s.ID, from, to, now)
		}
	}
	moves := load.lap()
	load.finish()
	t.Logf("quiet: %s", quiet)
	t.Logf("%d transfers: %s", *operations, transfers)
	t.Logf("%d moves: %s", *operations, moves)

	s := e.find(t, shards[0].ID)
	id, missing := fmt.Sprint(s.ID), ""
	for _, name := range names {
		if !slices.Contains(s.voters(), name) {
			missing = name
		}
	}
	e.refused(t, "has no voting replica", "shard", "transfer", id, missing)
	e.refused(t, "there is no member", "shard", "transfer", id, "m9")
	e.refused(t, "no shard 999", "shard", "transfer", "999", "m1")
	e.refused(t, "has a replica of shard "+id+" already", "shard", "move", id, s.voters()[0], s.voters()[1])
	e.refused(t, "has no replica of shard "+id, "shard", "move", id, missing, s.voters()[1])
	e.refused(t, "from a member to itself", "shard", "move", id, missing, missing)
	e.refused(t, "nothing is under way", "shard", "cancel", id)
	e.refused(t, "no such setting", "cluster", "settings", "set", "nonsense", "1")
	e.refused(t, "is not between 1 and 7", "cluster", "settings", "set", "replicas", "9")
	if out := e.must(t, "cluster", "settings"); !strings.Contains(out, "balance-replicas") {
		t.Errorf("settings:\n%s", out)
	}
	e.must(t, "cluster", "settings", "reset", "balance-replicas")

	// A move to a member that is not there cannot begin; one whose target goes away is cancelled, or goes on once it is back.
	gone := member(c, missing)
	if err := gone.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, func(context.Context) error {
		out, err := e.kvctl(t, "shard", "move", "--no-wait", id, s.voters()[0], missing)
		if err == nil {
			return fmt.Errorf("a move to a dead member began")
		}
		if !strings.Contains(out, "is not connected") && !strings.Contains(out, "is busy") {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err := gone.Start(); err != nil {
		t.Fatal(err)
	}
	if err := gone.WaitHealthy(within(t, patience)); err != nil {
		t.Fatal(err)
	}
}

// find waits until a shard is listed with an owner.
func (e *env) find(t *testing.T, id uint64) (found shardJSON) {
	t.Helper()
	eventually(t, patience, func(context.Context) error {
		for _, s := range e.shards(t) {
			if s.ID == id && s.Owner != nil {
				found = s
				return nil
			}
		}
		return fmt.Errorf("no shard %d with an owner", id)
	})
	return found
}

// await lets a load run for a while.
func await(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
