package e2e

import (
	"context"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// authLease: a lease is for who may write, or read, all keys that are attached to
// it, and its end asks nobody.
func authLease(t *testing.T, ctx context.Context, e *authEnv) {
	own, err := e.alice.Grant(ctx, 60)
	must(t, "grant", err)
	_, err = e.alice.Put(ctx, "a/lease", "1", clientv3.WithLease(own.ID))
	must(t, "put with an own lease", err)
	_, err = e.alice.TimeToLive(ctx, own.ID, clientv3.WithAttachedKeys())
	must(t, "time to live with own keys", err)
	_, err = e.root.Put(ctx, "b/lease", "1", clientv3.WithLease(own.ID))
	must(t, "put as root", err)
	for _, cli := range e.through {
		_, err = cli.Put(ctx, "a/lease", "2", clientv3.WithLease(own.ID))
		refused(t, "put with a lease of a key of another", err, rpctypes.ErrPermissionDenied)
		_, err = cli.Txn(ctx).Then(clientv3.OpPut("a/lease", "2", clientv3.WithLease(own.ID))).Commit()
		refused(t, "the same in a transaction", err, rpctypes.ErrPermissionDenied)
		_, err = cli.Revoke(ctx, own.ID)
		refused(t, "revoke", err, rpctypes.ErrPermissionDenied)
		_, err = cli.TimeToLive(ctx, own.ID, clientv3.WithAttachedKeys())
		refused(t, "time to live with keys", err, rpctypes.ErrPermissionDenied)
		_, err = cli.TimeToLive(ctx, own.ID)
		must(t, "time to live", err)
		_, err = cli.Put(ctx, "a/lease", "2", clientv3.WithLease(own.ID+1))
		refused(t, "put with an unknown lease", err, rpctypes.ErrLeaseNotFound)
	}
	got, err := e.root.Get(ctx, "a/lease")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "1" || got.Kvs[0].Lease != int64(own.ID) {
		t.Fatalf("after refusals: %v, %v", got, err)
	}
	_, err = e.root.Revoke(ctx, own.ID)
	must(t, "revoke as root", err)
	got, err = e.root.Get(ctx, "a/lease")
	if err != nil || len(got.Kvs) != 0 {
		t.Fatalf("after the lease: %v, %v", got, err)
	}

	short, err := e.alice.Grant(ctx, 2)
	must(t, "grant", err)
	put, err := e.alice.Put(ctx, "a/lease", "3", clientv3.WithLease(short.ID))
	must(t, "put", err)
	r, ok := <-e.alice.Watch(ctx, "a/lease", clientv3.WithRev(put.Header.Revision+1))
	if !ok {
		t.Fatalf("the lease did not end: %v", ctx.Err())
	}
	must(t, "watch", r.Err())
	if len(r.Events) != 1 || r.Events[0].Type != mvccpb.DELETE {
		t.Fatalf("events %v", r.Events)
	}
}
