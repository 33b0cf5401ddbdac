package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/tests/cluster"
)

// testAlarms: an alarm that a client raises rules out the same requests through every member, until it is disarmed.
func testAlarms(t *testing.T, e *env, p string) {
	e.split(t, p+"m")
	e.put(t, p+"a", "1")
	e.put(t, p+"z", "1")
	ctx := within(t, patience)
	maintenance := etcdserverpb.NewMaintenanceClient(e.cli.ActiveConnection())
	change := func(action etcdserverpb.AlarmRequest_AlarmAction, kind etcdserverpb.AlarmType) {
		t.Helper()
		resp, err := maintenance.Alarm(ctx, &etcdserverpb.AlarmRequest{Action: action, MemberID: 77, Alarm: kind})
		if err != nil || len(resp.Alarms) != 1 {
			t.Fatalf("%v of %v: %v, %v", action, kind, resp, err)
		}
	}
	put, get, del := clientv3.OpPut(p+"k", "v"), clientv3.OpGet(p+"a"), clientv3.OpDelete(p+"none")
	requests := []struct {
		name    string
		op      clientv3.Op
		nospace bool
		corrupt bool
	}{
		{"put", put, true, true},
		{"txn with a put", clientv3.OpTxn(nil, []clientv3.Op{get}, []clientv3.Op{put}), true, true},
		{"delete", del, false, true},
		{"txn with a delete", clientv3.OpTxn(nil, []clientv3.Op{del}, nil), false, true},
		{"get", get, false, false},
		{"txn of gets", clientv3.OpTxn(nil, []clientv3.Op{get}, nil), false, false},
	}
	for _, kind := range []etcdserverpb.AlarmType{etcdserverpb.AlarmType_NOSPACE, etcdserverpb.AlarmType_CORRUPT} {
		change(etcdserverpb.AlarmRequest_ACTIVATE, kind)
		for i, cli := range e.pinned {
			eventually(t, patience, func(ctx context.Context) error {
				st, err := cli.Status(ctx, e.cluster.Endpoints()[i])
				if err == nil && !strings.Contains(strings.Join(st.Errors, " "), kind.String()) {
					err = fmt.Errorf("status of member %d tells of no alarm: %v", i+1, st.Errors)
				}
				return err
			})
			for _, r := range requests {
				_, err := cli.Do(ctx, r.op)
				what := fmt.Sprintf("%s through member %d with alarm %v", r.name, i+1, kind)
				switch {
				case kind == etcdserverpb.AlarmType_NOSPACE && r.nospace:
					wantStatus(t, what, unwrapped(err), rpctypes.ErrGRPCNoSpace)
				case kind == etcdserverpb.AlarmType_CORRUPT && r.corrupt:
					wantStatus(t, what, unwrapped(err), rpctypes.ErrGRPCCorrupt)
				case err != nil:
					t.Errorf("%s: %v", what, err)
				}
			}
			list, err := cli.AlarmList(ctx)
			if err != nil || len(list.Alarms) != 1 || list.Alarms[0].MemberID != 77 || list.Alarms[0].Alarm != kind {
				t.Errorf("alarms through member %d: %v, %v", i+1, list, err)
			}
		}
		change(etcdserverpb.AlarmRequest_DEACTIVATE, kind)
		for i, cli := range e.pinned {
			eventually(t, patience, func(ctx context.Context) error {
				_, err := cli.Put(ctx, p+"a", fmt.Sprint(i))
				return err
			})
		}
	}
}

// unwrapped gives an error of the client library its status back.
func unwrapped(err error) error {
	var etcd rpctypes.EtcdError
	if errors.As(err, &etcd) {
		return status.Error(etcd.Code(), etcd.Error())
	}
	return err
}

