package backup

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/shard"
)

// Cluster is what a save needs to know of the cluster.
type Cluster interface {
	// Current is the sequencer's; see shard.Sequencer.
	Current(ctx context.Context) (shard.Grant, error)
	// Barrier returns once this member has applied what placement had decided when
	// it was called.
	Barrier(ctx context.Context) error
	// View is what this member has applied of placement.
	View() *placement.View
	// Resolve asks the owners of shards up to which index all writes up to rev are
	// applied; it calls answer, from any goroutine, for each that can tell.
	Resolve(ctx context.Context, rev int64, shards []uint64, answer func(shard.Resolved))
	// Conn is the bulk connection to a member.
	Conn(member uint64) (grpc.ClientConnInterface, error)
}

// Replicas are the replicas on this member.
type Replicas interface {
	// Replica returns the running replica of a shard; ok is false if there is none.
	Replica(shard uint64) (r *shard.Replica, ok bool)
}

// Config is what a Saver is made of.
type Config struct {
	// Member is this member's id.
	Member uint64
	// Dir is where temporary files go. It belongs to the saver alone and is emptied
	// when it begins.
	Dir      string
	Cluster  Cluster
	Replicas Replicas
	// Alarms returns the alarms that are raised. It may be nil.
	Alarms func() []*etcdserverpb.AlarmMember
	// ClusterVersion is the etcd cluster version that the file tells, such as "3.7.0".
	ClusterVersion string
	Logger         *zap.Logger
}

func (c *Config) fill() error {
	var errs []error
	if c.Member == 0 {
		errs = append(errs, errors.New("backup: member id is zero"))
	}
	if c.Dir == "" {
		errs = append(errs, errors.New("backup: no directory for temporary files"))
	}
	if c.Cluster == nil || c.Replicas == nil {
		errs = append(errs, errors.New("backup: Cluster and Replicas are needed"))
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return errors.Join(errs...)
}
