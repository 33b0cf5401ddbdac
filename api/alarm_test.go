package api

import (
	"context"
	"errors"
	"testing"

	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fakeGuard refuses with what it holds.
type fakeGuard struct {
	change, grow error
	asked        int
	cleared      int
}

func (g *fakeGuard) Change() error { return g.change }
func (g *fakeGuard) Cleared()      { g.cleared++ }
func (g *fakeGuard) Quota() int64  { return 12345 }
func (g *fakeGuard) Grow(_ context.Context, bytes int) error {
	g.asked += bytes
	return g.grow
}

func TestGuardAtTheDoor(t *testing.T) {
	g := &fakeGuard{}
	f := newFixture(t, func(c *Config) { c.Guard = g })
	ctx := context.Background()
	put, get, del := clientv3.OpPut("k", "v"), clientv3.OpGet("k"), clientv3.OpDelete("k")
	requests := map[string]func() error{
		"put":     func() error { _, err := f.client.Put(ctx, "k", "v"); return err },
		"txn put": func() error { _, err := f.client.Txn(ctx).Else(get, put).Commit(); return err },
		"txn nested": func() error {
			_, err := f.client.Txn(ctx).Then(clientv3.OpTxn(nil, nil, []clientv3.Op{put})).Commit()
			return err
		},
		"delete":      func() error { _, err := f.client.Delete(ctx, "k"); return err },
		"txn delete":  func() error { _, err := f.client.Txn(ctx).Then(del).Commit(); return err },
		"compact":     func() error { _, err := f.client.Compact(ctx, 1); return err },
		"get":         func() error { _, err := f.client.Get(ctx, "k"); return err },
		"txn of gets": func() error { _, err := f.client.Txn(ctx).Then(get).Commit(); return err },
	}
	refused := func() (names map[string]codes.Code) {
		names = map[string]codes.Code{}
		for name, do := range requests {
			if err := do(); err != nil {
				var coded rpctypes.EtcdError
				require.ErrorAs(t, err, &coded, name)
				names[name] = coded.Code()
			}
		}
		return names
	}
	_, err := f.client.Put(ctx, "k", "v")
	require.NoError(t, err)
	require.Positive(t, g.asked)
	require.Empty(t, refused())
	g.grow = rpctypes.ErrGRPCNoSpace
	require.Equal(t, map[string]codes.Code{"put": codes.ResourceExhausted, "txn put": codes.ResourceExhausted, "txn nested": codes.ResourceExhausted}, refused())
	g.change = rpctypes.ErrGRPCCorrupt
	require.Equal(t, map[string]codes.Code{
		"put": codes.DataLoss, "txn put": codes.DataLoss, "txn nested": codes.DataLoss,
		"delete": codes.DataLoss, "txn delete": codes.DataLoss, "compact": codes.DataLoss,
	}, refused(), "reads go on, as in etcd")
}

func TestAlarms(t *testing.T) {
	g := &fakeGuard{}
	var cluster *fakeCluster
	f := newFixture(t, func(c *Config) { c.Guard, cluster = g, c.Cluster.(*fakeCluster) })
	ctx := context.Background()
	ask := func(action pb.AlarmRequest_AlarmAction, member uint64, kind pb.AlarmType) []*pb.AlarmMember {
		t.Helper()
		resp, err := pb.NewMaintenanceClient(f.client.ActiveConnection()).Alarm(ctx, &pb.AlarmRequest{Action: action, MemberID: member, Alarm: kind})
		require.NoError(t, err)
		return resp.Alarms
	}
	require.Empty(t, ask(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE))
	require.Empty(t, ask(pb.AlarmRequest_ACTIVATE, 5, pb.AlarmType_NONE))
	require.Empty(t, ask(pb.AlarmRequest_DEACTIVATE, 5, pb.AlarmType_NOSPACE), "it does not stand")
	require.Zero(t, g.cleared)
	require.Len(t, ask(pb.AlarmRequest_ACTIVATE, 5, pb.AlarmType_NOSPACE), 1)
	cluster.alarms = append(cluster.alarms, &kvdpb.Alarm{Member: 5, Type: kvdpb.Alarm_NO_SPACE, Cause: kvdpb.Alarm_DISK})
	require.Len(t, ask(pb.AlarmRequest_GET, 0, pb.AlarmType_NOSPACE), 1, "clients see no causes")
	require.Empty(t, ask(pb.AlarmRequest_GET, 0, pb.AlarmType_CORRUPT))
	st, err := f.client.Status(ctx, f.addr)
	require.NoError(t, err)
	require.Len(t, st.Errors, 1)
	require.Contains(t, st.Errors[0], "NOSPACE")
	require.EqualValues(t, 12345, st.DbSizeQuota)
	require.Len(t, ask(pb.AlarmRequest_DEACTIVATE, 5, pb.AlarmType_NOSPACE), 1)
	require.Equal(t, 1, g.cleared)
	require.Empty(t, cluster.alarms)

	_, err = pb.NewMaintenanceClient(f.client.ActiveConnection()).Alarm(ctx, &pb.AlarmRequest{Action: 9})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	cluster.barrier = errors.New("broken")
	_, err = f.client.AlarmList(ctx)
	require.Error(t, err)
}

func TestClusterErrors(t *testing.T) {
	ctx := context.Background()
	gone, cancel := context.WithCancel(ctx)
	cancel()
	require.Equal(t, codes.Canceled, status.Code(clusterError(gone, errors.New("x"))))
	require.Equal(t, rpctypes.ErrGRPCTimeout, clusterError(ctx, context.DeadlineExceeded))
	require.Equal(t, rpctypes.ErrGRPCStopped, clusterError(ctx, placement.ErrClosed))
	require.Equal(t, rpctypes.ErrGRPCNotLeader, clusterError(ctx, rpctypes.ErrGRPCNotLeader))
	require.Equal(t, codes.FailedPrecondition, status.Code(clusterError(ctx, &placement.RejectedError{Reason: "no"})))
	require.Equal(t, codes.Unknown, status.Code(clusterError(ctx, errors.New("x"))))
}

func TestMoveLeader(t *testing.T) {
	var cluster *fakeCluster
	f := newFixture(t, func(c *Config) { cluster = c.Cluster.(*fakeCluster) })
	ctx := context.Background()
	cluster.setLeader(6)
	_, err := f.client.MoveLeader(ctx, 6)
	require.ErrorIs(t, err, rpctypes.ErrNotLeader)
	cluster.setLeader(5)
	_, err = f.client.MoveLeader(ctx, 9)
	require.ErrorIs(t, err, rpctypes.ErrBadLeaderTransferee)
	_, err = f.client.MoveLeader(ctx, 5)
	require.NoError(t, err, "it is there already")
	require.Zero(t, cluster.moved)
	_, err = f.client.MoveLeader(ctx, 6)
	require.NoError(t, err)
	require.EqualValues(t, 6, cluster.moved)
}

func TestDowngrade(t *testing.T) {
	f := newFixture(t, nil)
	ctx := context.Background()
	for v, want := range map[string]error{
		"3": rpctypes.ErrWrongDowngradeVersionFormat, "three.six": rpctypes.ErrWrongDowngradeVersionFormat,
		"3.6.0.1": rpctypes.ErrWrongDowngradeVersionFormat, "3.-6": rpctypes.ErrWrongDowngradeVersionFormat,
		"3.5": rpctypes.ErrInvalidDowngradeTargetVersion, "3.7.0": rpctypes.ErrInvalidDowngradeTargetVersion,
		"2.6": rpctypes.ErrInvalidDowngradeTargetVersion,
	} {
		_, err := f.client.Downgrade(ctx, clientv3.DowngradeValidate, v)
		require.ErrorIs(t, err, want, v)
	}
	_, err := f.client.Downgrade(ctx, clientv3.DowngradeCancel, "")
	require.ErrorIs(t, err, rpctypes.ErrNoInflightDowngrade)
	resp, err := f.client.Downgrade(ctx, clientv3.DowngradeValidate, "3.6")
	require.NoError(t, err)
	require.Equal(t, "3.7", resp.Version)
	_, err = f.client.Downgrade(ctx, clientv3.DowngradeEnable, "3.6.0")
	require.NoError(t, err)
	st, err := f.client.Status(ctx, f.addr)
	require.NoError(t, err)
	require.Equal(t, "3.6.0", st.DowngradeInfo.TargetVersion)
	require.True(t, st.DowngradeInfo.Enabled)
	_, err = f.client.Downgrade(ctx, clientv3.DowngradeValidate, "3.6")
	require.ErrorIs(t, err, rpctypes.ErrDowngradeInProcess)
	_, err = f.client.Downgrade(ctx, clientv3.DowngradeCancel, "")
	require.NoError(t, err)
}