// testHashKV: all members hash alike at every revision from the compacted one up, and compaction does not change a hash.
func testHashKV(t *testing.T, e *env, p string) {
	e.split(t, p+"b", p+"c")
	first := e.put(t, p+"a", "1")
	for i := range 12 {
		e.put(t, p+string(rune('a'+i%4)), fmt.Sprint(i))
		if i%5 == 4 {
			e.del(t, p+"a")
		}
	}
	last := e.revision(t)
	ctx := within(t, patience)
	hashes := func(rev int64) uint32 {
		t.Helper()
		var sum uint32
		for i, cli := range e.pinned {
			var h *clientv3.HashKVResponse
			eventually(t, patience, func(ctx context.Context) (err error) {
				h, err = cli.HashKV(ctx, e.cluster.Endpoints()[i], rev)
				return err
			})
			if i > 0 && h.Hash != sum {
				t.Errorf("hash at %d: member %d has %d, member %d has %d", rev, i, sum, i+1, h.Hash)
			}
			if h.HashRevision != rev {
				t.Errorf("hash of revision %d was asked for, %d was told", rev, h.HashRevision)
			}
			sum = h.Hash
		}
		return sum
	}
	middle := (first + last) / 2
	before := map[int64]uint32{}
	for rev := first; rev <= last; rev++ {
		before[rev] = hashes(rev)
	}
	if _, err := e.cli.Compact(ctx, middle, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	for _, endpoint := range e.cluster.Endpoints() {
		if _, err := e.cli.Defragment(ctx, endpoint); err != nil {
			t.Errorf("defragment: %v", err)
		}
	}
	if binaries.kvd {
		for rev := middle; rev <= last; rev++ {
			if after := hashes(rev); after != before[rev] {
				t.Errorf("the hash at %d was %d before the compaction at %d and is %d", rev, before[rev], middle, after)
			}
		}
	}
	for i, cli := range e.pinned {
		_, err := cli.HashKV(ctx, e.cluster.Endpoints()[i], first)
		wantStatus(t, "hash below the compacted revision", unwrapped(err), rpctypes.ErrGRPCCompacted)
		_, err = cli.HashKV(ctx, e.cluster.Endpoints()[i], last+1000)
		wantStatus(t, "hash of the future", unwrapped(err), rpctypes.ErrGRPCFutureRev)
	}
}

// testMoveLeader: the leader is the same in every member's status and moves on request, with reads and writes going on.
func testMoveLeader(t *testing.T, e *env, p string) {
	e.split(t, p+"m")
	ctx := within(t, patience)
	ids := make([]uint64, len(e.pinned))
	leader := func() (at int) {
		t.Helper()
		eventually(t, patience, func(ctx context.Context) error {
			seen := map[uint64]bool{}
			for i, cli := range e.pinned {
				st, err := cli.Status(ctx, e.cluster.Endpoints()[i])
				if err != nil {
					return err
				}
				ids[i] = st.Header.MemberId
				seen[st.Leader] = true
				if st.Leader == ids[i] {
					at = i
				}
			}
			if len(seen) != 1 || seen[0] {
				return fmt.Errorf("leaders %v", seen)
			}
			return nil
		})
		return at
	}
	for range 3 {
		from := leader()
		to := (from + 1) % len(ids)
		_, err := e.pinned[to].MoveLeader(ctx, ids[to])
		wantStatus(t, "asking a member that is not the leader", unwrapped(err), rpctypes.ErrGRPCNotLeader)
		_, err = e.pinned[from].MoveLeader(ctx, 4711)
		wantStatus(t, "moving to an unknown member", unwrapped(err), rpctypes.ErrGRPCBadLeaderTransferee)
		before := e.put(t, p+"a", "before")
		if _, err := e.pinned[from].MoveLeader(ctx, ids[to]); err != nil {
			t.Fatalf("moving the leader: %v", err)
		}
		if now := leader(); now != to {
			t.Errorf("the leader went to member %d, not %d", now+1, to+1)
		}
		if after := e.put(t, p+"z", "after"); binaries.kvd && after != before+1 {
			t.Errorf("moving the leader in order went from revision %d to %d", before, after)
		}
	}
}

func testDowngrade(t *testing.T, e *env, _ string) {
	ctx := within(t, patience)
	_, err := e.cli.Downgrade(ctx, clientv3.DowngradeCancel, "")
	if binaries.kvd {
		wantStatus(t, "cancel of nothing", unwrapped(err), rpctypes.ErrGRPCNoInflightDowngrade)
	}
	_, err = e.cli.Downgrade(ctx, clientv3.DowngradeValidate, "older")
	wantStatus(t, "no version", unwrapped(err), rpctypes.ErrGRPCWrongDowngradeVersionFormat)
	_, err = e.cli.Downgrade(ctx, clientv3.DowngradeValidate, "3.2.0")
	wantStatus(t, "too old a version", unwrapped(err), rpctypes.ErrGRPCInvalidDowngradeTargetVersion)
	if resp, err := e.cli.Downgrade(ctx, clientv3.DowngradeValidate, "3.6.0"); err != nil || resp.Version != "3.7" {
		t.Errorf("validate: %v, %v", resp, err)
	}
}

// TestQuota: a tiny quota trips soon, on kvd after a dozen values, on etcd once it has written them out; compacting, defragmenting and disarming makes room.
func TestQuota(t *testing.T) {
	const page = 4096
	c := startCluster(t, cluster.Options{Members: 1, Args: []string{fmt.Sprintf("--quota-backend-bytes=%d", 13*page)}})
	cli, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	ctx := within(t, patience)
	endpoint := c.Endpoints()[0]
	for round := range 2 {
		value := strings.Repeat("b", page)
		puts := 0
		for err = error(nil); err == nil && puts < 1000; puts++ {
			_, err = cli.Put(ctx, "key", value)
		}
		wantStatus(t, "a put above the quota", unwrapped(err), rpctypes.ErrGRPCNoSpace)
		if binaries.kvd && puts > 30 {
			t.Errorf("round %d: %d values of 4 KiB went into 13 pages", round, puts)
		}
		alarms, err := cli.AlarmList(ctx)
		if err != nil || len(alarms.Alarms) != 1 || alarms.Alarms[0].Alarm != etcdserverpb.AlarmType_NOSPACE {
			t.Fatalf("alarms: %v, %v", alarms, err)
		}
		if _, err = cli.Put(ctx, "small", "x"); err == nil {
			t.Error("a small put went through while the alarm stood")
		}
		if _, err := cli.Delete(ctx, "none"); err != nil {
			t.Errorf("a delete while the alarm stood: %v", err)
		}
		got, err := cli.Get(ctx, "key")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := cli.Compact(ctx, got.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
			t.Fatal(err)
		}
		if _, err := cli.Defragment(ctx, endpoint); err != nil {
			t.Fatal(err)
		}
		if _, err := cli.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
			t.Fatal(err)
		}
		if _, err := cli.Put(ctx, "small", strings.Repeat("a", 64)); err != nil {
			t.Errorf("a small put after compaction, defragmentation and disarming: %v", err)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("making room took %v", took)
		}
	}
}

