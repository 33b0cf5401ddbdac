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
	// replica is this member's replica in the placement group if it joined a
	// running cluster, zero otherwise; peers are the members that it found there.
	replica uint64
	peers   []datadir.Peer
}

// identify finds out who this process is: by its directory or, if that is new,
// by the flags, which are then stamped into it. A process that joins a running
// cluster asks that.
func identify(ctx context.Context, cfg *config.Config, dir *datadir.Dir) (*identity, error) {
	incarnation, err := datadir.NewIncarnation()
	if err != nil {
		return nil, err
	}
	b, err := cfg.Bootstrap(ctx)
	stamp := dir.Stamp()
	if stamp != nil {
		if id, err := restoredIdentity(cfg, dir, stamp, incarnation); id != nil || err != nil {
			return id, err
		}
	}
	if stamp == nil {
		if err != nil {
			return nil, err
		}
		id, s, err := firstIdentity(ctx, cfg, b)
		if err != nil {
			return nil, err
		}
		id.incarnation, id.fresh = incarnation, true
		return id, dir.WriteStamp(*s)
	}
	id := &identity{cluster: uint64(stamp.ClusterID), member: uint64(stamp.MemberID), incarnation: incarnation, replica: stamp.Replica, peers: stamp.Peers}
	var birth *placement.Cluster
	if err == nil && b.New {
		birth, err = placement.Bootstrap(b.Members.String(), b.Token, cfg.InitialSplitKeys)
	}
	switch {
	case err == nil && birth != nil && birth.ID == id.cluster:
		id.birth = birth
	case stamp.Name != cfg.Name:
		// Either may change alone: members are renamed, and flags of a cluster's
		// beginning go stale. Both together are a mix-up of directories.
		return nil, fmt.Errorf("data directory %q belongs to member %q (%x) of cluster %x, not to a member %q of the cluster that the flags describe; give this member a directory of its own",
			cfg.DataDir, stamp.Name, id.member, id.cluster, cfg.Name)
	}
	return id, nil
}

// firstIdentity is the identity of a fresh directory, and the stamp for it.
func firstIdentity(ctx context.Context, cfg *config.Config, b *config.Bootstrap) (*identity, *datadir.Stamp, error) {
	if b.New {
		birth, err := placement.Bootstrap(b.Members.String(), b.Token, cfg.InitialSplitKeys)
		if err == nil {
			err = refuseReborn(ctx, cfg, birth)
		}
		if err != nil {
			return nil, nil, err
		}
		me := birth.Member(cfg.Name)
		return &identity{cluster: birth.ID, member: me.Id, birth: birth},
			&datadir.Stamp{ClusterID: datadir.ID(birth.ID), MemberID: datadir.ID(me.Id), Name: cfg.Name}, nil
	}
	j, err := join(ctx, cfg, b)
	if err != nil {
		return nil, nil, err
	}
	s := &datadir.Stamp{ClusterID: datadir.ID(j.id), MemberID: datadir.ID(j.me.Id), Name: cfg.Name, Replica: j.me.Replica}
	for _, m := range j.members {
		s.Peers = append(s.Peers, datadir.Peer{MemberID: datadir.ID(m.Id), PeerURLs: m.PeerUrls})
	}
	return &identity{cluster: j.id, member: j.me.Id, replica: j.me.Replica, peers: s.Peers}, s, nil
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
