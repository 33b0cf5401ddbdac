package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/tests/cluster"
)

// env is the cluster that the tests of the shared surface use one after the other.
type env struct {
	cluster *cluster.Cluster
	cli     *clientv3.Client   // through any member
	pinned  []*clientv3.Client // through one each
	sharded bool
	tests   int
}

// surfaceTests are run by TestSurface, in this order, each with keys of its own.
var surfaceTests = []struct {
	name string
	run  func(t *testing.T, e *env, p string)
}{
	{"RequestErrors", testRequestErrors},
	{"TxnErrors", testTxnErrors},
	{"PutGetDelete", testPutGetDelete},
	{"RevisionsAreDense", testRevisionsAreDense},
	{"EveryByteInKeys", testEveryByteInKeys},
	{"EmptyRanges", testEmptyRanges},
	{"OversizedRequests", testOversizedRequests},
	{"RangeAgainstTwin", testRangeAgainstTwin},
	{"OldRevisions", testOldRevisions},
	{"RangeStream", testRangeStream},
	{"TxnCompares", testTxnCompares},
	{"TxnEffects", testTxnEffects},
	{"TxnNested", testTxnNested},
	{"TxnOverRanges", testTxnOverRanges},
	{"ConcurrentCounters", testConcurrentCounters},
	{"ReadYourWrites", testReadYourWrites},
	{"Serializable", testSerializable},
	{"WatchOrderAndKinds", testWatchOrderAndKinds},
	{"WatchPrevKVAndFilters", testWatchPrevKVAndFilters},
	{"WatchFromThePast", testWatchFromThePast},
	{"WatchFutureRevision", testWatchFutureRevision},
	{"WatchAtomic", testWatchAtomic},
	{"WatchFragments", testWatchFragments},
	{"WatchProgress", testWatchProgress},
	{"WatchCancel", testWatchCancel},
	{"WatchManyPerStream", testWatchManyPerStream},
	{"WatchRefusals", testWatchRefusals},
	{"WatchThroughAllMembers", testWatchThroughAllMembers},
	{"WatchSlowReader", testWatchSlowReader},
	{"ListThenWatch", testListThenWatch},
	{"LeaseLife", testLeaseLife},
	{"LeaseErrors", testLeaseErrors},
	{"LeaseAttachAndDetach", testLeaseAttachAndDetach},
	{"LeaseExpiry", testLeaseExpiry},
	{"LeaseKeepAlive", testLeaseKeepAlive},
	{"Mutex", testMutex},
	{"Election", testElection},
	{"STM", testSTM},
	{"Queues", testQueues},
	{"Barriers", testBarriers},
	{"LockService", testLockService},
	{"ElectionService", testElectionService},
	{"Compaction", testCompaction},
	{"MemberListAndStatus", testMemberListAndStatus},
	{"Alarms", testAlarms},
	{"HashKV", testHashKV},
	{"MoveLeader", testMoveLeader},
	{"Downgrade", testDowngrade},
	{"Health", testHealth},
	{"Etcdctl", testEtcdctl},
}

func TestSurface(t *testing.T) {
	c := startCluster(t, cluster.Options{Members: 3, Args: unhurried("--watch-progress-notify-interval=1s")})
	e := &env{cluster: c}
	connect := func(members ...*cluster.Member) *clientv3.Client {
		cli, err := c.Client(members...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cli.Close() })
		return cli
	}
	e.cli = connect()
	for _, m := range c.Members {
		e.pinned = append(e.pinned, connect(m))
	}
	all := func(t *testing.T) {
		for _, st := range surfaceTests {
			t.Run(st.name, func(t *testing.T) {
				e.tests++
				t.Cleanup(func() { e.revive(t) })
				st.run(t, e, fmt.Sprintf("test%03d/", e.tests))
			})
		}
	}
	t.Run("OneShard", all)
	if binaries.kvd {
		e.sharded = true
		t.Run("ManyShards", all)
	}
}

// revive fails a test that a member did not survive and starts the member again, so that the tests that follow say something.
func (e *env) revive(t *testing.T) {
	for _, m := range e.cluster.Members {
		if m.Running() {
			continue
		}
		t.Errorf("member %s ended (%v); end of its log:\n%s", m.Name, m.Process().Err(), m.LogTail(6<<10))
		if err := m.Start(); err != nil {
			t.Error(err)
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if err := m.WaitHealthy(ctx); err != nil {
			t.Error(err)
		}
		cancel()
	}
}

// split cuts shards at keys in the half of TestSurface that is about many shards, and does nothing in the other.
func (e *env) split(t *testing.T, keys ...string) {
	t.Helper()
	if !e.sharded {
		return
	}
	for _, key := range keys {
		if out, err := e.kvctl(t, "shard", "split", argument(key)); err != nil {
			t.Fatalf("splitting at %q: %v\n%s", key, err, out)
		}
	}
}

// argument writes a key as kvctl reads it: as it is, or as a quoted Go string where an argument cannot hold it.
func argument(key string) string {
	if q := strconv.Quote(key); q != `"`+key+`"` {
		return q
	}
	return key
}

func (e *env) kvctl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return run(t, binaries.kvctl, append([]string{"--endpoints=" + strings.Join(e.cluster.Endpoints(), ",")}, args...)...)
}

// kv is the raw service, for requests that the client library would not send.
func (e *env) kv() etcdserverpb.KVClient {
	return etcdserverpb.NewKVClient(e.cli.ActiveConnection())
}

func (e *env) put(t *testing.T, key, value string, opts ...clientv3.OpOption) int64 {
	t.Helper()
	resp, err := e.cli.Put(within(t, patience), key, value, opts...)
	if err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
	return resp.Header.Revision
}

func (e *env) get(t *testing.T, key string, opts ...clientv3.OpOption) *clientv3.GetResponse {
	t.Helper()
	resp, err := e.cli.Get(within(t, patience), key, opts...)
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	return resp
}

func (e *env) del(t *testing.T, key string, opts ...clientv3.OpOption) *clientv3.DeleteResponse {
	t.Helper()
	resp, err := e.cli.Delete(within(t, patience), key, opts...)
	if err != nil {
		t.Fatalf("delete %q: %v", key, err)
	}
	return resp
}

func (e *env) commit(t *testing.T, txn clientv3.Txn) *clientv3.TxnResponse {
	t.Helper()
	resp, err := txn.Commit()
	if err != nil {
		t.Fatalf("txn: %v", err)
	}
	return resp
}

// revision is the current revision by a linearizable read.
func (e *env) revision(t *testing.T) int64 {
	t.Helper()
	return e.get(t, "no such key").Header.Revision
}

// wantStatus checks code and text of an error.
func wantStatus(t *testing.T, what string, err, want error) {
	t.Helper()
	got, w := status.Convert(err), status.Convert(want)
	if err == nil || got.Code() != w.Code() || got.Message() != w.Message() {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// eventually repeats cond until it gives no error.
func eventually(t *testing.T, d time.Duration, cond func(ctx context.Context) error) {
	t.Helper()
	ctx := within(t, d)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}
