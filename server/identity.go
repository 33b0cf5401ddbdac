package server

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/server/config"
	"github.com/kvd-io/kvd/server/datadir"
)

// identity is who this process is.
type identity struct {
	cluster, member, incarnation uint64
	// birth is what the flags say of the cluster's beginning; nil where they no
	// longer say what the directory was stamped with, which is ordinary: members
	// and URLs change over the years.
	birth *placement.Cluster
	// fresh: this is the first start of the directory.
	fresh bool
}

// identify finds out who this process is: by its directory or, if that is new,
// by the flags, which are then stamped into it.
func identify(ctx context.Context, cfg *config.Config, dir *datadir.Dir) (*identity, error) {
	incarnation, err := datadir.NewIncarnation()
	if err != nil {
		return nil, err
	}
	stamp := dir.Stamp()
	if stamp != nil {
		if id, err := restoredIdentity(cfg, dir, stamp, incarnation); id != nil || err != nil {
			return id, err
		}
	}
	birth, err := bornFrom(ctx, cfg)
	if stamp == nil {
		if err != nil {
			return nil, err
		}
		me := birth.Member(cfg.Name)
		if err := dir.WriteStamp(datadir.Stamp{ClusterID: datadir.ID(birth.ID), MemberID: datadir.ID(me.Id), Name: cfg.Name}); err != nil {
			return nil, err
		}
		return &identity{cluster: birth.ID, member: me.Id, incarnation: incarnation, birth: birth, fresh: true}, nil
	}
	id := &identity{cluster: uint64(stamp.ClusterID), member: uint64(stamp.MemberID), incarnation: incarnation}
	switch {
	case err == nil && birth.ID == id.cluster:
		id.birth = birth
	case stamp.Name != cfg.Name:
		// Either may change alone: members are renamed, and flags of a cluster's
		// beginning go stale. Both together are a mix-up of directories.
		return nil, fmt.Errorf("data directory %q belongs to member %q (%x) of cluster %x, not to a member %q of the cluster that the flags describe; give this member a directory of its own",
			cfg.DataDir, stamp.Name, id.member, id.cluster, cfg.Name)
	}
	return id, nil
}

// bornFrom reads the flags that describe a cluster's beginning.
func bornFrom(ctx context.Context, cfg *config.Config) (*placement.Cluster, error) {
	b, err := cfg.Bootstrap(ctx)
	if err != nil {
		return nil, err
	}
	if !b.New {
		return nil, fmt.Errorf("--initial-cluster-state %q with the fresh data directory %q: joining a running cluster is not supported yet",
			config.StateExisting, cfg.DataDir)
	}
	return placement.Bootstrap(b.Members.String(), b.Token, cfg.InitialSplitKeys)
}

// walDir is where the raft log's write-ahead log lies; empty for beside the log.
func walDir(cfg *config.Config) (string, error) {
	if cfg.WALDir == "" {
		return "", nil
	}
	dir, err := filepath.Abs(cfg.WALDir)
	if err != nil {
		return "", fmt.Errorf("--wal-dir: %w", err)
	}
	return dir, nil
}
