package api

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestLockAndElectionErrorsAreEtcds(t *testing.T) {
	f := newFixture(t, nil)
	ctx := context.Background()
	lock := v3lockpb.NewLockClient(f.client.ActiveConnection())
	f.router.err = rpctypes.ErrGRPCPermissionDenied
	for name, call := range map[string]func() error{
		"unlock": func() error { _, err := lock.Unlock(ctx, &v3lockpb.UnlockRequest{Key: []byte("k")}); return err },
		"lock":   func() error { _, err := lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("k"), Lease: 3}); return err },
		"campaign": func() error {
			_, err := v3electionpb.NewElectionClient(f.client.ActiveConnection()).Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("k"), Lease: 3})
			return err
		},
		"leader": func() error {
			_, err := v3electionpb.NewElectionClient(f.client.ActiveConnection()).Leader(ctx, &v3electionpb.LeaderRequest{})
			return err
		},
		"observe": func() error {
			stream, err := v3electionpb.NewElectionClient(f.client.ActiveConnection()).Observe(ctx, &v3electionpb.LeaderRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
	} {
		err := call()
		require.Equal(t, codes.PermissionDenied, status.Code(err), "%s: %v", name, err)
		require.Equal(t, rpctypes.ErrorDesc(rpctypes.ErrGRPCPermissionDenied), rpctypes.ErrorDesc(err), name)
	}
	f.router.err = nil
	_, err := v3electionpb.NewElectionClient(f.client.ActiveConnection()).Proclaim(ctx, &v3electionpb.ProclaimRequest{})
	require.ErrorContains(t, err, `"leader" field must be provided`)
	_, err = lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("k")})
	require.Equal(t, rpctypes.ErrorDesc(rpctypes.ErrGRPCLeaseExist), rpctypes.ErrorDesc(err), "a call without lease grants one")
}

// TestObserveEndsWithTheServer: a stream that waits for a leader does not hold up a
// member that stops, and says why it ended.
func TestObserveEndsWithTheServer(t *testing.T) {
	f := newFixture(t, nil)
	f.openWatch()
	stream, err := v3electionpb.NewElectionClient(f.client.ActiveConnection()).Observe(context.Background(), &v3electionpb.LeaderRequest{Name: []byte("e")})
	require.NoError(t, err)
	watch := f.server.stats.all["/"+pb.Watch_ServiceDesc.ServiceName+"/Watch"]
	require.Eventually(t, func() bool { return watch.begun.Load() == 1 }, time.Minute, time.Millisecond)
	f.server.Stop(time.Minute)
	_, err = stream.Recv()
	require.Equal(t, rpctypes.ErrorDesc(rpctypes.ErrGRPCStopped), rpctypes.ErrorDesc(err))
}

// TestCleanUpIsBounded: what a call does after its caller went away ends.
func TestCleanUpIsBounded(t *testing.T) {
	f := newFixture(t, nil)
	s := &concurrencyServer{inner: f.server.inner, stopping: f.server.ctx, grace: time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	c, wait, done := s.client(ctx)
	defer done()
	cancel()
	<-wait.Done()
	<-c.Ctx().Done()
}
