package server

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/kvd-io/kvd/api"
	"github.com/kvd-io/kvd/backup"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/version"
)

// openBackup makes what saves snapshots of the whole store on this member, and
// serves the replicas here to other members that do.
func (m *Member) openBackup(context.Context) error {
	saver, err := backup.New(backup.Config{
		Member: m.id.member, Dir: m.dir.Join("backup"), Cluster: backupCluster{sequencer{m.placement}, m}, Replicas: soundReplicas{m},
		Alarms:         func() []*pb.AlarmMember { return api.AlarmMembers(m.placement.StandingAlarms()) },
		ClusterVersion: version.Cluster(), Logger: m.log.Named("backup"),
	})
	if err != nil {
		return err
	}
	m.backup = saver
	saver.Register(m.mesh.Registrar())
	return nil
}

// soundReplicas are this member's, but for those that were found to differ from the
// others: what they hold must not get into a snapshot.
type soundReplicas struct{ m *Member }

func (s soundReplicas) Replica(id uint64) (*shard.Replica, bool) {
	if s.m.placement.View().Corrupt(id, s.m.id.member) {
		return nil, false
	}
	return s.m.manager.Replica(id)
}

// backupCluster is this member in the words of package backup.
type backupCluster struct {
	sequencer
	m *Member
}

func (c backupCluster) Resolve(ctx context.Context, rev int64, shards []uint64, answer func(shard.Resolved)) {
	c.m.router.Resolve(ctx, rev, shards, answer)
}

func (c backupCluster) Barrier(ctx context.Context) error { return c.m.placement.Barrier(ctx) }

func (c backupCluster) Conn(member uint64) (grpc.ClientConnInterface, error) {
	conn, err := c.m.mesh.Conn(member)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

var (
	_ backup.Cluster  = backupCluster{}
	_ backup.Replicas = soundReplicas{}
)
