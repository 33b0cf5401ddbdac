package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard/manager"
	"github.com/kvd-io/kvd/tests/cluster"
)

// TestCorruption takes a key out of a stopped member's store. The replicas are found to differ, the alarm names that
// member, and changes are refused; and the member does not start when it is told to look at its data first.
func TestCorruption(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 3, Args: []string{"--corrupt-check-time=500ms", "--initial-split-keys=m"}})
	cli := client(t, c)
	for i := range 20 {
		for _, k := range []string{"b", "y"} {
			if _, err := cli.Put(within(t, patience), fmt.Sprint(k, i), "v"); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Healthy replicas are compared, and nobody complains.
	reach(t, patience, "comparisons of healthy replicas", func() (bool, error) {
		sum := 0.0
		for _, m := range c.Members {
			n, err := gauge(t, m, "kvd_integrity_comparisons_total")
			if err != nil {
				return false, err
			}
			sum += n
		}
		return sum >= 6, nil
	})
	if r, err := cli.AlarmList(within(t, patience)); err != nil || len(r.Alarms) != 0 {
		t.Fatalf("alarms of healthy replicas: %v, %v", r, err)
	}

	bad := c.Members[2]
	st, err := cli.Status(within(t, patience), bad.ClientURL)
	if err != nil {
		t.Fatal(err)
	}
	if err := bad.Stop(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	loseKey(t, bad, "b7")

	bad.SetArgs("--corrupt-check-time=500ms", "--initial-split-keys=m", "--feature-gates=InitialCorruptCheck=true")
	if err := bad.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-bad.Process().Exited():
	case <-time.After(time.Minute):
		t.Fatal("a member with other data than all others serves, although it was told to compare it first")
	}
	if log := bad.Log(); !strings.Contains(log, "check this member's data") {
		t.Errorf("the log does not say why the member ended:\n%s", bad.LogTail(2<<10))
	}

	bad.SetArgs("--corrupt-check-time=500ms", "--initial-split-keys=m")
	if err := bad.Start(); err != nil {
		t.Fatal(err)
	}
	var alarms []*etcdserverpb.AlarmMember
	reach(t, patience, "the alarm CORRUPT", func() (bool, error) {
		r, err := cli.AlarmList(within(t, patience))
		if err != nil {
			return false, err
		}
		alarms = r.Alarms
		return len(alarms) > 0, nil
	})
	if len(alarms) != 1 || alarms[0].Alarm != etcdserverpb.AlarmType_CORRUPT || alarms[0].MemberID != st.Header.MemberId {
		t.Errorf("alarms %v, want CORRUPT of %x alone", alarms, st.Header.MemberId)
	}
	for _, m := range c.Members[:2] {
		one := client(t, c, m)
		reach(t, patience, "refused writes", func() (bool, error) {
			_, err := one.Put(within(t, patience), "c", "v")
			if err != nil && !errors.Is(err, rpctypes.ErrCorrupt) {
				return false, fmt.Errorf("a write while data is corrupt: %w", err)
			}
			return err != nil, nil
		})
		if _, err := one.Get(within(t, patience), "b7", clientv3.WithSerializable()); err != nil {
			t.Errorf("a read while data is corrupt: %v", err)
		}
	}
}

// TestLeaseCorruption takes the record of a lease out of a stopped member's store, which no key shows. The replicas are found to
// differ.
func TestLeaseCorruption(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 3, Args: []string{"--corrupt-check-time=500ms"}})
	cli := client(t, c)
	lease, err := cli.Grant(within(t, patience), 36000)
	must(t, "grant", err)
	_, err = cli.Put(within(t, patience), "k", "v", clientv3.WithLease(lease.ID))
	must(t, "put", err)
	bad := c.Members[1]
	st, err := cli.Status(within(t, patience), bad.ClientURL)
	must(t, "status", err)
	must(t, "stop", bad.Stop(within(t, patience)))
	record := binary.BigEndian.AppendUint64([]byte("lease/"), uint64(lease.ID))
	lose(t, bad, "the record of the lease", func(store *mvcc.Store) (bool, error) {
		value, err := store.GetLocal(record)
		if value == nil || err != nil {
			return false, err
		}
		b := store.NewBatch()
		b.DeleteLocal(record)
		return true, b.Commit()
	})
	must(t, "start", bad.Start())
	reach(t, patience, "the alarm CORRUPT", func() (bool, error) {
		r, err := cli.AlarmList(within(t, patience))
		if err != nil || len(r.Alarms) == 0 {
			return false, err
		}
		if len(r.Alarms) != 1 || r.Alarms[0].Alarm != etcdserverpb.AlarmType_CORRUPT || r.Alarms[0].MemberID != st.Header.MemberId {
			t.Errorf("alarms %v, want CORRUPT of %x alone", r.Alarms, st.Header.MemberId)
		}
		return true, nil
	})
}

// loseKey takes a key out of the store of a member that is stopped, below everything that would take note of it.
func loseKey(t *testing.T, m *cluster.Member, key string) {
	t.Helper()
	lose(t, m, "key "+key, func(store *mvcc.Store) (bool, error) {
		sn := store.NewSnapshot()
		head, err := sn.Head(keyspace.User([]byte(key)))
		sn.Close()
		if err != nil || !head.Exists {
			return false, err
		}
		b := store.NewBatch()
		b.DropSpan(keyspace.UserSpan([]byte(key), nil))
		return true, b.Commit()
	})
}

// lose changes the one store of a stopped member that holds something.
func lose(t *testing.T, m *cluster.Member, what string, take func(*mvcc.Store) (taken bool, err error)) {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(m.DataDir, manager.Dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	engine, err := mvcc.NewEngine(mvcc.EngineOptions{CacheBytes: 8 << 20, MemtableBudget: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	lost := 0
	for _, dir := range dirs {
		if fi, err := os.Stat(dir); err != nil || !fi.IsDir() || filepath.Base(dir) == "marks" {
			continue
		}
		store, err := engine.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		taken, err := take(store)
		if taken {
			lost++
		}
		if err == nil {
			err = store.Flush()
		}
		if err := errors.Join(err, store.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if lost != 1 {
		t.Fatalf("%s was in %d stores of %v", what, lost, dirs)
	}
}

// reach waits for a condition. An error ends the test.
func reach(t *testing.T, limit time.Duration, what string, ok func() (bool, error)) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := ok()
		switch {
		case err != nil:
			t.Fatal(err)
		case done:
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("it never came to this: %s", what)
		}
	}
}
