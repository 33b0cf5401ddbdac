package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// TestForceNewCluster: all three members are killed, two of them for good. The third goes on alone with all that
// it had: keys of several shards with their history, leases, users, settings; and grows to three members again.
func TestForceNewCluster(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 3, Args: []string{"--initial-split-keys=g,p", "--bcrypt-cost=4"}})
	last := c.Members[2]
	cli := client(t, c)
	ctx := within(t, patience)
	prefixes := []string{"a/", "h/", "q/"}
	for i := range 100 {
		var ops []clientv3.Op
		for _, p := range prefixes {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s%03d", p, i), fmt.Sprint("v", i)))
		}
		_, err := cli.Txn(ctx).Then(ops...).Commit()
		must(t, "transaction over three shards", err)
	}
	old, err := cli.Put(ctx, "a/000", "newer")
	must(t, "put", err)
	_, err = cli.Compact(ctx, old.Header.Revision-10)
	must(t, "compact", err)
	lease, err := cli.Grant(ctx, 3600)
	must(t, "grant", err)
	for _, p := range prefixes {
		_, err := cli.Put(ctx, p+"leased", "v", clientv3.WithLease(lease.ID))
		must(t, "put with lease", err)
	}
	_, err = cli.UserAdd(ctx, "alice", "alicepw")
	must(t, "user", err)
	before, err := cli.Get(ctx, "", clientv3.WithFromKey())
	must(t, "get", err)
	follower := client(t, c, last)
	eventually(t, time.Minute, func(ctx context.Context) error {
		own, err := follower.Get(ctx, "", clientv3.WithFromKey(), clientv3.WithSerializable(), clientv3.WithCountOnly())
		if err == nil && own.Header.Revision < before.Header.Revision {
			err = fmt.Errorf("the member that is to stay is at revision %d of %d", own.Header.Revision, before.Header.Revision)
		}
		return err
	})
	must(t, "kill", errors.Join(c.Members[1].Kill(), last.Kill()))

	// Not while another member runs.
	last.SetArgs("--force-new-cluster")
	wantRefusal(t, last, "another member of the cluster is running", "nothing was changed")
	must(t, "kill", c.Members[0].Kill())

	must(t, "start", last.Start())
	must(t, "start alone", last.WaitReady(within(t, patience)))
	alone := client(t, c, last)
	check := func() {
		t.Helper()
		ctx := within(t, patience)
		after, err := alone.Get(ctx, "", clientv3.WithFromKey())
		must(t, "get", err)
		if len(after.Kvs) < len(before.Kvs) {
			t.Fatalf("%d of %d keys are left", len(after.Kvs), len(before.Kvs))
		}
		if after.Header.Revision < before.Header.Revision {
			t.Errorf("the revision went back from %d to %d", before.Header.Revision, after.Header.Revision)
		}
		kept := map[string]string{}
		for _, kv := range after.Kvs {
			kept[string(kv.Key)] = fmt.Sprint(kv)
		}
		for _, kv := range before.Kvs {
			if kept[string(kv.Key)] != fmt.Sprint(kv) {
				t.Errorf("%s was %v and is %s", kv.Key, kv, kept[string(kv.Key)])
			}
		}
	}
	check()
	was, err := alone.Get(ctx, "a/000", clientv3.WithRev(old.Header.Revision-1))
	must(t, "get of the past", err)
	if string(was.Kvs[0].Value) != "v0" {
		t.Errorf("a/000 was %q", was.Kvs[0].Value)
	}
	_, err = alone.Get(ctx, "a/000", clientv3.WithRev(old.Header.Revision-11))
	if err == nil || !strings.Contains(err.Error(), "compacted") {
		t.Errorf("what was compacted: %v", err)
	}
	ttl, err := alone.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	must(t, "time to live", err)
	if len(ttl.Keys) != len(prefixes) || ttl.GrantedTTL != 3600 {
		t.Errorf("lease: %+v", ttl)
	}
	users, err := alone.UserList(ctx)
	must(t, "users", err)
	if fmt.Sprint(users.Users) != "[alice]" {
		t.Errorf("users: %v", users.Users)
	}
	members, err := alone.MemberList(ctx)
	must(t, "members", err)
	if len(members.Members) != 1 || members.Members[0].Name != last.Name {
		t.Errorf("members: %v", members.Members)
	}
	_, err = alone.Txn(ctx).If(clientv3.Compare(clientv3.Value("a/001"), "=", "v1")).
		Then(clientv3.OpPut("a/new", "1"), clientv3.OpPut("q/new", "1")).Commit()
	must(t, "transaction", err)

	// The flag does no harm to who is alone, and is not needed.
	for _, args := range [][]string{{"--force-new-cluster"}, nil} {
		last.SetArgs(args...)
		must(t, "restart", last.Kill())
		must(t, "restart", last.Start())
		must(t, "restart", last.WaitReady(within(t, patience)))
		check()
	}

	e := &env{cluster: &cluster.Cluster{Members: []*cluster.Member{last}}, cli: alone, sharded: true}
	grown := []*cluster.Member{last}
	for range 2 {
		m, err := c.Add(grown...)
		must(t, "add", err)
		changed(t, func() error {
			_, err := alone.MemberAdd(within(t, patience), []string{m.PeerURL})
			return err
		})
		must(t, "start", m.Start())
		must(t, "start", m.WaitReady(within(t, patience)))
		grown = append(grown, m)
		e.settled(t, len(grown))
	}
	must(t, "kill", last.Kill())
	alone = client(t, c, grown[1:]...)
	eventually(t, time.Minute, func(ctx context.Context) error {
		_, err := alone.Put(ctx, "h/last", "1")
		return err
	})
	check()
	_, err = alone.Revoke(within(t, patience), lease.ID)
	must(t, "revoke", err)
	for _, p := range prefixes {
		if got, err := alone.Get(within(t, patience), p+"leased"); err != nil || len(got.Kvs) != 0 {
			t.Errorf("%sleased outlives its lease: %v, %v", p, got, err)
		}
	}
}

// TestForceNewClusterNeedsAllShards: a member without a replica of some shard is refused before anything is changed, so that
// the cluster can still be started as it was.
func TestForceNewClusterNeedsAllShards(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 4, Args: []string{"--initial-split-keys=d,h,m,q"}})
	cli := client(t, c)
	for _, k := range []string{"a", "e", "i", "n", "r"} {
		_, err := cli.Put(within(t, patience), k, "v")
		must(t, "put", err)
	}
	must(t, "kill", c.KillAll())
	m := c.Members[0]
	m.SetArgs("--force-new-cluster")
	wantRefusal(t, m, "this member has no data of ", "restore a snapshot", "nothing was changed")
	m.SetArgs()
	must(t, "start", c.StartAll(within(t, patience)))
	got, err := client(t, c).Get(within(t, patience), "", clientv3.WithFromKey())
	must(t, "get", err)
	if len(got.Kvs) != 5 {
		t.Errorf("%d of 5 keys are left", len(got.Kvs))
	}
}

// wantRefusal starts a member that is to end by itself, with an error that says all of these.
func wantRefusal(t *testing.T, m *cluster.Member, texts ...string) {
	t.Helper()
	must(t, "start", m.Start())
	select {
	case <-m.Process().Exited():
	case <-time.After(time.Minute):
		t.Fatal("the member goes on")
	}
	for _, text := range texts {
		if log := m.LogTail(4 << 10); !strings.Contains(log, text) {
			t.Errorf("the log does not say %q:\n%s", text, log)
		}
	}
}
