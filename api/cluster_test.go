package api

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestMembersChange(t *testing.T) {
	ms := &fakeMembership{}
	f := newFixture(t, func(c *Config) { c.Membership = ms })
	ctx := context.Background()
	added, err := f.client.MemberAddAsLearner(ctx, []string{"http://x:1"})
	require.NoError(t, err)
	require.EqualValues(t, 7, added.Member.ID)
	require.True(t, added.Member.IsLearner)
	require.Len(t, added.Members, 2)
	require.EqualValues(t, 5, added.Header.MemberId)
	removed, err := f.client.MemberRemove(ctx, 7)
	require.NoError(t, err)
	require.Len(t, removed.Members, 1)
	updated, err := f.client.MemberUpdate(ctx, 5, []string{"http://y:1"})
	require.NoError(t, err)
	require.Equal(t, []string{"http://y:1"}, updated.Members[0].PeerURLs)
	promoted, err := f.client.MemberPromote(ctx, 9)
	require.NoError(t, err)
	require.EqualValues(t, 9, promoted.Members[0].ID)

	for _, c := range []struct{ err, want error }{
		{rpctypes.ErrGRPCMemberNotEnoughStarted, rpctypes.ErrMemberNotEnoughStarted},
		{errors.New("placement: no quorum"), rpctypes.ErrTimeout},
	} {
		ms.err = c.err
		_, err = f.client.MemberRemove(ctx, 7)
		require.Equal(t, c.want, err)
	}
}

func TestALearnerServesLittle(t *testing.T) {
	f := newFixture(t, nil)
	ctx := context.Background()
	f.cluster.learner.Store(true)
	for name, call := range map[string]func() error{
		"put":         func() error { _, err := f.client.Put(ctx, "k", "v"); return err },
		"get":         func() error { _, err := f.client.Get(ctx, "k"); return err },
		"member list": func() error { _, err := f.client.MemberList(ctx); return err },
		"watch":       func() error { w := <-f.client.Watch(ctx, "k"); return w.Err() },
	} {
		require.ErrorContains(t, call(), "rpc not supported for learner", name)
	}
	_, err := f.client.Get(ctx, "k", clientv3.WithSerializable())
	require.NoError(t, err)
	_, err = f.client.Status(ctx, f.addr)
	require.NoError(t, err)
	require.True(t, forLearner(&pb.StatusRequest{}))
	f.cluster.learner.Store(false)
	_, err = f.client.Put(ctx, "k", "v")
	require.NoError(t, err)
}
