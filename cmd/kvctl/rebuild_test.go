package main

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// fakeMembers lists one member.
type fakeMembers struct {
	etcdserverpb.UnimplementedClusterServer
}

func (fakeMembers) MemberList(context.Context, *etcdserverpb.MemberListRequest) (*etcdserverpb.MemberListResponse, error) {
	return &etcdserverpb.MemberListResponse{Members: []*etcdserverpb.Member{{ID: 0xabc, Name: "m1"}}}, nil
}

func TestShardRebuild(t *testing.T) {
	address := serveAlso(t, &fakeAdmin{shards: twoShards()}, func(s *grpc.Server) { etcdserverpb.RegisterClusterServer(s, fakeMembers{}) })
	out, errs, code := kvctl("--endpoints", address, "shard", "rebuild", "2")
	require.Zero(t, code, errs)
	require.Equal(t, "Shard 2 is rebuilt on m1 as replica 7\n", out)
	out, errs, code = kvctl("--endpoints", address, "shard", "rebuild", "2", "--no-wait")
	require.Zero(t, code, errs)
	require.Equal(t, "Shard 2 begins to be rebuilt on m1\n", out)
	_, errs, code = kvctl("--endpoints", address, "shard", "rebuild", "2", "--member", "m1")
	require.NotZero(t, code)
	require.Contains(t, errs, "shard is busy")
	_, errs, code = kvctl("--endpoints", address, "shard", "rebuild", "2", "--member", "m9")
	require.NotZero(t, code)
	require.Contains(t, errs, `there is no member "m9"`)
	_, _, code = kvctl("--endpoints", address, "shard", "rebuild")
	require.NotZero(t, code)
}

func TestCorruptReplicasAreShown(t *testing.T) {
	shards := twoShards()[:1]
	shards[0].Replicas[0].Corrupt = true
	shards[0].Replicas[1].Rebuild = true
	require.Equal(t, "m1 (corrupt), 8e9e05c52164694d (rebuild), m3 (non-voting)", row(shards[0])[5])
	var out bytes.Buffer
	require.NoError(t, showJSON(&out, []*kvdpb.ShardInfo{shards[0]}))
	require.Contains(t, out.String(), `"corrupt":true`)
	require.Contains(t, out.String(), `"rebuild":true`)
}
