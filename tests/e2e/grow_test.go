package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// grown is to how many members TestGrowAndShrink grows: go test ./tests/e2e -run TestGrowAndShrink -args -members=5.
var grown = flag.Int("members", 3, "members that a cluster grows to")

// TestGrowAndShrink: a cluster grows from one member and shrinks back to one under a steady load, whose clients talk to the
// member that stays and see no error.
func TestGrowAndShrink(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 1})
	stays := c.Members[0]
	e := &env{cluster: &cluster.Cluster{Members: []*cluster.Member{stays}}, cli: client(t, c, stays), sharded: true}
	for i := range steadyKeys {
		e.put(t, steadyKey(i), "v")
	}
	e.split(t, steadyKey(500))
	load := startSteady(t, e.cli, 2)
	members := []*cluster.Member{stays}
	grow := func() {
		t.Helper()
		m, err := c.Add(members...)
		if err != nil {
			t.Fatal(err)
		}
		changed(t, func() error {
			_, err := e.cli.MemberAdd(within(t, patience), []string{m.PeerURL})
			return err
		})
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		members = append(members, m)
		if err := m.WaitReady(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		e.settled(t, min(len(members), 3))
	}
	shrink := func() {
		t.Helper()
		m := members[len(members)-1]
		id := e.memberID(t, m.Name)
		changed(t, func() error {
			_, err := e.cli.MemberRemove(within(t, patience), id)
			if errors.Is(err, rpctypes.ErrMemberNotFound) {
				return nil // an earlier try
			}
			return err
		})
		select {
		case <-m.Process().Exited():
		case <-time.After(time.Minute):
			t.Fatalf("the removed member %s goes on", m.Name)
		}
		members = members[:len(members)-1]
		e.settled(t, min(len(members), 3))
	}
	for range *grown - 1 {
		grow()
	}
	t.Logf("while growing: %s", load.lap())
	for range *grown - 1 {
		shrink()
	}
	t.Logf("while shrinking: %s", load.lap())
	load.finish()
	if got := e.get(t, steadyPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly()); got.Count != steadyKeys {
		t.Errorf("%d of %d keys are left", got.Count, steadyKeys)
	}
}

// changed repeats a change of members while the cluster says that it is not healthy enough for one, as it does for five seconds
// after each member that came.
func changed(t *testing.T, change func() error) {
	t.Helper()
	eventually(t, time.Minute, func(context.Context) error {
		err := change()
		if err != nil && !errors.Is(err, rpctypes.ErrUnhealthy) && !errors.Is(err, rpctypes.ErrMemberNotEnoughStarted) && !strings.Contains(err.Error(), "unhealthy") {
			t.Fatal(err)
		}
		if err != nil {
			await(t, 200*time.Millisecond)
		}
		return err
	})
}

func (e *env) memberID(t *testing.T, name string) uint64 {
	t.Helper()
	list, err := e.cli.MemberList(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Members {
		if m.Name == name {
			return m.ID
		}
	}
	t.Fatalf("no member %s", name)
	return 0
}

// TestMoveOutlivesKills: whoever takes part in a move is killed while it is under way; it goes on or can be cancelled, and nothing
// that was acknowledged is lost.
func TestMoveOutlivesKills(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 4})
	e := &env{cluster: c, cli: client(t, c), sharded: true}
	e.must(t, "cluster", "settings", "set", "balance-replicas", "off")
	value := noise(32 << 10)
	for i := range 200 {
		e.put(t, fmt.Sprintf("key/%04d", i), value)
	}
	id := e.settled(t, 3)[0].ID
	for _, victim := range []string{"target", "owner", "source"} {
		s := e.find(t, id)
		from := ""
		for _, name := range s.voters() {
			if name != s.Owner.Name {
				from = name
			}
		}
		to := ""
		for _, m := range c.Members {
			if !slices.Contains(s.voters(), m.Name) {
				to = m.Name
			}
		}
		e.must(t, "shard", "move", "--no-wait", fmt.Sprint(id), from, to)
		m := member(c, map[string]string{"target": to, "owner": s.Owner.Name, "source": from}[victim])
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, func(ctx context.Context) error {
			_, err := e.cli.Put(ctx, "key/alive", victim)
			return err
		})
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		if err := m.WaitHealthy(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		now := e.settled(t, 3)[0]
		if !slices.Contains(now.voters(), to) || slices.Contains(now.voters(), from) {
			t.Errorf("after the %s (%s) was killed the move from %s to %s did not go on: %+v", victim, m.Name, from, to, now)
		}
		got := e.get(t, "key/0", clientv3.WithPrefix())
		if len(got.Kvs) != 200 {
			t.Fatalf("%d of 200 keys are left", len(got.Kvs))
		}
		for _, kv := range got.Kvs {
			if string(kv.Value) != value {
				t.Fatalf("%s has changed", kv.Key)
			}
		}
	}

	// One whose target stays away is cancelled.
	s := e.find(t, id)
	to, from := "", s.voters()[0]
	for _, m := range c.Members {
		if !slices.Contains(s.voters(), m.Name) {
			to = m.Name
		}
	}
	m := member(c, to)
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	defer m.Resume()
	out, err := e.kvctl(t, "shard", "move", "--no-wait", fmt.Sprint(id), from, to)
	if err != nil {
		t.Skipf("the paused member was found out before the move began: %v\n%s", err, out)
	}
	if out := e.must(t, "shard", "cancel", fmt.Sprint(id)); !strings.Contains(out, "Cancelled: move "+from+" to "+to) {
		t.Errorf("cancel: %s", out)
	}
	if now := e.find(t, id); !slices.Equal(now.voters(), s.voters()) {
		t.Errorf("after the cancelled move: %+v, was %+v", now, s)
	}
}
