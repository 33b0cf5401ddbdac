package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// corrupt lists the members whose replicas of the shard were found to differ.
func (s shardJSON) corrupt() (names []string) {
	for _, r := range s.Replicas {
		if r.Corrupt {
			names = append(names, r.Name)
		}
	}
	return names
}

// TestRebuild takes keys of two shards out of a stopped member's stores. The replicas are named and fenced: the member answers from
// the others, and owns neither shard. One command makes each anew, although the member is killed amid the second; with the last one
// the alarm ends, all members hash alike, and the member owns shards again.
func TestRebuild(t *testing.T) {
	onlyKvd(t)
	args := []string{"--corrupt-check-time=500ms", "--initial-split-keys=m"}
	c := startCluster(t, cluster.Options{Members: 3, Args: args})
	e := &env{cluster: c, cli: client(t, c), sharded: true}
	for i := range 50 {
		e.put(t, fmt.Sprint("b", i), "v")
		e.put(t, fmt.Sprint("y", i), strings.Repeat("w", 1000))
	}
	shards := e.settled(t, 3)
	left, right := fmt.Sprint(shards[0].ID), fmt.Sprint(shards[1].ID)
	bad := c.Members[2]
	// Whoever owns the shards when their data is lost must give them away.
	e.must(t, "shard", "transfer", left, bad.Name)
	must(t, "stop", bad.Stop(within(t, patience)))
	loseKey(t, bad, "b7")
	loseKey(t, bad, "y7")
	must(t, "start", bad.Start())
	must(t, "health", bad.WaitReady(within(t, patience)))
	eventually(t, time.Minute, func(context.Context) error {
		for _, s := range e.shards(t) {
			if names := s.corrupt(); len(names) != 1 || names[0] != bad.Name {
				return fmt.Errorf("shard %d: %v are known to be corrupt", s.ID, names)
			}
			if s.Owner == nil || s.Owner.Name == bad.Name {
				return fmt.Errorf("shard %d has no owner that is sound", s.ID)
			}
		}
		return nil
	})
	atBad := client(t, c, bad)
	for _, key := range []string{"b7", "y7"} {
		for _, option := range [][]clientv3.OpOption{nil, {clientv3.WithSerializable()}} {
			// That member may be the last one to hear of the alarm.
			eventually(t, patience, func(ctx context.Context) error {
				r, err := atBad.Get(ctx, key, option...)
				if err == nil && len(r.Kvs) != 1 {
					err = fmt.Errorf("the member whose replica has lost %s answers %v", key, r)
				}
				return err
			})
		}
	}
	e.refused(t, "sound", "shard", "rebuild", left, "--member", c.Members[0].Name)
	e.refused(t, "was found to differ", "shard", "transfer", left, bad.Name)
	e.refused(t, "is corrupt", "shard", "split", "f")
	e.refused(t, "there is no member", "shard", "rebuild", left, "--member", "m9")
	e.refused(t, "no shard 999", "shard", "rebuild", "999")

	out := e.must(t, "shard", "rebuild", left)
	if !strings.Contains(out, "is rebuilt on "+bad.Name) {
		t.Errorf("shard rebuild says %q", out)
	}
	if r, err := e.cli.AlarmList(within(t, patience)); err != nil || len(r.Alarms) != 1 || r.Alarms[0].Alarm != etcdserverpb.AlarmType_CORRUPT {
		t.Errorf("alarms with one replica left that differs: %v, %v", r, err)
	}
	eventually(t, patience, func(context.Context) error {
		if names := e.find(t, shards[0].ID).corrupt(); len(names) != 0 {
			return fmt.Errorf("%v are still said to be corrupt", names)
		}
		return nil
	})
	e.refused(t, "no replica of shard "+left+" was found to differ", "shard", "rebuild", left)

	e.must(t, "shard", "rebuild", right, "--member", bad.Name, "--no-wait")
	must(t, "kill", bad.Kill())
	must(t, "start", bad.Start())
	eventually(t, 2*time.Minute, func(ctx context.Context) error {
		r, err := e.cli.AlarmList(ctx)
		if err == nil && len(r.Alarms) > 0 {
			err = fmt.Errorf("alarms %v", r.Alarms)
		}
		return err
	})
	e.settled(t, 3)
	for _, key := range []string{"c", "z"} {
		eventually(t, patience, func(ctx context.Context) error {
			_, err := e.cli.Put(ctx, key, "v") // some member may hear later that the alarm has ended
			return err
		})
	}
	e.sameHashes(t)
	e.must(t, "shard", "transfer", left, bad.Name)
	e.must(t, "shard", "transfer", right, bad.Name)
	if r, err := atBad.Get(within(t, patience), "y7"); err != nil || len(r.Kvs) != 1 {
		t.Errorf("the rebuilt member answers %v, %v", r, err)
	}
	e.refused(t, "nothing is under way", "shard", "cancel", right)
}

// sameHashes waits until all members hash alike at one revision, as they do at once where nothing is wrong.
func (e *env) sameHashes(t *testing.T) {
	t.Helper()
	eventually(t, patience, e.bankHashes)
}
