package backup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/backup/etcdfile"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// RestoreConfig says what to restore, and into what. Fields are etcd's flags.
type RestoreConfig struct {
	// File is the snapshot, written by kvd or etcd.
	File string
	Name string
	// DataDir must not exist, or be empty; WALDir, if given, must not exist.
	DataDir, WALDir     string
	InitialCluster      string
	InitialClusterToken string
	PeerURLs            []string
	SkipHashCheck       bool
	// BumpRevision and MarkCompacted are given both or neither: the new cluster's
	// revision is that much higher, and everything before it is compacted, so that
	// clients which had seen later revisions notice.
	BumpRevision  uint64
	MarkCompacted bool
	// ShardBytes is about how large shards begin; 0 means DefaultShardBytes.
	ShardBytes int64
	Logger     *zap.Logger
}

// Restored tells what a restore made.
type Restored struct {
	ClusterID, MemberID uint64
	Revision, Compacted int64
	Shards              int
	Bytes               int64
	Leases              int
}

// Restore makes the data directory of one member out of a snapshot file. Run with
// the same file and flags for each member, it makes a cluster that begins with
// the state of the file, under ids of its own.
//
//  1. The file is read as a whole and checked, without a byte being written.
//  2. Where to cut the key space, and the new ids, follow from file and flags
//     alone. Members and shards are the same on all members; so are, of one shard, all
//     replicas' stores: applied index 0, and records that are a function
//     of descriptor and revision. Such a group begins like one that was split
//     off: its first entry fails on a replica that has no such store.
//  3. The stores of this member's replicas are built in place, under a mark that
//     keeps kvd from starting on them. The directory's stamp is written last: with
//     it the directory is a member's, without it kvd refuses it, and the next
//     restore clears it away. A directory that has a stamp, or anything that
//     no restore left there, is never touched.
//
// Revisions, versions, leases, users and roles are those of the file; members, ids
// and alarms are not. The time of leases begins anew when the cluster begins, as
// after a restart of etcd. Memory is bounded, whatever the file's size, but for
// some 200 bytes a lease.
func Restore(ctx context.Context, cfg RestoreConfig) (*Restored, error) {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.ShardBytes == 0 {
		cfg.ShardBytes = DefaultShardBytes
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	r, err := etcdfile.Open(cfg.File)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // it was only read
	if !cfg.SkipHashCheck {
		if err := r.VerifySum(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", cfg.File, err)
		}
	}
	s, err := look(ctx, r, cfg.ShardBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.File, err)
	}
	if cfg.BumpRevision > 0 {
		if cfg.BumpRevision > math.MaxInt64/4 {
			return nil, fmt.Errorf("--bump-revision %d is too large", cfg.BumpRevision)
		}
		s.revision += int64(cfg.BumpRevision)
		s.CompactRevision = s.revision
	}
	c, err := cfg.cluster(ctx, r, s)
	if err != nil {
		return nil, err
	}
	me := c.Member(cfg.Name)
	if err := (&builder{cfg: &cfg, reader: r, survey: s, cluster: c, member: me.Id}).build(ctx); err != nil {
		return nil, err
	}
	return &Restored{
		ClusterID: c.ID, MemberID: me.Id, Revision: s.revision, Compacted: s.CompactRevision, Shards: len(c.Init.Shards), Bytes: s.bytes,
		Leases: s.leases,
	}, nil
}

// check reports every problem of the flags at once.
func (c *RestoreConfig) check() error {
	var errs []error
	if c.MarkCompacted != (c.BumpRevision > 0) {
		errs = append(errs, errors.New("--mark-compacted required if --bump-revision > 0, and the other way round"))
	}
	if c.ShardBytes < 1<<10 {
		errs = append(errs, fmt.Errorf("--shard-bytes %d is too small", c.ShardBytes))
	}
	if c.Name == "" || c.DataDir == "" {
		errs = append(errs, errors.New("no name or no data directory"))
	}
	members, err := types.NewURLsMap(c.InitialCluster)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("--initial-cluster %q: %w", c.InitialCluster, err))...)
	}
	urls, err := types.NewURLs(c.PeerURLs)
	switch mine, ok := members[c.Name]; {
	case err != nil:
		errs = append(errs, fmt.Errorf("--initial-advertise-peer-urls: %w", err))
	case !ok:
		errs = append(errs, fmt.Errorf("couldn't find local name %q in the initial cluster configuration", c.Name))
	case !slices.Equal(slices.Sorted(slices.Values(mine.StringSlice())), slices.Sorted(slices.Values(urls.StringSlice()))):
		errs = append(errs, fmt.Errorf("--initial-cluster gives %q as %s, and --initial-advertise-peer-urls is %s",
			c.Name, strings.Join(mine.StringSlice(), ","), strings.Join(urls.StringSlice(), ",")))
	}
	return errors.Join(errs...)
}

// cluster says how the new cluster begins: a function of file and flags, but for
// the secret of simple tokens, of which the first member's counts.
func (c *RestoreConfig) cluster(ctx context.Context, r *etcdfile.Reader, s *survey) (*placement.Cluster, error) {
	sum, err := r.Sum(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.File, err)
	}
	// The same members and token with another file are another cluster.
	token := fmt.Sprintf("%s\x00restored %x %d", c.InitialClusterToken, sum, c.BumpRevision)
	cluster, err := placement.Bootstrap(c.InitialCluster, token, s.splits)
	if err != nil {
		return nil, err
	}
	init := cluster.Init
	for _, d := range init.Shards {
		d.Restored = true
	}
	init.Revision, init.CompactRevision = s.revision, s.CompactRevision
	if init.Auth, err = authOf(&s.Auth); err != nil {
		return nil, fmt.Errorf("%s: users and roles: %w", c.File, err)
	}
	return cluster, nil
}

// authOf makes kvd's state of users and roles.
func authOf(a *etcdfile.Auth) (*kvdpb.AuthState, error) {
	p := &kvdpb.AuthState{Enabled: a.Enabled, Revision: max(a.Revision, 1)}
	if a.Enabled {
		p.Secret = make([]byte, authstate.SecretBytes)
		if _, err := rand.Read(p.Secret); err != nil {
			return nil, fmt.Errorf("draw a secret: %w", err)
		}
	}
	for _, u := range a.Users {
		roles := slices.Sorted(slices.Values(u.Roles))
		p.Users = append(p.Users, &kvdpb.AuthUser{
			Name: string(u.Name), PasswordHash: u.Password, NoPassword: u.Options.GetNoPassword(), Roles: roles, Generation: p.Revision,
		})
	}
	for _, r := range a.Roles {
		role := &kvdpb.AuthRole{Name: string(r.Name)}
		for _, perm := range r.KeyPermission {
			role.Permissions = append(role.Permissions, &kvdpb.AuthPermission{
				Type: kvdpb.AuthPermission_Type(perm.PermType), Key: perm.Key, RangeEnd: perm.RangeEnd,
			})
		}
		slices.SortFunc(role.Permissions, func(a, b *kvdpb.AuthPermission) int { return slices.Compare(a.Key, b.Key) })
		p.Roles = append(p.Roles, role)
	}
	if _, err := authstate.FromProto(p); err != nil {
		return nil, fmt.Errorf("%w: %w", etcdfile.ErrCorrupt, err)
	}
	return p, nil
}

// AuthContents is the other way: users and roles as a snapshot file keeps them.
func AuthContents(s *authstate.State) etcdfile.Auth {
	return etcdfile.Auth{Enabled: s.Enabled(), Revision: s.Revision(), Users: usersOf(s), Roles: rolesOf(s)}
}
