package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// testLockService: a lock is taken, waited for, given up by who goes away, and freed, through any member.
func testLockService(t *testing.T, e *env, p string) {
	e.split(t, p+"l/5")
	ctx := within(t, patience)
	through := func(m int) v3lockpb.LockClient { return v3lockpb.NewLockClient(e.pinned[m].ActiveConnection()) }
	lease := func() int64 {
		l, err := e.cli.Grant(ctx, 60)
		must(t, "grant", err)
		return int64(l.ID)
	}
	name := []byte(p + "l")
	held, err := through(0).Lock(ctx, &v3lockpb.LockRequest{Name: name, Lease: lease()})
	must(t, "lock", err)
	if !strings.HasPrefix(string(held.Key), p+"l/") || held.Header.GetRevision() == 0 {
		t.Errorf("lock answers %v", held)
	}
	waiters := func(want int64) {
		t.Helper()
		eventually(t, patience, func(ctx context.Context) error {
			got, err := e.cli.Get(ctx, p+"l/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			if err == nil && got.Count != want {
				err = fmt.Errorf("%d keys of the lock, want %d", got.Count, want)
			}
			return err
		})
	}
	// One that goes away leaves nothing behind.
	leaving, leave := context.WithCancel(ctx)
	left := make(chan error, 1)
	go func() {
		_, err := through(1).Lock(leaving, &v3lockpb.LockRequest{Name: name, Lease: lease()})
		left <- err
	}()
	waiters(2)
	leave()
	if err := <-left; status.Code(err) != codes.Canceled {
		t.Errorf("a cancelled lock: %v", err)
	}
	waiters(1)
	// One without lease is given one.
	next := make(chan *v3lockpb.LockResponse, 1)
	failed := make(chan error, 1)
	go func() {
		r, err := through(2).Lock(ctx, &v3lockpb.LockRequest{Name: name})
		next <- r
		failed <- err
	}()
	waiters(2)
	select {
	case r := <-next:
		t.Fatalf("two hold the lock: %v, %v", held, r)
	default:
	}
	_, err = through(1).Unlock(ctx, &v3lockpb.UnlockRequest{Key: held.Key})
	must(t, "unlock", err)
	second := <-next
	must(t, "lock of the second", <-failed)
	if got := e.get(t, string(second.Key)); len(got.Kvs) != 1 || got.Kvs[0].Lease == 0 {
		t.Errorf("the lock's key is %v", got.Kvs)
	}
	// The recipe of the client library is the same lock.
	if err := concurrency.NewMutex(e.session(t, 0), p+"l").TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		t.Errorf("a lock of the library beside one of the service: %v", err)
	}
	_, err = through(0).Lock(ctx, &v3lockpb.LockRequest{Name: name, Lease: 123456789})
	wantText(t, "lock with an unknown lease", err, "requested lease not found")
}

func wantText(t *testing.T, what string, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v, want %q", what, err, text)
	}
}

// testElectionService: as the recipe, over gRPC.
func testElectionService(t *testing.T, e *env, p string) {
	e.split(t, p+"e/5")
	ctx := within(t, patience)
	through := func(m int) v3electionpb.ElectionClient {
		return v3electionpb.NewElectionClient(e.pinned[m].ActiveConnection())
	}
	name := []byte(p + "e")
	_, err := through(0).Leader(ctx, &v3electionpb.LeaderRequest{Name: name})
	wantText(t, "leader before there is one", err, "election: no leader")
	seeing, stop := context.WithCancel(ctx)
	observed, err := through(2).Observe(seeing, &v3electionpb.LeaderRequest{Name: name})
	must(t, "observe", err)
	sees := func(value string) {
		t.Helper()
		r, err := observed.Recv()
		must(t, "observe", err)
		if string(r.Kv.Value) != value {
			t.Errorf("saw %q, want %q", r.Kv.Value, value)
		}
	}
	first, err := through(0).Campaign(ctx, &v3electionpb.CampaignRequest{Name: name, Value: []byte("a")})
	must(t, "campaign", err)
	sees("a")
	won := make(chan error, 1)
	go func() {
		_, err := through(1).Campaign(ctx, &v3electionpb.CampaignRequest{Name: name, Value: []byte("b")})
		won <- err
	}()
	_, err = through(1).Proclaim(ctx, &v3electionpb.ProclaimRequest{Leader: first.Leader, Value: []byte("a2")})
	must(t, "proclaim", err)
	sees("a2")
	l, err := through(2).Leader(ctx, &v3electionpb.LeaderRequest{Name: name})
	if err != nil || string(l.Kv.Value) != "a2" {
		t.Errorf("leader: %v, %v", l, err)
	}
	_, err = through(2).Resign(ctx, &v3electionpb.ResignRequest{Leader: first.Leader})
	must(t, "resign", err)
	must(t, "campaign of the second", <-won)
	sees("b")
	_, err = through(0).Proclaim(ctx, &v3electionpb.ProclaimRequest{Leader: first.Leader, Value: []byte("a3")})
	wantText(t, "proclaim after resigning", err, "election: not leader")
	_, err = through(0).Proclaim(ctx, &v3electionpb.ProclaimRequest{})
	wantText(t, "proclaim without leader", err, `"leader" field must be provided`)
	stop()
	if _, err := observed.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("observe after its end: %v", err)
	}
}