// TestAutoCompaction: history goes by itself, by time.
func TestAutoCompaction(t *testing.T) {
	c := startCluster(t, cluster.Options{Members: 1, Args: []string{"--auto-compaction-mode=periodic", "--auto-compaction-retention=1s"}})
	cli, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	ctx := within(t, patience)
	var last *clientv3.PutResponse
	for i := range 20 {
		if last, err = cli.Put(ctx, "key", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, patience, func(ctx context.Context) error {
		_, err := cli.Get(ctx, "key", clientv3.WithRev(last.Header.Revision-1))
		if err == nil {
			return errors.New("nothing was compacted")
		}
		wantStatus(t, "reading an old revision", unwrapped(err), rpctypes.ErrGRPCCompacted)
		return nil
	})
	if got, err := cli.Get(ctx, "key"); err != nil || string(got.Kvs[0].Value) != "19" {
		t.Errorf("the newest value: %v, %v", got, err)
	}
}

// TestDiskReserve: writes stop before the disk is full, and go on by themselves when there is room.
func TestDiskReserve(t *testing.T) {
	onlyKvd(t)
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	const filler = 8 << 30
	free := int64(fs.Bavail) * fs.Bsize
	if free < 3*filler {
		t.Skipf("only %d MiB of room here: other programs would decide this test", free>>20)
	}
	c := startCluster(t, cluster.Options{Members: 1, Dir: dir, Args: []string{fmt.Sprintf("--disk-reserve-bytes=%d", (free-filler/2)*4/5)}})
	cli, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	ctx := within(t, patience)
	if _, err := cli.Put(ctx, "key", "1"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "filler")
	fd, err := unix.Open(file, unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Fallocate(fd, 0, 0, free-(free-filler/2)*4/5+filler/4); err != nil {
		t.Skipf("no room can be taken in one step here: %v", err)
	}
	eventually(t, patience, func(ctx context.Context) error {
		if _, err := cli.Put(ctx, "key", "2"); err == nil {
			return errors.New("writes go on")
		}
		alarms, err := cli.AlarmList(ctx)
		if err == nil && len(alarms.Alarms) != 1 {
			err = errors.New("no alarm")
		}
		return err
	})
	if _, err := cli.Delete(ctx, "key"); err != nil {
		t.Errorf("a delete while the disk is nearly full: %v", err)
	}
	if err := unix.Ftruncate(fd, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, func(ctx context.Context) error {
		if _, err := cli.Put(ctx, "key", "3"); err != nil {
			return err
		}
		alarms, err := cli.AlarmList(ctx)
		if err == nil && len(alarms.Alarms) != 0 {
			err = fmt.Errorf("alarms stand: %v", alarms.Alarms)
		}
		return err
	})
}

// TestKvctlMaintenance: the commands of etcdctl for maintenance work in kvctl.
func TestKvctlMaintenance(t *testing.T) {
	onlyKvd(t)
	c := startCluster(t, cluster.Options{Members: 2})
	ctl := func(want string, args ...string) string {
		t.Helper()
		out, err := run(t, binaries.kvctl, append([]string{"--endpoints=" + strings.Join(c.Endpoints(), ",")}, args...)...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("kvctl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	for i := range 5 {
		ctl("OK", "put", "key", fmt.Sprint(i))
	}
	ctl("", "alarm", "list")
	ctl("compacted revision 4", "compaction", "4", "--physical")
	if out := ctl("", "endpoint", "hashkv", "--rev=5"); strings.Count(out, "\n") != 2 {
		t.Errorf("endpoint hashkv printed\n%s", out)
	}
	ctl("Finished defragmenting", "defrag")
	ctl("Downgrade validate success", "downgrade", "validate", "3.6.0")
	ctl("Downgrade enable success", "downgrade", "enable", "3.6.0")
	ctl("Downgrade cancel success", "downgrade", "cancel")
	cli, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	ctx := within(t, patience)
	st, err := cli.Status(ctx, c.Endpoints()[0])
	if err != nil {
		t.Fatal(err)
	}
	members, err := cli.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members.Members {
		if m.ID != st.Leader {
			ctl("Leadership transferred", "move-leader", fmt.Sprintf("%x", m.ID))
		}
	}
	if _, err := etcdserverpb.NewMaintenanceClient(cli.ActiveConnection()).Alarm(ctx, &etcdserverpb.AlarmRequest{
		Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: st.Leader, Alarm: etcdserverpb.AlarmType_NOSPACE,
	}); err != nil {
		t.Fatal(err)
	}
	ctl("alarm:NOSPACE", "alarm", "list")
	ctl("alarm:NOSPACE", "alarm", "disarm")
	ctl("OK", "put", "key", "again")
}
